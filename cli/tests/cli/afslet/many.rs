//! Many runs: large files both ways, many streams on one connection, and nothing that grows with their number.

use super::limits::memory;
use super::support::{Afslet, execute, file, frame};
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
fn a_thousand_streams_on_one_connection_starve_nobody() {
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
    let streams: Vec<_> = (0..1000)
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
        1000,
        "{:?}",
        ran.iter().find(|ran| ran.done.is_none())
    );
    assert!(done >= 24, "{done}");
}

#[test]
fn five_hundred_runs_leave_nothing_that_grows() {
    let afslet = Afslet::new(&["--warm", "2", "--cpu", "64"]);
    let client = afslet.client();
    let round = |runs: usize| {
        let one = |number: usize| {
            let script = format!("cat /in; echo {number} > /tmp/out");
            let start = StartRequest {
                diff: match number % 2 {
                    0 => DiffMode::None.into(),
                    _ => DiffMode::Unspecified.into(),
                },
                ..afslet.sh(&script)
            };
            let mut frames = vec![frame(Asked::Start(start))];
            frames.extend(file("in", 0, format!("{number}\n").as_bytes()));
            execute(client.clone(), frames)
        };
        afslet.runtime.block_on(async {
            use futures::StreamExt as _;
            let numbers = futures::stream::iter(0..runs);
            let ran: Vec<_> = numbers
                .map(|number| async move { (number, one(number).await) })
                .buffer_unordered(8)
                .collect()
                .await;
            for (number, ran) in ran {
                assert_eq!(ran.out, format!("{number}\n"), "{ran:?}");
                assert!(ran.done.is_some(), "{ran:?}");
            }
        });
        // As many as before the first run: those that are ready.
        assert!(
            crate::machine::wait_until(|| count(&afslet).1 == 2 && count(&afslet).2 == 2),
            "{:?}",
            count(&afslet)
        );
        (count(&afslet), memory(afslet.pid()))
    };
    let (before, memory_before) = round(60);
    let (after, memory_after) = round(500);
    // A worker's descriptors come and go; what leaks does so with every run.
    assert!(after.0 <= before.0 + 8, "{before:?} {after:?}");
    assert_eq!((after.1, after.2, after.3), (before.1, before.2, before.3));
    assert!(
        memory_after < memory_before + (16 << 20),
        "{memory_before} {memory_after}"
    );
}

/// Descriptors, cgroups in one hierarchy, sandboxes' processes, mounts.
fn count(afslet: &Afslet) -> (usize, usize, usize, usize) {
    let fds = std::fs::read_dir(format!("/proc/{}/fd", afslet.pid()))
        .unwrap()
        .count();
    let mut cgroups: Vec<String> = afslet.cgroups();
    for path in &mut cgroups {
        *path = path.rsplit('/').next().unwrap().to_owned();
    }
    cgroups.sort_unstable();
    cgroups.dedup();
    let ready = afslet.get("/metrics").unwrap();
    let ready = ready
        .lines()
        .find_map(|line| line.strip_prefix("lamina_afslet_sandboxes_ready "));
    (
        fds,
        cgroups.len(),
        ready.unwrap().trim().parse().unwrap(),
        afslet.machine.mounted().len(),
    )
}
