//! Which limit ended a run, or was hit by it, is named in its result.

use super::support::{Afslet, KILLED_WITHIN, Ran, file, frame, sleepers};
use crate::machine::wait_until;
use futures::StreamExt as _;
use lamina_proto::afsletpb::execute_request::Payload as Asked;
use lamina_proto::afsletpb::{DiffMode, EndReason, FileChunk, StartRequest};
use std::time::{Duration, Instant};
use tonic::Code;

fn ended(ran: &Ran) -> (EndReason, i32, &str) {
    let result = ran.result();
    let reason = EndReason::try_from(result.reason).unwrap();
    (reason, result.exit_code, result.error.as_str())
}

#[test]
fn a_limit_that_was_hit_is_named_and_others_go_on() {
    let afslet = Afslet::new(&["--warm", "1", "--log-bytes-max", "1MB", "--cpu", "64"]);
    let neighbour = afslet.running("sleep 3; echo fine");
    let run = |script: &str, change: &dyn Fn(&mut StartRequest)| {
        let mut start = afslet.sh(script);
        change(&mut start);
        let ran = afslet.run(start);
        assert!(ran.done.is_some(), "{script}: {ran:?}\n{}", afslet.logs());
        ran
    };

    let ran = run("tail -c 900000000 /dev/zero", &|_| ());
    let (reason, code, said) = ended(&ran);
    assert_eq!((reason, code), (EndReason::OutOfMemory, 137), "{said}");
    assert!(said.contains("memory_mb is 64"), "{said}");

    // Changes in memory are memory.
    let ran = run("cat /dev/zero > /tmp/zero", &|s| s.disk_mb = 500);
    assert_eq!(ended(&ran).0, EndReason::OutOfMemory, "{ran:?}");

    let ran = run("cat /dev/zero > /tmp/zero; echo $?; exit 9", &|s| {
        s.disk_mb = 2;
    });
    let (reason, code, said) = ended(&ran);
    assert_eq!(
        (reason, code, ran.out.as_str()),
        (EndReason::Exited, 9, "1\n")
    );
    assert!(
        said.contains("disk_mb is 2") && ran.error.contains("No space"),
        "{ran:?}"
    );

    let many = "i=0; while [ $i -lt 100000 ]; do : > /tmp/$i || exit 4; i=$((i+1)); done";
    let ran = run(many, &|s| s.disk_mb = 2);
    let (reason, code, said) = ended(&ran);
    assert_ne!((reason, code), (EndReason::Exited, 0));
    assert!(said.contains("disk_mb is 2"), "{said}");

    let bomb = "bomb() { bomb | bomb & }; bomb; sleep 100";
    let ran = run(bomb, &|s| (s.pids_max, s.timeout_ms) = (20, 1500));
    let (reason, _, said) = ended(&ran);
    assert!(said.contains("pids_max is 20"), "{reason:?} {said}");

    let ran = run("yes", &|_| ());
    let (reason, code, said) = ended(&ran);
    assert_eq!((reason, code), (EndReason::LogLimit, 137), "{said}");
    assert!(said.contains("1000000 bytes of logs"), "{said}");
    assert_eq!(ran.out.len(), 1_000_000);

    let began = Instant::now();
    let ran = run("trap '' TERM INT; (setsid sleep 100 &); sleep 100", &|s| {
        s.timeout_ms = 200;
    });
    let took = began.elapsed();
    let (reason, code, said) = ended(&ran);
    assert_eq!((reason, code), (EndReason::TimedOut, 137), "{said}");
    assert!(said.contains("200ms"), "{said}");
    let within = Duration::from_millis(200) + KILLED_WITHIN;
    assert!(took < within, "it took {took:?} of {within:?}: {ran:?}");

    let ran = run("kill -TERM $$", &|_| ());
    assert_eq!((ended(&ran).0, ended(&ran).1), (EndReason::Signalled, 143));
    let ran = afslet.run(afslet.start_request(&["/no/such"]));
    assert_eq!((ended(&ran).0, ended(&ran).1), (EndReason::NotRun, 127));
    let ran = afslet.run(afslet.start_request(&["/etc/passwd"]));
    assert_eq!((ended(&ran).0, ended(&ran).1), (EndReason::NotRun, 126));

    let fine = afslet.rest(neighbour);
    assert_eq!((fine.out.as_str(), fine.result().success), ("fine\n", true));
    let metrics = afslet.get("/metrics").unwrap();
    for expected in [
        "lamina_afslet_runs_total{reason=\"out_of_memory\"} 2",
        "lamina_afslet_runs_total{reason=\"log_limit\"} 1",
        "lamina_afslet_runs_total{reason=\"not_run\"} 2",
        "lamina_afslet_runs_succeeded_total 1",
    ] {
        assert!(metrics.contains(expected), "{expected}: {metrics}");
    }
}

#[test]
fn a_client_that_does_not_read_costs_little_and_is_not_waited_for_beyond_its_time() {
    let afslet = Afslet::new(&["--warm", "0"]);
    let mark = format!("4{:011}", std::process::id());
    let start = StartRequest {
        timeout_ms: 2000,
        diff: DiffMode::None.into(),
        ..afslet.sh(&format!("sleep {mark} & yes {mark}"))
    };
    let mut client = afslet.client();
    let before = memory(afslet.pid());
    let asked = client.execute(futures::stream::iter(vec![frame(Asked::Start(start))]));
    let answers = afslet.runtime.block_on(asked).unwrap().into_inner();
    // Nobody reads until the command has been killed.
    assert!(wait_until(|| sleepers(&mark) == 1));
    assert!(wait_until(|| sleepers(&mark) == 0), "{}", afslet.logs());
    assert!(memory(afslet.pid()) < before + (64 << 20));
    let ran = afslet.rest(answers);
    assert_eq!(ended(&ran).0, EndReason::TimedOut, "{:?}", ran.status);
    // What it had written is whole.
    let whole = format!("{mark}\n");
    let mut lines = ran.out.as_bytes().chunks(whole.len());
    assert!(ran.out.len() > 64 << 10);
    assert!(lines.all(|line| whole.as_bytes().starts_with(line)));
    afslet.assert_nothing_left();
}

/// Resident bytes.
pub(super) fn memory(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn files_that_trickle_in_do_not_hold_room_for_ever() {
    let afslet = Afslet::new(&["--warm", "0", "--timeout-max", "1s"]);
    let head: Vec<_> = file("/x", 0o644, b"").into_iter().take(1).collect();
    let start = frame(Asked::Start(afslet.sh("echo ran")));
    let nothing = frame(Asked::FileChunk(FileChunk::default()));
    // Soon enough after one another, each, and never the last one.
    let trickle = futures::stream::unfold((), move |()| {
        let next = nothing.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Some((next, ()))
        }
    });
    let frames = futures::stream::iter([start]).chain(futures::stream::iter(head));
    let mut client = afslet.client();
    let refused = afslet.runtime.block_on(async {
        let mut answers = client.execute(frames.chain(trickle)).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok::<_, tonic::Status>(())
    });
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused}");
    assert!(
        refused.message().contains("files did not all come"),
        "{refused}"
    );
    afslet.assert_nothing_left();
}
