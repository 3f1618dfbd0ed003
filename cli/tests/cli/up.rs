//! `lamina up` as a process tree. Each test has a loopback address of its own, since ports are fixed.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::machine::{DEADLINE, Machine, wait_until};

const ROLES: [&str; 4] = ["discovery", "node", "afslet", "proxy"];
const NAMED: &[&str] = &["--node-name", "a-node"];

/// A tree; ended when a test fails before it did.
struct Tree {
    child: Child,
    address: &'static str,
    log: PathBuf,
}

impl Tree {
    fn start(machine: &Machine, address: &'static str, more: &[&str]) -> Self {
        let log = machine.path("up.log");
        let child = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["up", "--address", address])
            .args(more)
            .current_dir(machine.path("state"))
            .env("LAMINA_RUN_DIR", machine.path("run"))
            .env("LAMINA_STATE_DIR", machine.path("state"))
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            log,
        }
    }

    /// What it and its roles say of themselves.
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it says until it is ready.
    fn ready(&mut self) -> String {
        let mut said = String::new();
        for line in BufReader::new(self.child.stdout.take().unwrap()).lines() {
            said += &(line.unwrap() + "\n");
            if said.contains("Ctrl-C") {
                return said;
            }
        }
        panic!("it ended without being ready: {said}");
    }

    fn get(&self, port: u16, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((self.address, port)).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn is_ready(&self, port: u16) -> bool {
        let answer = self.get(port, "/readyz");
        answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Its child of this role.
    fn role(&self, role: &str) -> Option<Pid> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let mut pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        pids.find(|pid: &i32| {
            let said = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            said.split(|byte| *byte == 0).nth(1) == Some(role.as_bytes())
        })
        .and_then(Pid::from_raw)
    }

    fn ask_to_end(&self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // One that has ended is only waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn until(what: &str, is: impl FnMut() -> bool) {
    assert!(wait_until(is), "not in time: {what}");
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_role_that_is_killed_is_started_again_and_all_end_when_asked() {
    let machine = Machine::new();
    let mut tree = Tree::start(&machine, "127.77.0.1", NAMED);
    let said = tree.ready();
    let socket = machine.path("run").join("node.sock");
    assert!(said.contains(&socket.display().to_string()), "{said}");
    assert!(said.contains("discovery  127.77.0.1:7070"), "{said}");
    assert!(said.contains("commands   127.77.0.1:7180"), "{said}");
    for (role, port) in [
        ("discovery", 7071),
        ("node", 7151),
        ("afslet", 7171),
        ("proxy", 7181),
    ] {
        let first = tree.role(role).unwrap();
        kill_process(first, Signal::KILL).unwrap();
        until(&format!("another {role}"), || {
            tree.role(role).is_some_and(|next| next != first) && tree.is_ready(port)
        });
    }
    let children = ROLES.map(|role| tree.role(role).unwrap());
    tree.ask_to_end();
    assert!(tree.child.wait().unwrap().success());
    assert!(children.iter().all(|child| !is_alive(*child)));
}

#[test]
fn nothing_of_a_tree_outlives_its_first_process() {
    let machine = Machine::new();
    let mut tree = Tree::start(&machine, "127.77.0.2", NAMED);
    tree.ready();
    let children = ROLES.map(|role| tree.role(role).unwrap());
    tree.child.kill().unwrap();
    tree.child.wait().unwrap();
    until("its children have ended", || {
        children.iter().all(|child| !is_alive(*child))
    });
}

#[test]
fn a_command_runs_in_the_tree_for_who_has_its_users_certificate() {
    let machine = Machine::new();
    let made = Command::new("sh")
        .args([
            "-c",
            "mkdir -p img/bin && cp /bin/busybox img/bin/busybox && ln -s busybox img/bin/sh",
        ])
        .current_dir(machine.path(""))
        .status();
    assert!(made.unwrap().success());
    let store = machine.store();
    let packed = ["pack", "img", "-o", "x.fl", "-s", &store, "--publish"];
    machine.ok(&packed);
    let inspected = machine.json(&["inspect", "x.fl"]);
    let image = format!("flist:{}", inspected["digest"].as_str().unwrap());
    let more = [NAMED, &["--store", &store]].concat();
    let mut tree = Tree::start(&machine, "127.77.0.6", &more);
    tree.ready();
    let exec = |tls: &str| {
        let tls = machine.path(&format!("state/authority/{tls}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
        command
            .args(["exec", "--proxy", "127.77.0.6:7180", "--tls-dir"])
            .arg(tls)
            .args([&image, "--", "sh", "-c", "echo from $$; exit 7"]);
        command.output().unwrap()
    };
    let ran = exec("user");
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert!(ran.stdout.starts_with(b"from "), "{ran:?}");
    let refused = exec("node");
    assert_eq!(refused.status.code(), Some(125), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("user.lamina.internal"), "{said}");

    // Who says nothing finds it by the state directory.
    let found = machine.run(&["exec", &image, "--", "sh", "-c", "echo found"]);
    assert_eq!(found.stdout, b"found\n", "{found:?}");

    // One who speaks without TLS to it, or with TLS to who has none, is told what to give.
    let said = machine.fails(6, &["status", "--proxy", "127.77.0.6:7180"]);
    assert!(said.contains("give --tls-dir"), "{said}");
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = plain.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = plain.accept().unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    });
    let tls = machine.path("state/authority/user").display().to_string();
    let said = machine.fails(6, &["status", "--proxy", &at, "--tls-dir", &tls]);
    assert!(said.contains("leave --tls-dir"), "{said}");
    answering.join().unwrap().unwrap();

    // The afslet ends before the node that unmounts its image for it.
    let images = machine.path("state/mounts");
    let mounted = || machine.mounted().iter().any(|at| at.starts_with(&images));
    assert!(mounted());
    tree.ask_to_end();
    assert!(tree.child.wait().unwrap().success());
    assert!(!mounted());
    let said = machine.fails(6, &["status"]);
    assert!(said.contains("start `lamina up`"), "{said}");
}

#[test]
fn a_start_and_an_end_are_nothing_to_warn_of() {
    let machine = Machine::new();
    let mut tree = Tree::start(&machine, "127.77.0.8", NAMED);
    tree.ready();
    tree.ask_to_end();
    assert!(tree.child.wait().unwrap().success());
    let log = tree.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings, Vec::<&str>::new());
}

#[test]
fn commands_can_be_left_out() {
    let machine = Machine::new();
    let more = [NAMED, &["--no-execution"]].concat();
    let mut tree = Tree::start(&machine, "127.77.0.7", &more);
    let said = tree.ready();
    assert!(!said.contains("commands"), "{said}");
    assert!(tree.role("node").is_some());
    assert!(tree.role("afslet").is_none() && tree.role("proxy").is_none());
}

#[test]
fn a_node_of_others_needs_their_certificates() {
    let machine = Machine::new();
    let said = machine.fails(2, &["up", "--join", "127.0.0.1:7070"]);
    assert!(said.contains("--tls-dir"), "{said}");
}

#[test]
fn the_compose_file_starts_a_tree() {
    let text = include_str!("../../../docker-compose.yaml");
    let file: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    let command = file["services"]["lamina"]["command"].as_array().unwrap();
    let mut words: Vec<&str> = command.iter().filter_map(|word| word.as_str()).collect();
    assert_eq!(words.remove(0), "lamina");
    // Refused because of the last words alone: those of the file are understood.
    words.extend(["--join", "127.0.0.1:7070"]);
    let said = Machine::new().fails(2, &words);
    assert!(said.contains("--join needs --tls-dir"), "{said}");
}

#[test]
fn what_cannot_come_right_is_refused_at_once() {
    let machine = Machine::new();
    let mut tree = Tree::start(&machine, "127.77.0.5", NAMED);
    tree.ready();
    let said = machine.fails(1, &["up", "--address", "127.77.0.5"]);
    assert!(said.contains("127.77.0.5:7070"), "{said}");
    // Once, it was asked whether another one runs there.
    let said = machine.fails(2, &["up", "--address", "192.0.2.1"]);
    let why = "--address 192.0.2.1: this machine has no such address";
    assert!(said.contains(why) && !said.contains("another"), "{said}");
    let said = machine.fails(3, &["up", "--tls-dir", "/none"]);
    assert!(said.contains("/none/tls.crt"), "{said}");
    let said = machine.fails(2, &["up", "--join", "nope", "--tls-dir", "/none"]);
    assert!(said.contains("--join nope"), "{said}");
}

#[test]
fn a_second_machine_joins_with_a_certificate_of_the_first() {
    let (first, second) = (Machine::new(), Machine::new());
    let tls = second.path("tls");
    let certify = |name: &str| {
        let (dir, state) = (tls.display().to_string(), first.path("state"));
        let state = state.display().to_string();
        ["certify", name, &dir, "--state", &state].map(str::to_owned)
    };
    let words = certify("second");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = first.fails(1, &words);
    assert!(said.contains("there is no authority"), "{said}");
    let mut one = Tree::start(&first, "127.77.0.3", NAMED);
    one.ready();
    first.ok(&words);
    for bad in ["peer.lamina.internal", "a b", ""] {
        let words = certify(bad);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = first.fails(2, &words);
        assert!(said.contains("node name"), "{said}");
    }
    let dir = tls.display().to_string();
    let join = ["--join", "127.77.0.3:7070", "--tls-dir", &dir];
    let more = [&["--node-name", "second"][..], &join].concat();
    let mut two = Tree::start(&second, "127.77.0.4", &more);
    let said = two.ready();
    assert!(said.contains("discovery  127.77.0.3:7070"), "{said}");
    until("discovery knows both", || {
        let page = one.get(7071, "/metrics").unwrap_or_default();
        page.lines().any(|line| line == "lamina_discovery_nodes 2")
    });
}
