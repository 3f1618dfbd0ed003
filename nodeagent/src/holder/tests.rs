//! Tests of the holder with small children: `sh` instead of daemons.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A holder on a thread of this process.
struct Scene {
    dir: tempfile::TempDir,
    holder: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Scene {
    fn new(children: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir.path().join("run"), children);
        let holder = Some(std::thread::spawn(move || run(config)));
        Self { dir, holder }
    }

    fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    fn client(&self) -> HolderClient {
        eventually(|| HolderClient::connect(&self.run_dir()).ok())
    }

    fn pid(&self, name: &str) -> u32 {
        eventually(|| status(&self.client(), name).pid)
    }

    fn end(&mut self) {
        self.holder.take().unwrap().join().unwrap().unwrap();
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(holder) = self.holder.take() {
            let _ = HolderClient::connect(&self.run_dir()).and_then(|client| client.shutdown());
            let _ = holder.join();
        }
    }
}

fn config(run_dir: &Path, children: &[(&str, &str)]) -> HolderConfig {
    let child = |(name, script): &(&str, &str)| ChildSpec {
        name: (*name).to_owned(),
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
    };
    HolderConfig {
        run_dir: run_dir.to_owned(),
        children: children.iter().map(child).collect(),
    }
}

fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(client: &HolderClient, name: &str) -> ChildStatus {
    let all = client.status().unwrap();
    all.into_iter().find(|child| child.name == name).unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn descriptors_outlive_whoever_gave_them() {
    let scene = Scene::new(&[("child", "exec sleep 1000")]);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let fds: Vec<OwnedFd> = vec![writer.into()];
    scene.client().put("pipe", &fds).unwrap();
    drop(fds);
    let client = scene.client();
    assert_eq!(client.list().unwrap(), ["pipe"]);
    for _ in 0..2 {
        let mut again = client.get("pipe").unwrap().unwrap();
        assert_eq!(again.len(), 1);
        let mut writer = std::fs::File::from(again.remove(0));
        writer.write_all(b"x").unwrap();
    }
    client.remove("pipe").unwrap();
    client.remove("pipe").unwrap();
    assert!(client.get("pipe").unwrap().is_none());
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "xx", "and closed: every copy is gone");
}

#[test]
fn putting_again_replaces_and_putting_nothing_is_refused() {
    let scene = Scene::new(&[("child", "exec sleep 1000")]);
    let client = scene.client();
    let fds = |count: usize| -> Vec<OwnedFd> {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        (0..count).map(|_| null()).collect()
    };
    client.put("a", &fds(5)).unwrap();
    client.put("a", &fds(64)).unwrap();
    assert_eq!(client.get("a").unwrap().unwrap().len(), 64);
    assert!(matches!(client.put("a", &[]), Err(HolderError::Refused(_))));
    assert_eq!(client.get("a").unwrap().unwrap().len(), 64);
    let long = client.put(&"n".repeat(5000), &fds(1));
    assert!(matches!(long, Err(HolderError::Refused(_))), "{long:?}");
}

#[test]
fn more_names_than_one_answer_holds_are_all_listed() {
    let scene = Scene::new(&[("child", "exec sleep 1000")]);
    let client = scene.client();
    let names: Vec<String> = (0..150).map(|at| format!("{at:01000}")).collect();
    let null: [OwnedFd; 1] = [std::fs::File::open("/dev/null").unwrap().into()];
    for name in &names {
        client.put(name, &null).unwrap();
    }
    assert_eq!(client.list().unwrap(), names);
}

#[test]
fn a_killed_child_is_started_again_and_one_that_ends_well_is_not() {
    let mut scene = Scene::new(&[("lives", "exec sleep 1000"), ("ends", "exit 0")]);
    let client = scene.client();
    let first = scene.pid("lives");
    client.ready("lives").unwrap();
    kill(first);
    eventually(|| status(&client, "lives").pid.filter(|pid| *pid != first));
    let lives = status(&client, "lives");
    assert_eq!(lives.restarts, 1);
    assert!(lives.last_exit.unwrap().contains("signal: 9"));
    let ends = eventually(|| Some(status(&client, "ends")).filter(|ends| ends.pid.is_none()));
    assert_eq!(ends.restarts, 0);
    client.shutdown().unwrap();
    scene.end();
}

#[test]
fn a_child_that_cannot_start_is_tried_again_and_does_not_disturb_the_others() {
    let scene = Scene::new(&[("works", "exec sleep 1000"), ("fails", "exit 3")]);
    let works = scene.pid("works");
    let client = scene.client();
    let fails = eventually(|| {
        let fails = status(&client, "fails");
        (fails.restarts >= 3).then_some(fails)
    });
    assert!(fails.last_exit.unwrap().contains("status: 3"));
    assert_eq!(scene.pid("works"), works);
    assert_eq!(status(&client, "works").restarts, 0);
}

#[test]
fn a_successor_that_does_not_work_takes_those_before_it_back_with_it() {
    for end in ["exit 1", "exit 0"] {
        a_successor_takes_those_before_it_back_with_it(end);
    }
}

fn a_successor_takes_those_before_it_back_with_it(end: &str) {
    let scene = Scene::new(&[("mountd", "exec sleep 1000"), ("agent", "exec sleep 1000")]);
    let client = scene.client();
    let first = client.programs().unwrap().children;
    let successor = |name: &str, script: &str| ChildSpec {
        name: name.to_owned(),
        argv: ["sh", "-c", script].map(OsString::from).to_vec(),
    };
    let wanted = [
        successor("agent", "exec sleep 2000"),
        successor("mountd", end),
    ];
    client.replace(&wanted).unwrap();
    let given_up = eventually(|| {
        client.ready("agent").unwrap();
        client.programs().unwrap().given_up
    });
    assert!(given_up.contains("mountd"), "{given_up}");
    assert_eq!(client.programs().unwrap().children, first);
    for name in ["agent", "mountd"] {
        let runs = eventually(|| {
            let pid = status(&client, name).pid?;
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            words.ends_with(b"sleep\x001000\0").then_some(pid)
        });
        assert!(runs > 0);
    }
}

#[test]
fn children_end_in_reverse_order_on_shutdown() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = |name: &str| {
        let log = log.display();
        format!("trap 'echo {name} >> {log}; exit 0' TERM; while :; do sleep 0.01; done")
    };
    let (first, second) = (script("first"), script("second"));
    let mut scene = Scene::new(&[("first", &first), ("second", &second)]);
    let client = scene.client();
    scene.pid("first");
    scene.pid("second");
    // The traps are set once the loops run.
    let sleeping = |name: &str| {
        let pid = scene.pid(name);
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children
            .is_ok_and(|children| !children.is_empty())
            .then_some(())
    };
    eventually(|| sleeping("first"));
    eventually(|| sleeping("second"));
    client.shutdown().unwrap();
    scene.end();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "second\nfirst\n");
}

#[test]
fn a_child_can_be_ended_although_the_holder_blocks_signals() {
    let mut scene = Scene::new(&[("child", "exec sleep 1000")]);
    let pid = scene.pid("child");
    let blocked = eventually(|| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.contains("Name:\tsleep").then(|| {
            let line = status.lines().find(|line| line.starts_with("SigBlk:"));
            line.unwrap().to_owned()
        })
    });
    assert_eq!(blocked, "SigBlk:\t0000000000000000");
    scene.client().shutdown().unwrap();
    scene.end();
}

#[test]
fn a_run_directory_has_one_holder() {
    let scene = Scene::new(&[("child", "exec sleep 1000")]);
    scene.client();
    let second = run(config(&scene.run_dir(), &[("other", "exit 0")]));
    let error = second.expect_err("refused");
    assert!(
        error.to_string().contains("held by another process"),
        "{error}"
    );
    assert_eq!(status(&scene.client(), "child").restarts, 0);
}

#[test]
fn a_client_that_sends_garbage_is_dropped_and_the_others_are_served() {
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketType};
    let scene = Scene::new(&[("child", "exec sleep 1000")]);
    let good = scene.client();
    let path = scene.run_dir().join(HOLDER_SOCKET);
    for garbage in [&b"\x01\xff\xff"[..], b"\x63", &[0xff; 1000]] {
        let bad = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&bad, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::send(&bad, garbage, SendFlags::empty()).unwrap();
        let mut answer = [0u8; 8];
        let (got, _) =
            rustix::net::recv(&bad, &mut answer, rustix::net::RecvFlags::empty()).unwrap();
        assert_eq!(got, 0, "closed");
    }
    assert!(good.list().unwrap().is_empty());
}
