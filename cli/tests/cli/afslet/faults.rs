//! Whatever goes away in the middle of a run: nothing of it is left.

use super::support::{
    Afslet, KILLED_WITHIN, descendants, execute, file, frame, is_alive, sleepers,
};
use crate::machine::{kill, wait_until};
use lamina_proto::afsletpb::EndReason;
use lamina_proto::afsletpb::afslet_client::AfsletClient;
use lamina_proto::afsletpb::execute_request::Payload;
use std::time::Instant;
use tonic::Code;

/// An argument of `sleep` that nobody else has.
fn mark(number: u32) -> String {
    format!("{}", number * 1_000_000 + std::process::id())
}

#[test]
fn a_run_ends_with_its_client() {
    let afslet = Afslet::new(&["--warm", "2"]);
    let mark = mark(1);
    let script = format!("trap '' TERM HUP; (setsid sleep {mark} &); sleep {mark}");
    // The call is dropped.
    let answers = afslet.running(&script);
    assert!(wait_until(|| sleepers(&mark) == 2));
    let gone = Instant::now();
    drop(answers);
    assert_killed_since(gone, &mark, &afslet);
    // The connection is lost, as when a client is killed.
    let client = tokio::runtime::Runtime::new().unwrap();
    let endpoint = format!("http://{}", afslet.listen);
    let frames = vec![frame(Payload::Start(afslet.sh(&script)))];
    let answers = client.block_on(async {
        let mut client = AfsletClient::connect(endpoint).await.unwrap();
        client.execute(futures::stream::iter(frames)).await.unwrap()
    });
    assert!(wait_until(|| sleepers(&mark) == 2));
    let gone = Instant::now();
    client.shutdown_background();
    assert_killed_since(gone, &mark, &afslet);
    drop(answers);
    assert!(wait_until(|| afslet.status().running_containers == 0));
}

/// All of a run is killed soon after its client went away.
fn assert_killed_since(gone: Instant, mark: &str, afslet: &Afslet) {
    assert!(wait_until(|| sleepers(mark) == 0), "{}", afslet.logs());
    let took = gone.elapsed();
    assert!(took < KILLED_WITHIN, "it took {took:?}: {}", afslet.logs());
}

#[test]
fn what_a_killed_afslet_leaves_is_taken_down_by_the_next() {
    let mut afslet = Afslet::new(&["--warm", "2"]);
    let mark = mark(2);
    let answers = afslet.running(&format!("sleep {mark}"));
    assert!(wait_until(|| sleepers(&mark) == 1));
    assert_eq!(afslet.images(), 1);
    afslet.kill();
    assert!(wait_until(|| sleepers(&mark) == 0));
    assert!(afslet.rest(answers).status.is_some());
    let left = afslet.cgroups();
    assert!(!left.is_empty());
    afslet.start();
    assert!(wait_until(|| afslet.images() == 0), "{}", afslet.logs());
    let ran = afslet.run(afslet.sh("echo again"));
    assert_eq!(ran.out, "again\n", "{ran:?}\n{}", afslet.logs());
    afslet.ask_to_end();
    assert!(afslet.wait().success());
    assert_eq!(afslet.cgroups(), Vec::<String>::new());
    assert_eq!(afslet.images(), 0);
    let places = std::fs::read_dir(afslet.machine.path("run/sandboxes")).unwrap();
    assert_eq!(places.count(), 0);
}

#[test]
fn runs_go_on_without_the_node_and_its_agent() {
    let mut afslet = Afslet::new(&["--warm", "0"]);
    let answers = afslet.running("sleep 2; cat /etc/file; ls /bin | wc -l");
    let agent = afslet.machine.daemon("agent").unwrap();
    kill(agent);
    afslet.kill_node();
    let ran = afslet.rest(answers);
    assert!(
        ran.out.starts_with("kept\n") && ran.result().success,
        "{ran:?}"
    );
    // What is warm needs no node.
    let ran = afslet.run(afslet.sh("cat /etc/file"));
    assert_eq!(ran.out, "kept\n", "{ran:?}");
    let mut unknown = afslet.sh("true");
    unknown.flist.as_mut().unwrap().digest = "cd".repeat(32);
    let ran = afslet.run(unknown.clone());
    assert_eq!(ran.code(), Code::Unavailable, "{ran:?}");
    afslet.start_node();
    let ran = afslet.run(unknown);
    assert_eq!(ran.code(), Code::NotFound, "{ran:?}");
    // Somebody unmounted an image: it is mounted again.
    let digest = afslet.digest.clone();
    let at = afslet
        .machine
        .path(&format!("kubelet/plugins/afslet/{digest}"));
    let unmounted = std::process::Command::new("umount")
        .arg("-l")
        .arg(at)
        .status();
    assert!(unmounted.unwrap().success());
    let ran = afslet.run(afslet.sh("cat /etc/file"));
    assert_eq!(ran.out, "kept\n", "{ran:?}\n{}", afslet.logs());
}

#[test]
fn a_spawner_that_dies_is_replaced() {
    let afslet = Afslet::new(&["--warm", "2"]);
    assert!(afslet.run(afslet.sh("true")).result().success);
    let threads = std::fs::read_dir(format!("/proc/{}/task", afslet.pid())).unwrap();
    let children = threads
        .flatten()
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    // Sandboxes are the spawner's children, so it is the only one.
    let children: Vec<String> = children
        .flat_map(|list| {
            list.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let spawner: i32 = children[0].parse().unwrap();
    let mark = mark(3);
    let answers = afslet.running(&format!("sleep {mark}"));
    kill(spawner);
    // What ran ended with it, and says so.
    let ran = afslet.rest(answers);
    assert_eq!(ran.result().exit_code, 137, "{ran:?}");
    assert_eq!(sleepers(&mark), 0);
    for _ in 0..4 {
        let ran = afslet.run(afslet.sh("echo again"));
        assert_eq!(ran.out, "again\n", "{ran:?}\n{}", afslet.logs());
    }
}

#[test]
fn a_sandbox_that_is_killed_while_it_waits_is_not_used() {
    let afslet = Afslet::new(&["--warm", "2"]);
    assert!(wait_until(|| descendants(afslet.pid()).len() == 3));
    let waiting: Vec<_> = descendants(afslet.pid());
    let spawner = waiting[0].0;
    for (init, _) in waiting.iter().filter(|(pid, _)| *pid != spawner) {
        kill(*init);
    }
    assert!(wait_until(|| !waiting[1..].iter().any(is_alive)));
    for _ in 0..4 {
        let ran = afslet.run(afslet.sh("echo on"));
        assert_eq!(ran.out, "on\n", "{ran:?}\n{}", afslet.logs());
    }
    afslet.assert_nothing_left_but(2);
}

#[test]
fn draining_takes_no_new_runs_and_kills_the_rest_in_time() {
    let mut afslet = Afslet::new(&["--warm", "1", "--drain-timeout", "3s"]);
    let short = afslet.running("sleep 1; echo done; echo x > /tmp/x");
    let long = afslet.running("trap '' TERM; sleep 1000");
    let client = afslet.client();
    afslet.ask_to_end();
    assert!(wait_until(|| !afslet
        .get("/readyz")
        .is_some_and(|said| said.contains("200 OK"))));
    let frames = vec![frame(Payload::Start(afslet.sh("echo no")))];
    let refused = afslet.runtime.block_on(execute(client, frames));
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(refused.accepted.is_none());
    let short = afslet.rest(short);
    assert_eq!(
        (short.out.as_str(), short.result().success),
        ("done\n", true)
    );
    assert!(short.done.is_some() && short.listing().contains("tmp/x"));
    let long = afslet.rest(long);
    assert_eq!(
        long.result().reason,
        i32::from(EndReason::Drained),
        "{long:?}"
    );
    assert!(long.result().error.contains("told to end"), "{long:?}");
    assert!(afslet.wait().success(), "{}", afslet.logs());
    assert_eq!(afslet.cgroups(), Vec::<String>::new());
    assert_eq!(afslet.images(), 0);
}

#[test]
fn runs_that_are_cancelled_at_any_moment_leave_nothing() {
    // Room for all of them: a slow machine takes down what was cancelled later than the next ones come.
    let room = ["--cpu", "1024", "--memory", "65536", "--runs-max", "512"];
    let afslet = Afslet::new(&[["--warm", "2"].as_slice(), &room].concat());
    let mark = mark(4);
    let client = afslet.client();
    let one = |number: u64| {
        let start = afslet.sh(&format!("echo x > /tmp/x; sleep {mark}"));
        let mut frames = vec![frame(Payload::Start(start))];
        frames.extend(file("in", 0, &vec![7; 300_000]));
        let run = execute(client.clone(), frames);
        tokio::time::timeout(std::time::Duration::from_millis(number % 80), run)
    };
    afslet.runtime.block_on(async {
        for round in 0..20 {
            let runs = (0..8).map(|number| one(round * 8 + number));
            for cut in futures::future::join_all(runs).await {
                assert!(cut.is_err(), "{cut:?}");
            }
        }
    });
    assert!(wait_until(|| sleepers(&mark) == 0), "{}", afslet.logs());
    afslet.assert_nothing_left_but(2);
    let ran = afslet.run(afslet.sh("echo fine"));
    assert_eq!(ran.out, "fine\n", "{ran:?}\n{}", afslet.logs());
}
