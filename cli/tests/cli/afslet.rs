//! `lamina afslet` as its clients meet it: runs over gRPC, with a real `lamina node` and real sandboxes.

mod faults;
mod images;
mod keep;
mod kills;
mod limits;
mod many;
mod security;
pub(crate) mod support;

use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::{
    DiffMode, EndReason, FileChunk, FileEntryBegin, FileType, Network, StartRequest,
};
use support::{Afslet, Ran, entry, file, frame};
use tonic::Code;

#[test]
fn a_run_gives_logs_a_result_and_its_changes_in_this_order() {
    let afslet = Afslet::new(&["--warm", "0"]);
    let script = "cat /in/data/a.txt; readlink /in/link; stat -c '%u:%g %a' /in/data/a.txt /in/data; cat /lib/x; \
                  echo oops >&2; echo $X $PWD $(id -u); echo new > /tmp/new; rm /etc/file; exit 3";
    let start = StartRequest {
        env: vec!["X=yes".into()],
        working_dir: "/srv".into(),
        request_id: "mine-1".into(),
        ..afslet.sh(script)
    };
    let mut frames = vec![frame(Asked::Start(start))];
    frames.extend(entry(FileEntryBegin {
        path: "/in/data".into(),
        r#type: FileType::Dir.into(),
        mode: 0o755,
        uid: 33,
        gid: 34,
        ..FileEntryBegin::default()
    }));
    frames.extend(file("in/data/a.txt", 0o640, b"hello\n"));
    frames.extend(entry(FileEntryBegin {
        path: "in/link".into(),
        r#type: FileType::Symlink.into(),
        symlink_target: "/nowhere".into(),
        ..FileEntryBegin::default()
    }));
    frames.extend(file("lib/x", 0, b"through a link of the image\n"));
    let ran = afslet.execute(frames);
    assert_eq!(
        ran.kinds,
        [
            "accepted",
            "log",
            "result",
            "tar_header",
            "tar_chunk",
            "done"
        ],
        "{ran:?}\n{}",
        afslet.logs()
    );
    assert_eq!(
        ran.out,
        "hello\n/nowhere\n0:0 640\n33:34 755\nthrough a link of the image\nyes /srv 0\n"
    );
    assert_eq!(ran.error, "oops\n");
    let accepted = ran.accepted.clone().unwrap();
    assert!(accepted.accepted);
    assert_eq!(
        (accepted.node_id.as_str(), accepted.request_id.as_str()),
        ("one", "mine-1")
    );
    assert_eq!(accepted.flist_digest, afslet.digest);
    let result = ran.result();
    assert_eq!((result.success, result.exit_code), (false, 3));
    assert_eq!(result.reason, i32::from(EndReason::Exited));
    assert!(result.error.contains("exit code 3"), "{}", result.error);
    let usage = result.usage.unwrap();
    assert!(
        usage.wall_us > 0 && usage.startup_us >= usage.image_us,
        "{usage:?}"
    );
    let logged = ran.out.len() + ran.error.len();
    assert_eq!(usage.log_bytes, i64::try_from(logged).unwrap());
    let listing = ran.listing();
    for expected in [
        "etc/.wh.file",
        "tmp/new",
        "in/data/a.txt",
        "in/link -> /nowhere",
        "usr/lib/x",
    ] {
        assert!(listing.contains(expected), "{listing}");
    }
    assert!(listing.contains("33/34"), "{listing}");
    let diff_bytes = i64::try_from(ran.tar.len()).unwrap();
    assert_eq!(ran.done.clone().unwrap().diff_bytes, diff_bytes);
    afslet.assert_nothing_left();
    // Nothing of it is seen by the next one, and who wants no changes gets none.
    let start = StartRequest {
        diff: DiffMode::None.into(),
        user: "web".into(),
        ..afslet.sh("cat /etc/file; ls /in 2>/dev/null; id -u")
    };
    let ran = afslet.run(start);
    assert_eq!(ran.kinds, ["accepted", "log", "result", "done"], "{ran:?}");
    assert_eq!(ran.out, "kept\n33\n");
    assert!(ran.result().success && ran.result().error.is_empty());
    assert_eq!(afslet.images(), 1);
    let status = afslet.status();
    assert_eq!((status.completed, status.failed), (2, 1));
    assert_eq!(status.warm_images, [format!("flist|{}", afslet.digest)]);
}

/// Refused before it was accepted.
fn refused(afslet: &Afslet, change: impl FnOnce(&mut StartRequest)) -> Ran {
    let mut start = afslet.sh("echo ran");
    change(&mut start);
    let ran = afslet.run(start);
    assert!(ran.accepted.is_none() && ran.out.is_empty(), "{ran:?}");
    ran
}

type Change = fn(&mut StartRequest);

#[test]
fn what_cannot_run_is_refused_before_anything_is_done() {
    let afslet = Afslet::new(&["--warm", "0", "--cpu", "2", "--memory", "1000"]);
    let cases: [(Code, &str, Change); 9] = [
        (Code::InvalidArgument, "cpu_cores: 3 can never fit", |s| {
            s.cpu_cores = 3;
        }),
        (Code::InvalidArgument, "memory_mb: 1001 can never", |s| {
            s.memory_mb = 1001;
        }),
        (Code::InvalidArgument, "cpu_cores: 0", |s| s.cpu_cores = 0),
        (Code::InvalidArgument, "node_id", |s| {
            s.node_id = "two".into();
        }),
        (
            Code::InvalidArgument,
            "command: the image has no command",
            |s| s.command.clear(),
        ),
        (Code::InvalidArgument, "image: it is empty", |s| {
            s.flist = None;
        }),
        (Code::PermissionDenied, "network", |s| {
            s.network = Network::Host.into();
        }),
        (Code::NotFound, "lamina node says", |s| {
            s.flist.as_mut().unwrap().digest = "ab".repeat(32);
        }),
        (Code::InvalidArgument, "timeout_ms", |s| {
            s.timeout_ms = i64::MAX;
        }),
    ];
    for (code, said, change) in cases {
        let ran = refused(&afslet, change);
        assert_eq!(ran.code(), code, "{said}: {ran:?}");
        assert!(ran.said().contains(said), "{said}: {ran:?}");
    }
    for (frames, said) in [
        (vec![], "start: the stream ended before it"),
        (file("a", 0, b""), "start: it must be the first frame"),
    ] {
        let ran = afslet.execute(frames);
        assert_eq!(ran.code(), Code::InvalidArgument, "{ran:?}");
        assert!(ran.said().contains(said), "{ran:?}");
    }
    // What does not fit now is another matter.
    let busy = afslet.running("sleep 100");
    let ran = refused(&afslet, |start| start.cpu_cores = 2);
    assert_eq!(ran.code(), Code::ResourceExhausted);
    assert!(ran.said().contains("1 and 936 are free"), "{ran:?}");
    let status = afslet.status();
    assert_eq!(
        (
            status.running_containers,
            status.used_cpu_cores,
            status.used_memory_mb
        ),
        (1, 1, 64)
    );
    assert_eq!(
        (status.available_cpu_cores, status.available_memory_mb),
        (1, 936)
    );
    drop(busy);
    afslet.assert_nothing_left();
}

#[test]
fn entries_that_cannot_be_put_in_place_end_the_run_by_name() {
    let afslet = Afslet::new(&["--warm", "0"]);
    let start = || frame(Asked::Start(afslet.sh("echo ran")));
    let begin_only = vec![file("never/ended", 0, b"x")[0].clone()];
    let mut chunk_first = file("x", 0, b"x");
    chunk_first.remove(0);
    let user = StartRequest {
        user: "nobody".into(),
        ..afslet.sh("echo ran")
    };
    let huge = StartRequest {
        memory_mb: 8,
        ..afslet.sh("echo ran")
    };
    let cases = [
        (
            start(),
            file("../etc/passwd", 0, b"x"),
            "\"../etc/passwd\": the path has `..`",
        ),
        (start(), file("/dev/x", 0, b"x"), "/proc, /dev and /sys"),
        (
            start(),
            file("etc", 0, b"x"),
            "\"etc\": a directory is there",
        ),
        (start(), begin_only, "\"never/ended\": the stream ended"),
        (start(), chunk_first, "file_chunk: no file was begun"),
        (start(), vec![start()], "start: it comes once"),
        (
            start(),
            vec![frame(Asked::FileChunk(FileChunk {
                data: vec![0; 5 << 20],
            }))],
            "frame",
        ),
        (frame(Asked::Start(user)), vec![], "no user \"nobody\""),
        (
            frame(Asked::Start(huge)),
            file("big", 0, &vec![0; 6 << 20]),
            "memory_mb",
        ),
    ];
    for (start, frames, said) in cases {
        let frames = [start].into_iter().chain(frames).collect();
        let ran = afslet.execute(frames);
        assert_eq!(ran.code(), Code::InvalidArgument, "{said}: {ran:?}");
        assert!(ran.said().contains(said), "{said}: {ran:?}");
        assert!(ran.out.is_empty() && ran.result.is_none(), "{ran:?}");
    }
    afslet.assert_nothing_left();
}
