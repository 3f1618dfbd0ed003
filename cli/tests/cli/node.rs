//! `lamina node` as the CSI driver meets it: volumes published by calls, through kills of everything.

mod cluster;
mod disk;
pub(crate) mod images;

use crate::machine::{Machine, kill, sample_tree, snapshot, text, wait_until};
use lamina_proto::lamina::v1 as api;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;
use lamina_proto::lamina::v1::node_client::NodeClient;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// A node with a packed tree, and a client of it.
struct Node {
    serving: Option<Child>,
    by: Vec<&'static str>,
    more: Vec<String>,
    program: PathBuf,
    digest: String,
    runtime: tokio::runtime::Runtime,
    // Last: torn down when nobody serves any more.
    machine: Machine,
}

impl Node {
    fn new() -> Self {
        Self::started_by(&[], &[])
    }

    /// Started by way of another program, which gets it as its last arguments.
    fn started_by(by: &[&'static str], more: &[&str]) -> Self {
        let machine = Machine::new();
        sample_tree(&machine.dir("source"));
        symlink("a/b", machine.path("source/inside")).unwrap();
        symlink("/a/b", machine.path("source/absolute")).unwrap();
        symlink("../../../../etc", machine.path("source/outside")).unwrap();
        let store = machine.store();
        machine.ok(&["pack", "source", "-o", "x.fl", "-s", &store, "--publish"]);
        let digest = machine.json(&["inspect", "x.fl"])["digest"]
            .as_str()
            .unwrap()
            .to_owned();
        machine.dir("kubelet/pods/uid");
        let mut node = Self {
            serving: None,
            by: by.to_vec(),
            more: more.iter().map(|word| (*word).to_owned()).collect(),
            program: env!("CARGO_BIN_EXE_lamina").into(),
            digest,
            runtime: tokio::runtime::Runtime::new().unwrap(),
            machine,
        };
        node.start();
        node
    }

    fn start(&mut self) {
        let machine = &self.machine;
        let program = self.program.to_str().unwrap();
        let mut words = self.by.iter().copied().chain([program]);
        let mut command = Command::new(words.next().unwrap());
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(machine.path("node.log"))
            .unwrap();
        command
            .args(words)
            .arg("node")
            .arg("--state")
            .arg(machine.path("state"))
            .arg("--run-dir")
            .arg(machine.path("run"))
            .arg("--kubelet-dir")
            .arg(machine.path("kubelet"))
            .args(["--store", &machine.store()])
            .args(self.name())
            .args(&self.more)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(log);
        self.serving = Some(command.spawn().unwrap());
        assert!(
            wait_until(|| self.try_call().is_some()),
            "{}\n{}",
            std::fs::read_to_string(machine.path("node.log")).unwrap_or_default(),
            machine.log()
        );
    }

    /// Its name, unless it was given one.
    fn name(&self) -> &'static [&'static str] {
        match self.more.iter().any(|word| word == "--node-name") {
            true => &[],
            false => &["--node-name", "one"],
        }
    }

    fn try_call(&self) -> Option<api::GetInfoResponse> {
        let mut client = self.client()?;
        let asked = client.get_info(api::GetInfoRequest {});
        self.runtime
            .block_on(asked)
            .ok()
            .map(tonic::Response::into_inner)
    }

    fn client(&self) -> Option<NodeClient<Channel>> {
        self.channel().map(NodeClient::new)
    }

    fn channel(&self) -> Option<Channel> {
        connect(&self.runtime, &self.machine.path("run/node.sock"))
    }

    /// SIGKILL, as a container runtime does it.
    fn kill(&mut self) {
        let mut serving = self.serving.take().unwrap();
        serving.kill().unwrap();
        serving.wait().unwrap();
    }

    fn target(&self, name: &str) -> PathBuf {
        self.machine.path("kubelet/pods/uid").join(name)
    }

    fn source(&self) -> api::Source {
        let flist = api::FlistSource {
            digest: self.digest.clone(),
            ..api::FlistSource::default()
        };
        api::Source {
            from: Some(api::source::From::Flist(flist)),
        }
    }

    fn order(&self, id: &str) -> api::PublishRequest {
        api::PublishRequest {
            volume_id: id.into(),
            target: self.target(id).to_str().unwrap().into(),
            source: Some(self.source()),
            ..api::PublishRequest::default()
        }
    }

    fn publish(&self, order: &api::PublishRequest) -> Result<api::PublishResponse, Status> {
        let mut client = self.client().expect("a node");
        let done = self.runtime.block_on(client.publish(order.clone()));
        done.map(tonic::Response::into_inner)
    }

    fn unpublish(&self, id: &str, target: &str) -> Result<(), Status> {
        let request = api::UnpublishRequest {
            volume_id: id.into(),
            target: target.into(),
        };
        let mut client = self.client().expect("a node");
        self.runtime.block_on(client.unpublish(request)).map(drop)
    }

    fn unpublish_order(&self, order: &api::PublishRequest) {
        self.unpublish(&order.volume_id, &order.target).unwrap();
    }

    fn volumes(&self) -> Vec<api::Volume> {
        let mut client = self.client().expect("a node");
        let listed = client.list_volumes(api::ListVolumesRequest {});
        let listed = self.runtime.block_on(listed).unwrap();
        listed.into_inner().volumes
    }

    fn usage(&self, order: &api::PublishRequest) -> api::GetVolumeStatsResponse {
        let request = api::GetVolumeStatsRequest {
            volume_id: order.volume_id.clone(),
            target: order.target.clone(),
        };
        let mut client = self.client().expect("a node");
        let asked = self.runtime.block_on(client.get_volume_stats(request));
        asked.unwrap().into_inner()
    }

    fn tree(&self, path: &str) -> Result<Vec<api::ReadTreeResponse>, Status> {
        self.look(api::ReadTreeRequest {
            source: Some(self.source()),
            path: path.into(),
        })
    }

    fn look(&self, request: api::ReadTreeRequest) -> Result<Vec<api::ReadTreeResponse>, Status> {
        let mut client = self.client().expect("a node");
        self.runtime.block_on(async {
            let mut parts = client.read_tree(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(part) = parts.message().await? {
                all.push(part);
            }
            Ok(all)
        })
    }

    /// Whether anything below the kubelet's directory is mounted.
    fn is_clean(&self) -> bool {
        let kubelet = self.machine.path("kubelet");
        let mounted = self.machine.mounted();
        let memory = |point: &PathBuf| point.starts_with(self.machine.path("state"));
        !mounted.iter().any(|p| p.starts_with(&kubelet) || memory(p))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            let _ = serving.kill();
            let _ = serving.wait();
        }
    }
}

/// A connection to a node's socket, if anybody listens.
pub(crate) fn connect(runtime: &tokio::runtime::Runtime, socket: &Path) -> Option<Channel> {
    let socket = socket.to_owned();
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://node");
    let channel = runtime.block_on(endpoint.connect_with_connector(connect));
    channel.ok()
}

fn code(outcome: Result<api::PublishResponse, Status>) -> Code {
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[test]
fn a_published_volume_shows_its_source_and_is_gone_when_unpublished() {
    let node = Node::new();
    let expected = snapshot(&node.machine.path("source"));
    let order = node.order("whole");
    let published = node.publish(&order).unwrap();
    assert_eq!(published.flist.unwrap().digest, node.digest);
    assert_eq!(snapshot(Path::new(&order.target)), expected);
    let volumes = node.volumes();
    assert_eq!(volumes.len(), 1);
    assert_eq!(volumes[0].state, "mounted");
    assert_eq!(volumes[0].digest, node.digest);
    let usage = node.usage(&order);
    assert!(!usage.abnormal, "{}", usage.condition);
    assert!(usage.bytes.unwrap().used > 2_000_000);
    node.unpublish_order(&order);
    node.unpublish_order(&order);
    assert!(!Path::new(&order.target).exists());
    assert!(node.is_clean() && node.volumes().is_empty());
    let info = node.try_call().unwrap();
    assert_eq!((info.node.as_str(), info.volumes), ("one", 0));
}

#[test]
fn changes_are_bounded_and_dropped_with_the_volume() {
    let node = Node::new();
    let order = api::PublishRequest {
        writable: true,
        overlay_bytes_max: 4 << 20,
        ..node.order("rw")
    };
    node.publish(&order).unwrap();
    let target = PathBuf::from(&order.target);
    std::fs::write(target.join("a/hello"), "changed").unwrap();
    std::fs::write(target.join("new"), vec![7; 1 << 20]).unwrap();
    let mut big = std::fs::File::create(target.join("big")).unwrap();
    let full = big.write_all(&vec![7; 8 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    drop(big);
    std::fs::remove_file(target.join("big")).unwrap();
    let bytes = node.usage(&order).bytes.unwrap();
    assert_eq!(bytes.total, 4 << 20);
    assert!((1 << 20..2 << 20).contains(&bytes.used), "{bytes:?}");
    // Its changes are nobody else's to see, and survive the agent.
    assert!(
        node.machine
            .mounted()
            .iter()
            .all(|p| !p.starts_with(node.machine.path("state")))
    );
    let agent = node.machine.daemon("agent").unwrap();
    kill(agent);
    assert!(wait_until(|| node
        .machine
        .daemon("agent")
        .is_some_and(|pid| pid != agent)));
    assert_eq!(node.volumes()[0].state, "mounted");
    assert_eq!(std::fs::read(target.join("a/hello")).unwrap(), b"changed");
    assert_eq!(code(node.publish(&order)), Code::Ok);
    node.unpublish_order(&order);
    node.publish(&order).unwrap();
    assert_eq!(std::fs::read(target.join("a/hello")).unwrap(), b"hello\n");
    node.unpublish_order(&order);
    assert!(node.is_clean());
}

#[test]
fn a_sub_path_shows_a_directory_and_never_leads_out() {
    let node = Node::new();
    let expected = snapshot(&node.machine.path("source/a/b"));
    for (id, sub_path) in [
        ("plain", "a/b"),
        ("inside", "/inside"),
        ("absolute", "absolute"),
    ] {
        for writable in [false, true] {
            let order = api::PublishRequest {
                sub_path: sub_path.into(),
                writable,
                ..node.order(id)
            };
            node.publish(&order).unwrap();
            let shown = Path::new(&order.target);
            // A union's directories count no links.
            if !writable {
                assert_eq!(snapshot(shown), expected, "{id}");
            }
            assert_eq!(std::fs::read(shown.join("c/hard")).unwrap(), b"hello\n");
            node.unpublish_order(&order);
        }
    }
    let refused = [
        ("outside", Code::NotFound),
        ("nowhere", Code::NotFound),
        ("a/hello", Code::InvalidArgument),
        ("../..", Code::InvalidArgument),
        ("a/../../..", Code::InvalidArgument),
        ("a\0b", Code::InvalidArgument),
    ];
    for (sub_path, expected) in refused {
        let order = api::PublishRequest {
            sub_path: sub_path.into(),
            ..node.order("refused")
        };
        assert_eq!(code(node.publish(&order)), expected, "{sub_path:?}");
    }
    assert!(node.is_clean() && node.volumes().is_empty());
    assert!(!node.target("refused").exists());
}

#[test]
fn the_same_call_again_is_done_already_and_another_one_is_refused() {
    let node = Node::new();
    let order = node.order("v");
    let first = node.publish(&order).unwrap();
    let again = node.publish(&order).unwrap();
    assert_eq!(first.took_us, again.took_us);
    let elsewhere = api::PublishRequest {
        target: node.target("w").to_str().unwrap().into(),
        ..order.clone()
    };
    let table = [
        ("same", order.clone(), Code::Ok),
        ("at another target, too", elsewhere.clone(), Code::Ok),
        (
            "writable",
            api::PublishRequest {
                writable: true,
                ..order.clone()
            },
            Code::AlreadyExists,
        ),
        (
            "another directory",
            api::PublishRequest {
                sub_path: "a".into(),
                ..order.clone()
            },
            Code::AlreadyExists,
        ),
        (
            "other stores",
            api::PublishRequest {
                stores: vec!["dir:///other".into()],
                ..order.clone()
            },
            Code::AlreadyExists,
        ),
        (
            "another source elsewhere",
            api::PublishRequest {
                writable: true,
                ..elsewhere.clone()
            },
            Code::AlreadyExists,
        ),
        (
            "another volume on its target",
            api::PublishRequest {
                volume_id: "other".into(),
                writable: true,
                ..order.clone()
            },
            Code::FailedPrecondition,
        ),
    ];
    for (what, order, expected) in table {
        assert_eq!(code(node.publish(&order)), expected, "{what}");
    }
    assert_eq!(node.volumes().len(), 2);
    node.unpublish("other", &order.target).unwrap();
    assert_eq!(
        std::fs::read(node.target("v").join("a/hello")).unwrap(),
        b"hello\n"
    );
    node.unpublish("v", "").unwrap();
    assert!(node.is_clean() && node.volumes().is_empty());
}

#[test]
fn a_target_that_is_in_use_is_left_alone() {
    let node = Node::new();
    let order = node.order("v");
    let target = node.machine.dir("kubelet/pods/uid/v");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "theirs"])
        .arg(&target)
        .status();
    assert!(mount.unwrap().success());
    std::fs::write(target.join("theirs"), "").unwrap();
    assert_eq!(code(node.publish(&order)), Code::FailedPrecondition);
    node.unpublish_order(&order);
    assert!(target.join("theirs").exists());
    let umount = Command::new("umount").arg(&target).status();
    assert!(umount.unwrap().success());
}

#[test]
fn hostile_calls_touch_nothing() {
    let node = Node::new();
    let before = snapshot(&node.machine.path("kubelet"));
    let outside = node.machine.dir("outside");
    symlink(&outside, node.machine.path("kubelet/pods/uid/link")).unwrap();
    let kubelet = node.machine.path("kubelet").display().to_string();
    let long = "x".repeat(10 << 10);
    let targets = [
        String::new(),
        "/".into(),
        "/etc".into(),
        "relative".into(),
        kubelet.clone(),
        format!("{kubelet}/pods"),
        format!("{kubelet}/seccomp/x"),
        format!("{kubelet}/pods/../../outside"),
        format!("{kubelet}/pods/uid/../x"),
        format!("{kubelet}/pods/uid/link"),
        format!("{kubelet}/pods/uid/link/x"),
        format!("{kubelet}/pods/uid/x\0y"),
        format!("{kubelet}/pods/uid/{long}"),
    ];
    for target in &targets {
        let order = api::PublishRequest {
            target: target.clone(),
            ..node.order("v")
        };
        assert_eq!(
            code(node.publish(&order)),
            Code::InvalidArgument,
            "{target:?}"
        );
        if !target.is_empty() && !target.contains("link") {
            let refused = node.unpublish("v", target).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{target:?}");
        }
    }
    for id in ["", "../v", "a/b", "a b", "a\0b", "ä", &long] {
        let order = api::PublishRequest {
            volume_id: id.into(),
            ..node.order("v")
        };
        assert_eq!(code(node.publish(&order)), Code::InvalidArgument, "{id:?}");
        let refused = node.unpublish(id, &order.target).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{id:?}");
    }
    let no_source = api::PublishRequest {
        source: None,
        ..node.order("v")
    };
    assert_eq!(code(node.publish(&no_source)), Code::InvalidArgument);
    std::fs::remove_file(node.machine.path("kubelet/pods/uid/link")).unwrap();
    // The times of directories change with what was in them for a moment.
    let names = |text: &str| {
        text.lines()
            .map(|l| l.split('|').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&snapshot(&node.machine.path("kubelet"))),
        names(&before)
    );
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(node.is_clean() && node.volumes().is_empty());
    // Names that are only odd are good.
    for id in ["..", ".", "-rf"] {
        let order = api::PublishRequest {
            target: node.target("odd").to_str().unwrap().into(),
            ..node.order(id)
        };
        node.publish(&order).unwrap();
        node.unpublish_order(&order);
    }
    assert!(node.is_clean());
}

#[test]
fn volumes_outlive_every_process_that_serves_them() {
    let mut node = Node::new();
    let expected = snapshot(&node.machine.path("source"));
    let order = node.order("v");
    node.publish(&order).unwrap();
    let holder = node.machine.daemon("holder").unwrap();
    node.kill();
    for role in ["agent", "mountd"] {
        let pid = node.machine.daemon(role).unwrap();
        kill(pid);
        assert!(wait_until(|| node
            .machine
            .daemon(role)
            .is_some_and(|now| now != pid)));
    }
    assert_eq!(snapshot(Path::new(&order.target)), expected);
    node.start();
    assert_eq!(node.machine.daemon("holder"), Some(holder));
    assert_eq!(node.volumes()[0].state, "mounted");
    assert_eq!(code(node.publish(&order)), Code::Ok);
    node.kill();
    node.start();
    node.unpublish_order(&order);
    assert!(node.is_clean());
    // Idle, it stays: the next volume needs it.
    assert_eq!(node.machine.daemon("holder"), Some(holder));
}

#[test]
fn a_node_that_is_asked_to_end_ends_and_mounts_stay() {
    let mut node = Node::new();
    let order = node.order("v");
    node.publish(&order).unwrap();
    let mut serving = node.serving.take().unwrap();
    let pid = rustix::process::Pid::from_child(&serving);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(wait_until(|| serving.try_wait().unwrap().is_some()));
    assert!(serving.wait().unwrap().success());
    assert_eq!(
        std::fs::read(node.target("v").join("a/hello")).unwrap(),
        b"hello\n"
    );
    node.start();
    node.unpublish_order(&order);
}

#[test]
fn two_flists_are_compared_without_a_volume() {
    let node = Node::new();
    std::fs::write(node.machine.path("source/a/hello"), "hello again\n").unwrap();
    std::fs::remove_file(node.machine.path("source/a/nothing")).unwrap();
    std::fs::write(node.machine.path("source/a/new"), "new\n").unwrap();
    let store = node.machine.store();
    let packed = ["pack", "source", "-o", "y.fl", "-s", &store, "--publish"];
    node.machine.ok(&packed);
    let mut second = node.source();
    if let Some(api::source::From::Flist(flist)) = &mut second.from {
        let inspected = node.machine.json(&["inspect", "y.fl"]);
        flist.digest = inspected["digest"].as_str().unwrap().into();
    }
    let compared = |to: Option<api::Source>| {
        let mut client = node.client().unwrap();
        let request = api::CompareTreesRequest {
            old: Some(node.source()),
            new: to,
        };
        node.runtime.block_on(async {
            let mut answers = client.compare_trees(request).await?.into_inner();
            let mut all = Vec::new();
            while let Some(answer) = answers.message().await? {
                all.extend(answer.differences);
            }
            Ok::<_, Status>(all)
        })
    };
    let found = compared(Some(second)).unwrap();
    let told: Vec<String> = found
        .iter()
        .filter(|one| one.aspects != ["time"])
        .map(|one| format!("{} {}", one.change, text(&one.path)))
        .collect();
    assert_eq!(
        told,
        [
            "changed a/b/c/hard",
            "changed a/hello",
            "added a/new",
            "removed a/nothing"
        ]
    );
    assert_eq!(compared(Some(node.source())).unwrap(), []);
    assert_eq!(compared(None).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn a_flist_can_be_looked_into_and_warmed_without_a_volume() {
    let node = Node::new();
    let names: Vec<String> = node
        .tree("/a")
        .unwrap()
        .into_iter()
        .filter_map(|part| match part.part? {
            api::read_tree_response::Part::Entry(entry) => Some(text(&entry.name)),
            api::read_tree_response::Part::Data(_) => None,
        })
        .collect();
    assert_eq!(names, ["b", "hello", "nothing"]);
    let bytes: Vec<u8> = node
        .tree("/inside/random")
        .unwrap()
        .into_iter()
        .filter_map(|part| match part.part? {
            api::read_tree_response::Part::Data(bytes) => Some(bytes),
            api::read_tree_response::Part::Entry(_) => None,
        })
        .flatten()
        .collect();
    let expected = std::fs::read(node.machine.path("source/a/b/random")).unwrap();
    assert!(bytes == expected);
    assert_eq!(node.tree("/none").unwrap_err().code(), Code::NotFound);
    let request = api::EnsureRequest {
        source: Some(node.source()),
        warm: api::Warm::All.into(),
        ..api::EnsureRequest::default()
    };
    let mut client = node.client().unwrap();
    let last = node.runtime.block_on(async {
        let mut progress = client.ensure(request).await.unwrap().into_inner();
        let mut last = None;
        while let Some(step) = progress.message().await.unwrap() {
            last = Some(step);
        }
        last.unwrap()
    });
    assert_eq!(last.phase, "done");
    let done = last.done.unwrap();
    assert_eq!(done.digest, node.digest);
    assert!(done.bytes > 0);
    assert_eq!(done.bytes_local, done.bytes, "all of it was brought here");
    let order = node.order("v");
    node.publish(&order).unwrap();
    let volumes = node.volumes();
    assert_eq!(volumes[0].bytes_local, volumes[0].bytes_total);
    node.unpublish_order(&order);
}

#[test]
fn a_call_that_cannot_wait_is_told_to_come_again_and_finds_the_volume() {
    let node = Node::new();
    let order = node.order("v");
    let mut client = node.client().unwrap();
    let mut request = Request::new(order.clone());
    request.set_timeout(Duration::from_millis(1));
    let hurried = node.runtime.block_on(client.publish(request));
    if let Err(status) = hurried {
        let known = [Code::Aborted, Code::DeadlineExceeded, Code::Cancelled];
        assert!(known.contains(&status.code()), "{status:?}");
    }
    assert_eq!(code(node.publish(&order)), Code::Ok);
    node.unpublish_order(&order);
}

/// Reads a volume over and over until told to end, past the kernel's pages; every read must be right.
fn keep_reading(target: &Path, expected: Vec<u8>, end: Arc<AtomicBool>) -> JoinHandle<usize> {
    let path = target.join("a/b/random");
    std::thread::spawn(move || {
        let mut reads = 0;
        while !end.load(Ordering::SeqCst) {
            let file = std::fs::File::open(&path).unwrap();
            let whole = rustix::fs::Advice::DontNeed;
            rustix::fs::fadvise(&file, 0, None, whole).unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut &file, &mut bytes).unwrap();
            assert!(bytes == expected, "wrong bytes");
            reads += 1;
        }
        reads
    })
}

#[test]
fn a_volume_is_read_without_a_fault_while_its_daemons_are_killed_and_replaced() {
    let mut node = Node::new();
    let order = node.order("v");
    node.publish(&order).unwrap();
    let expected = std::fs::read(node.machine.path("source/a/b/random")).unwrap();
    let end = Arc::new(AtomicBool::new(false));
    let target = PathBuf::from(&order.target);
    let reading = keep_reading(&target, expected.clone(), Arc::clone(&end));
    for role in ["agent", "mountd", "agent", "mountd"] {
        let pid = node.machine.daemon(role).unwrap();
        kill(pid);
        let again = || node.machine.daemon(role).is_some_and(|now| now != pid);
        assert!(wait_until(again), "{role}");
    }
    // Another volume of the same: what serves it is whole.
    let other = node.order("w");
    node.publish(&other).unwrap();
    for _ in ["there", "back"] {
        node.kill();
        node.program = match node.program.ends_with("other") {
            true => env!("CARGO_BIN_EXE_lamina").into(),
            false => another_build(&node),
        };
        node.start();
        assert_eq!(node.try_call().unwrap().warnings, [] as [String; 0]);
    }
    end.store(true, Ordering::SeqCst);
    assert!(reading.join().unwrap() > 0);
    assert_eq!(node.volumes()[0].reads_failed, 0);
    for order in [order, other] {
        assert_eq!(
            std::fs::read(Path::new(&order.target).join("a/b/random")).unwrap(),
            expected
        );
        node.unpublish_order(&order);
    }
    assert!(node.is_clean());
}

/// A client of what is asked beside file systems, over a connection that is there already.
fn care(node: &Node) -> NodeCareClient<Channel> {
    NodeCareClient::new(node.channel().expect("a node"))
}

#[test]
fn a_store_is_looked_at_and_what_is_wrong_with_it_is_said_without_its_password() {
    let node = Node::new();
    let mut care = care(&node);
    let mut check = |store: String| {
        let asked = care.check_store(api::CheckStoreRequest { store });
        let answer = node.runtime.block_on(asked);
        answer.map(tonic::Response::into_inner)
    };
    let held = check(node.machine.store()).unwrap();
    assert!(held.writable);
    // A pack, its index, the flist; the sample's random bytes do not compress.
    assert!(held.objects >= 3 && held.bytes > 700_000, "{held:?}");
    assert_eq!(
        check(format!("00-7f={}", node.machine.store())).unwrap(),
        held
    );
    let closed = free_port();
    let table = [
        (
            format!("http://me:hunter2@127.0.0.1:{closed}/x"),
            Code::Unavailable,
        ),
        (
            format!("7f-00=s3://me:hunter2@bucket?endpoint=http://127.0.0.1:{closed}"),
            Code::InvalidArgument,
        ),
        (
            "no such thing://me:hunter2@x".to_owned(),
            Code::InvalidArgument,
        ),
        (String::new(), Code::InvalidArgument),
    ];
    for (store, expected) in table {
        let refused = check(store.clone()).unwrap_err();
        assert_eq!(refused.code(), expected, "{store}: {refused:?}");
        assert!(!refused.message().contains("hunter2"), "{refused:?}");
    }
    let log = std::fs::read_to_string(node.machine.path("node.log")).unwrap();
    assert!(
        log.contains("CheckStore") && !log.contains("hunter2"),
        "{log}"
    );
}

#[test]
fn a_node_with_volumes_is_not_left_and_goes_on() {
    let node = Node::new();
    let order = api::PublishRequest {
        pod: Some(api::Pod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "1".into(),
        }),
        ..node.order("v")
    };
    node.publish(&order).unwrap();
    let holder = node.machine.daemon("holder");
    let mut care = care(&node);
    let asked = care.leave(api::LeaveRequest { force: false });
    let refused = node.runtime.block_on(asked).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(refused.message().contains("pod shop/web"), "{refused:?}");
    node.publish(&node.order("w")).unwrap();
    assert_eq!(node.machine.daemon("holder"), holder);
    node.unpublish("v", "").unwrap();
    node.unpublish("w", "").unwrap();
}

#[test]
fn a_node_that_is_left_has_nothing_of_lamina_and_stays_so_until_it_is_started_again() {
    let mut node = Node::new();
    for force in [false, true] {
        // Somebody has a file of a volume open all the while.
        let order = node.order("v");
        node.publish(&order).unwrap();
        let open = std::fs::File::open(node.target("v").join("a/b/text")).unwrap();
        if !force {
            node.unpublish_order(&order);
        }
        std::fs::create_dir_all(node.machine.path("state/theirs")).unwrap();
        let mut care = care(&node);
        let mut volumes = NodeClient::new(node.channel().unwrap());
        for _ in ["at first", "again"] {
            let left = care.leave(api::LeaveRequest { force });
            node.runtime.block_on(left).unwrap();
            assert_eq!(node.machine.daemons(), [] as [i32; 0]);
            assert_eq!(node.machine.mounted(), [] as [PathBuf; 0]);
            assert!(!node.machine.path("run").exists());
            let state = std::fs::read_dir(node.machine.path("state")).unwrap();
            let names: Vec<_> = state.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, ["theirs"]);
        }
        drop(open);
        let refused = node.runtime.block_on(volumes.publish(order.clone()));
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        let ensure = api::EnsureRequest {
            source: Some(node.source()),
            ..api::EnsureRequest::default()
        };
        let refused = node.runtime.block_on(async {
            let mut progress = volumes.ensure(ensure).await?.into_inner();
            progress.message().await
        });
        assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
        let gone = api::UnpublishRequest {
            volume_id: order.volume_id.clone(),
            target: order.target.clone(),
        };
        node.runtime.block_on(volumes.unpublish(gone)).unwrap();
        let listed = volumes.list_volumes(api::ListVolumesRequest {});
        let _ = node.runtime.block_on(listed);
        assert_eq!(node.machine.daemons(), [] as [i32; 0]);
        node.kill();
        node.start();
        node.publish(&order).unwrap();
        node.unpublish_order(&order);
    }
}

/// The control groups that a test made, if nobody else is in them.
struct Groups;

impl Drop for Groups {
    fn drop(&mut self) {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        for hierarchy in hierarchies.flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join("lamina"));
        }
        let _ = std::fs::remove_dir("/sys/fs/cgroup/lamina");
    }
}

/// A pod: a mount namespace and control groups of its own, both gone with it.
#[test]
fn started_from_a_pod_the_instance_is_of_the_host() {
    if let Err(error) = std::fs::read_link("/proc/1/ns/mnt") {
        eprintln!("SKIPPED: this machine's process 1 cannot be looked at: {error}");
        return;
    }
    let _groups = Groups;
    let pod = [
        "unshare",
        "--mount",
        "--ipc",
        "--uts",
        "--propagation",
        "private",
    ];
    let mut node = Node::started_by(&pod, &["--outside-pod"]);
    let order = node.order("v");
    node.publish(&order).unwrap();
    let ns = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let serving = i32::try_from(node.serving.as_ref().unwrap().id()).unwrap();
    assert_ne!(ns(serving), ns(1), "the test's pod is none");
    for role in ["holder", "mountd", "agent"] {
        let pid = node.machine.daemon(role).unwrap();
        assert_eq!(ns(pid), ns(1), "{role}");
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(
            groups.lines().all(|line| line.ends_with(":/lamina")),
            "{role}: {groups}\n{}",
            node.machine.log()
        );
        let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid)).unwrap();
        let holder = node.machine.daemon("holder").unwrap();
        assert_eq!(session.as_raw_nonzero().get(), holder);
        let exe = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert!(
            exe.to_string_lossy().contains("/state/bin/lamina-"),
            "{}",
            exe.display()
        );
    }
    assert_eq!(
        std::fs::read(node.target("v").join("a/hello")).unwrap(),
        b"hello\n"
    );
    node.kill();
    assert_eq!(
        std::fs::read(node.target("v").join("a/b/c/hard")).unwrap(),
        b"hello\n"
    );
    node.start();
    node.unpublish_order(&order);
    assert!(node.is_clean());
}

/// The same program with other bytes.
fn another_build(node: &Node) -> PathBuf {
    let other = node.machine.path("other");
    let mut build = std::fs::read(env!("CARGO_BIN_EXE_lamina")).unwrap();
    build.push(0);
    std::fs::write(&other, &build).unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    other
}

#[test]
fn another_build_replaces_the_daemons_of_live_volumes_and_restarts_idle_ones() {
    let mut node = Node::new();
    let order = node.order("v");
    let expected = snapshot(&node.machine.path("source"));
    let other = another_build(&node);
    let len = std::fs::metadata(&other).unwrap().len();
    let runs = |node: &Node, role| {
        let pid = node.machine.daemon(role).unwrap();
        std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().len()
    };
    node.publish(&order).unwrap();
    let holder = node.machine.daemon("holder");
    node.kill();
    node.program = other;
    let reading = std::thread::spawn({
        let target = PathBuf::from(&order.target);
        move || snapshot(&target)
    });
    node.start();
    assert_eq!(reading.join().unwrap(), expected);
    assert_eq!(node.machine.daemon("holder"), holder);
    for role in ["mountd", "agent"] {
        assert_eq!(runs(&node, role), len, "{role}");
    }
    assert_eq!(node.try_call().unwrap().warnings, [] as [String; 0]);
    assert_eq!(snapshot(Path::new(&order.target)), expected);
    node.unpublish_order(&order);
    node.kill();
    node.program = env!("CARGO_BIN_EXE_lamina").into();
    node.start();
    assert_ne!(node.machine.daemon("holder"), holder);
    for role in ["holder", "mountd", "agent"] {
        assert_ne!(runs(&node, role), len, "{role}");
    }
    let copies = std::fs::read_dir(node.machine.path("state/bin")).unwrap();
    assert_eq!(copies.count(), 1, "old copies go");
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn http(port: u16, path: &str) -> String {
    use std::io::Read;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn figures_and_health_are_served_over_http() {
    let port = free_port();
    let node = Node::started_by(&[], &["--http", &format!("127.0.0.1:{port}")]);
    let order = node.order("v");
    node.publish(&order).unwrap();
    std::fs::read(node.target("v").join("a/b/random")).unwrap();
    assert!(http(port, "/healthz").starts_with("HTTP/1.1 200"));
    assert!(http(port, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(http(port, "/none").starts_with("HTTP/1.1 404"));
    let metrics = http(port, "/metrics");
    for line in [
        "lamina_volumes{state=\"mounted\"} 1",
        "lamina_agent_up 1",
        "lamina_node_rpc_duration_seconds_count{code=\"Ok\",method=\"Publish\"} 1",
        "lamina_volume_publish_duration_seconds_count{phase=\"total\"} 1",
        "lamina_fetched_bytes_total{from=\"store\"} 700000",
        "lamina_fetched_bytes_total{from=\"peer\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    node.unpublish_order(&order);
}

/// A certificate authority, and what it signs.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        Self { issuer, pem }
    }

    fn sign(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let params = rcgen::CertificateParams::new(names).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    /// What a node is given.
    fn write(&self, dir: &Path) {
        let (cert, key) = self.sign(&["node.lamina.internal"]);
        for (name, text) in [("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &self.pem)] {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    /// Whether a node that trusts `node` answers a client of this authority's.
    fn is_answered(&self, runtime: &tokio::runtime::Runtime, port: u16, node: &Self) -> bool {
        let names = ["client.lamina.internal"];
        self.answer(runtime, port, node, &names) == Some(Code::Ok)
    }

    /// What it answers a client with these names; none if it does not take the connection.
    fn answer(
        &self,
        runtime: &tokio::runtime::Runtime,
        port: u16,
        node: &Self,
        names: &[&str],
    ) -> Option<Code> {
        use tonic::transport::{Certificate, ClientTlsConfig, Identity};
        let (cert, key) = self.sign(names);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&node.pem))
            .identity(Identity::from_pem(cert, key))
            .domain_name("node.lamina.internal");
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap();
        runtime.block_on(async {
            let channel = endpoint.connect().await.ok()?;
            let asked = NodeClient::new(channel)
                .get_info(api::GetInfoRequest {})
                .await;
            // A connection that is refused after the handshake is none.
            let code = asked.map_or_else(|status| status.code(), |_| Code::Ok);
            (code != Code::Unavailable && code != Code::Unknown).then_some(code)
        })
    }
}

#[test]
fn over_tcp_only_clients_of_the_authority_are_answered_and_renewed_ones_are_taken() {
    let port = free_port();
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (Authority::new(), Authority::new());
    first.write(dir.path());
    let (at, tls_dir) = (format!("127.0.0.1:{port}"), dir.path().to_str().unwrap());
    let node = Node::started_by(&[], &["--listen", &at, "--tls-dir", tls_dir]);
    let runtime = &node.runtime;
    assert!(wait_until(|| first.is_answered(runtime, port, &first)));
    assert!(!second.is_answered(runtime, port, &first), "a stranger's");
    let peer = ["node.lamina.internal", "peer.lamina.internal", "node-b"];
    let refused = first.answer(runtime, port, &first, &peer);
    assert_eq!(refused, Some(Code::PermissionDenied), "another node");
    second.write(dir.path());
    assert!(wait_until(|| second.is_answered(runtime, port, &second)));
    assert!(
        !first.is_answered(runtime, port, &second),
        "the old authority's"
    );
}

#[test]
fn without_a_certificate_volumes_are_mounted_and_nobody_is_served_over_tcp() {
    let (port, http_port) = (free_port(), free_port());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "T").unwrap();
    std::fs::write(dir.path().join("ca.crt"), Authority::new().pem).unwrap();
    let file = |option: &str, name: &str| format!("{option}={}", dir.path().join(name).display());
    let (token, ca) = (file("--token-file", "token"), file("--ca-file", "ca.crt"));
    // Nobody answers there.
    let operator = format!("--certificates-from=127.0.0.1:{}", free_port());
    let listen = format!("--listen=127.0.0.1:{port}");
    let at = format!("--http=127.0.0.1:{http_port}");
    let node = Node::started_by(&[], &[&operator, &token, &ca, &listen, &at]);
    let order = node.order("v");
    node.publish(&order).unwrap();
    assert!(http(http_port, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let metrics = http(http_port, "/metrics");
    let line = "lamina_node_certificate_not_after_seconds 0";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
    node.unpublish_order(&order);
}

#[test]
fn a_node_that_shall_ask_for_a_certificate_has_to_know_how() {
    let machine = Machine::new();
    let asks = ["node", "--certificates-from", "operator:7160"];
    let said = machine.fails(2, &asks);
    assert!(
        said.contains("--token-file") && said.contains("--ca-file"),
        "{said}"
    );
    let said = machine.fails(2, &["node", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("--certificates-from"), "{said}");
    let both = [&asks[..], &["--tls-dir", "/tls"]].concat();
    machine.fails(2, &both);
}

#[test]
fn what_a_killed_node_was_looking_at_is_unmounted_by_the_next() {
    let mut node = Node::new();
    let left = node.machine.dir("state/warm/left");
    node.kill();
    let cache = node.machine.path("state/cache");
    let cache = ["--cache", cache.to_str().unwrap()];
    node.machine
        .ok(&[&["mount", "x.fl", "state/warm/left"][..], &cache].concat());
    assert!(std::fs::read(left.join("a/hello")).is_ok());
    node.start();
    assert!(!left.exists());
}
