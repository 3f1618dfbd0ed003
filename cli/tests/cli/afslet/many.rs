//! Many runs: large files both ways, many streams on one connection, and nothing that grows with their number.

use super::limits::memory;
use super::support::{Afslet, descendants, execute, file, frame};
use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::{
    DiffMode, FileChunk, FileEntryBegin, FileEntryEnd, FileType, StartRequest,
};
use tonic::Code;

#[test]
fn large_files_pass_both_ways_without_being_held() {
    const CHUNKS: u64 = 96;
    const CHUNK: usize = 1 << 20;
    let afslet = Afslet::new(&["--warm", "0"]);
    let start = StartRequest {
        memory_mb: 500,
        ..afslet
            .sh("md5sum < /data; head -c 20000000 /dev/urandom > /noise; md5sum < /noise; rm /data")
    };
    let piece: Vec<u8> = (0..CHUNK).map(|at| (at * 7 % 251) as u8).collect();
    let begin = FileEntryBegin {
        path: "data".into(),
        r#type: FileType::File.into(),
        ..FileEntryBegin::default()
    };
    let chunk = frame(Asked::FileChunk(FileChunk {
        data: piece.clone(),
    }));
    let head = [frame(Asked::Start(start)), frame(Asked::FileBegin(begin))];
    let end = [frame(Asked::FileEnd(FileEntryEnd {}))];
    let chunks = (0..CHUNKS).map(move |_| chunk.clone());
    let frames = head.into_iter().chain(chunks).chain(end);
    let before = memory(afslet.pid());
    let mut client = afslet.client();
    let ran = afslet.runtime.block_on(async {
        let mut ran = super::Ran::default();
        let answers = client.execute(futures::stream::iter(frames)).await;
        super::support::collect(&mut answers.unwrap().into_inner(), &mut ran).await;
        ran
    });
    assert!(ran.result().success, "{:?} {:?}", ran.result, ran.status);
    let sums: Vec<&str> = ran
        .out
        .split_whitespace()
        .filter(|word| *word != "-")
        .collect();
    let all: Vec<u8> = (0..CHUNKS).flat_map(|_| piece.iter().copied()).collect();
    assert_eq!(sums[0], md5(&afslet, &all));
    assert!(ran.tar.len() > 19_000_000);
    let mut noise = Vec::new();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(ran.tar.as_slice()));
    for found in archive.entries().unwrap() {
        let mut found = found.unwrap();
        if found.path().unwrap().as_ref() == std::path::Path::new("noise") {
            std::io::Read::read_to_end(&mut found, &mut noise).unwrap();
        }
    }
    assert_eq!(sums[1], md5(&afslet, &noise));
    // The file was 96 MiB.
    let held = memory(afslet.pid()).saturating_sub(before);
    assert!(held < 64 << 20, "{held}");
    afslet.assert_nothing_left();
}

fn md5(afslet: &Afslet, bytes: &[u8]) -> String {
    let path = afslet.machine.path("summed");
    std::fs::write(&path, bytes).unwrap();
    let said = std::process::Command::new("md5sum")
        .arg(path)
        .output()
        .unwrap();
    crate::machine::text(&said.stdout)[..32].to_owned()
}

#[test]
fn ten_thousand_streams_on_one_connection_starve_nobody() {
    let afslet = Afslet::new(&[
        "--warm",
        "4",
        "--cpu",
        "64",
        "--memory",
        "16384",
        "--runs-max",
        "24",
    ]);
    let (busy, other) = (afslet.client(), afslet.client());
    let start = || frame(Asked::Start(afslet.sh("echo ran; sleep 0.1")));
    let streams: Vec<_> = (0..10_000)
        .map(|_| execute(busy.clone(), vec![start()]))
        .collect();
    let (ran, calm) = afslet.runtime.block_on(async {
        let all = tokio::spawn(futures::future::join_all(streams));
        let mut calm = Vec::new();
        while calm.len() < 5 {
            let ran = execute(other.clone(), vec![start()]).await;
            match ran.code() {
                // As a proxy does it.
                Code::ResourceExhausted => {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
                _ => calm.push(ran),
            }
        }
        (all.await.unwrap(), calm)
    });
    for ran in calm {
        assert_eq!(ran.out, "ran\n", "{ran:?}");
    }
    let done = ran.iter().filter(|ran| ran.done.is_some()).count();
    let refused = ran
        .iter()
        .filter(|ran| ran.code() == Code::ResourceExhausted)
        .count();
    assert_eq!(
        done + refused,
        10_000,
        "{:?}",
        ran.iter().find(|ran| ran.done.is_none())
    );
    // One of its 24 places may be the other client's.
    assert!(done >= 23, "{done}");
}

/// Runs, unless `LAMINA_TEST_RUNS` says otherwise: `LAMINA_TEST_RUNS=10000 cargo test -p lamina-cli --test cli many_runs`.
const RUNS: usize = 2000;
/// Runs before the first count: what is made once is made by then.
const FIRST_RUNS: usize = 60;
/// What an allocator may keep of what it was given back, however many the runs.
const MEMORY_BYTES: u64 = 16 << 20;

#[test]
fn many_runs_leave_nothing_that_grows() {
    let runs = std::env::var("LAMINA_TEST_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let afslet = Afslet::new(&["--warm", "2", "--cpu", "64"]);
    // Rest is when those that are ready are there again.
    let at_rest = || {
        afslet.assert_nothing_left_but(2);
        Counts::of(&afslet)
    };
    run_many(&afslet, FIRST_RUNS);
    let before = at_rest();
    run_many(&afslet, runs);
    let after = at_rest();
    println!("{runs} runs: {before:?}, then {after:?}");
    // A worker's descriptors come and go; what leaks does so with every run.
    assert!(
        after.descriptors <= before.descriptors + 8,
        "{before:?} {after:?}"
    );
    assert!(
        after.memory_bytes <= before.memory_bytes + MEMORY_BYTES,
        "{before:?} {after:?}"
    );
    let same = Counts {
        descriptors: before.descriptors,
        memory_bytes: before.memory_bytes,
        ..after.clone()
    };
    assert_eq!(before, same);
}

/// Runs that read a file and write one, every other one with its changes sent, eight at a time.
fn run_many(afslet: &Afslet, runs: usize) {
    use futures::StreamExt as _;
    let client = afslet.client();
    let one = |number: usize| {
        let start = StartRequest {
            diff: match number % 2 {
                0 => DiffMode::None.into(),
                _ => DiffMode::Unspecified.into(),
            },
            ..afslet.sh(&format!("cat /in; echo {number} > /tmp/out"))
        };
        let mut frames = vec![frame(Asked::Start(start))];
        frames.extend(file("in", 0, format!("{number}\n").as_bytes()));
        let run = execute(client.clone(), frames);
        async move { (number, run.await) }
    };
    afslet.runtime.block_on(async {
        let mut ran = futures::stream::iter(0..runs).map(one).buffer_unordered(8);
        while let Some((number, ran)) = ran.next().await {
            assert_eq!(ran.out, format!("{number}\n"), "{ran:?}");
            assert!(ran.done.is_some(), "{ran:?}");
        }
    });
}

/// What an afslet has at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    /// Its own, its spawner's and those of the sandboxes that are ready; so is the memory.
    descriptors: usize,
    memory_bytes: u64,
    processes: usize,
    cgroups: usize,
    mounts: usize,
    files: usize,
}

impl Counts {
    fn of(afslet: &Afslet) -> Self {
        let descriptors =
            |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let children = descendants(afslet.pid());
        let all = children.iter().map(|(pid, _)| *pid).chain([afslet.pid()]);
        Self {
            descriptors: all.clone().map(descriptors).sum(),
            memory_bytes: all.map(memory).sum(),
            processes: children.len(),
            cgroups: afslet.cgroups().len(),
            mounts: afslet.machine.mounted().len(),
            files: afslet.names().len(),
        }
    }
}
