//! `lamina exec` and `lamina status`: through `lamina proxy` and `lamina afslet` as processes, with real sandboxes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::{Child, Command, Output, Stdio};

use crate::afslet::support::{Afslet, sleepers};
use crate::machine::{DEADLINE, text, wait_until};

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

/// A proxy before an afslet; both end with it.
pub(crate) struct Cluster {
    proxy: Option<Child>,
    pub(crate) at: SocketAddr,
    http: SocketAddr,
    pub(crate) afslet: Afslet,
}

impl Cluster {
    fn new() -> Self {
        Self::before(Afslet::new(&[
            "--warm", "0", "--cpu", "4", "--memory", "512",
        ]))
    }

    pub(crate) fn before(afslet: Afslet) -> Self {
        let mut cluster = Self {
            proxy: None,
            at: free(),
            http: free(),
            afslet,
        };
        cluster.start_proxy();
        cluster
    }

    /// Returns when it knows the afslet.
    pub(crate) fn start_proxy(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.afslet.machine.path("proxy.log"))
            .unwrap();
        let proxy = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["proxy", "--listen", &self.at.to_string()])
            .args(["--http", &self.http.to_string()])
            .args(["--afslet", &self.afslet.listen.to_string()])
            .args(["--drain-timeout", "1s"])
            .env_remove("RUST_LOG")
            .stderr(log)
            .spawn();
        self.proxy = Some(proxy.unwrap());
        let knows = || {
            self.get("/status")
                .is_some_and(|said| said.contains("\"open\""))
        };
        assert!(
            wait_until(knows),
            "{}\n{}",
            self.proxy_log(),
            self.afslet.logs()
        );
    }

    /// SIGKILL.
    pub(crate) fn kill_proxy(&mut self) {
        let mut proxy = self.proxy.take().unwrap();
        proxy.kill().unwrap();
        proxy.wait().unwrap();
    }

    pub(crate) fn proxy_log(&self) -> String {
        std::fs::read_to_string(self.afslet.machine.path("proxy.log")).unwrap_or_default()
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.http).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// `lamina exec` with these options, on the image of the afslet.
    fn command(&self, options: &[&str], command: &[&str]) -> Command {
        let mut exec = Command::new(env!("CARGO_BIN_EXE_lamina"));
        exec.args(["exec", "--proxy", &self.at.to_string(), "--memory", "64MiB"])
            .args(options)
            .arg(format!("flist:{}", self.afslet.digest))
            .arg("--")
            .args(command)
            .env_remove("RUST_LOG")
            .current_dir(self.afslet.machine.path(""))
            .stdin(Stdio::null());
        exec
    }

    fn exec(&self, options: &[&str], command: &[&str]) -> Output {
        self.command(options, command).output().unwrap()
    }

    fn sh(&self, options: &[&str], script: &str) -> Output {
        self.exec(options, &["sh", "-c", script])
    }

    fn path(&self, name: &str) -> String {
        self.afslet.machine.path(name).display().to_string()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}

/// Its code, what it wrote and what it complained of.
#[track_caller]
fn gave(ran: &Output, code: i32) -> (String, String) {
    let (out, error) = (text(&ran.stdout), text(&ran.stderr));
    assert_eq!(ran.status.code(), Some(code), "{out}\n{error}");
    (out, error)
}

#[test]
fn a_directory_goes_up_logs_come_back_and_the_changes_are_saved() {
    let cluster = Cluster::new();
    let src = cluster.afslet.machine.dir("src");
    std::fs::create_dir(src.join("sub")).unwrap();
    std::fs::write(src.join("sub/run.sh"), "echo ran $1\n").unwrap();
    std::fs::set_permissions(
        src.join("sub/run.sh"),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    symlink("/etc/hostname", src.join("link")).unwrap();
    std::fs::write(src.join("large"), vec![b'x'; 9 << 20]).unwrap();
    std::fs::write(cluster.path("one"), "alone\n").unwrap();
    let script = "sh /src/sub/run.sh it; readlink /work/link; stat -c '%a %u' /src/sub/run.sh; cat /etc/one; \
                  wc -c < /src/large; echo $A $B $PWD; id -u; echo oops >&2; echo new > /etc/new; exit 7";
    let options = [
        "--upload",
        "src",
        "--upload",
        "src:/work",
        "--file",
        "one:/etc/one",
        "--env",
        "A=1 2",
        "--env",
        "B",
        "--workdir",
        "/tmp",
        "--user",
        "web",
        "--timeout",
        "60s",
        "--diff",
        "d.tar.gz",
    ];
    let ran = cluster
        .command(&options, &["sh", "-c", script])
        .env("B", "here")
        .output()
        .unwrap();
    let (out, error) = gave(&ran, 7);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        [
            "ran it",
            "/etc/hostname",
            "755 0",
            "alone",
            "9437184",
            "1 2 here /tmp",
            "33"
        ],
        "{out} {error}"
    );
    assert!(error.starts_with("oops\n"), "{error}");
    let listed = Command::new("tar")
        .args(["-tzf", &cluster.path("d.tar.gz")])
        .output()
        .unwrap();
    let listed = text(&listed.stdout);
    for name in ["src/sub/run.sh", "work/link", "etc/one"] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    cluster.afslet.assert_nothing_left();
}

#[test]
fn it_exits_as_the_command_did_and_says_which_limit_was_hit() {
    let cluster = Cluster::new();
    assert_eq!(
        gave(&cluster.exec(&[], &["echo", "hi"]), 0),
        ("hi\n".into(), String::new())
    );
    gave(&cluster.sh(&[], "exit 42"), 42);
    gave(&cluster.sh(&[], "kill -TERM $$"), 143);
    let (_, error) = gave(&cluster.exec(&[], &["/no/such"]), 127);
    assert!(
        error.contains("\"/no/such\"") && error.contains("No such file"),
        "{error}"
    );
    let (_, error) = gave(&cluster.exec(&[], &["nosuch"]), 127);
    assert!(error.contains("there is no \"nosuch\""), "{error}");
    gave(&cluster.exec(&[], &["/etc"]), 126);
    let (_, error) = gave(&cluster.sh(&["--timeout", "200ms"], "sleep 300"), 137);
    assert!(error.contains("error: "), "{error}");
    let (_, error) = gave(&cluster.sh(&[], "tail /dev/zero"), 137);
    let limit = "error: out of memory: a process was killed: --memory is 64 MiB";
    assert!(error.contains(limit), "{error}");
    let fill = "cat /dev/zero > /tmp/zero";
    let (_, error) = gave(&cluster.sh(&["--disk", "2MiB"], fill), 1);
    let limit = "error: its changes fill what they may: --disk is 2 MiB";
    assert!(error.contains(limit), "{error}");
    // Also one that ended it only in so far as it gave up.
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 9 & i=$((i + 1)); done; wait";
    let (_, error) = gave(&cluster.sh(&["--pids", "20"], bomb), 2);
    assert!(error.contains("--pids is 20"), "{error}");
    let (out, _) = gave(&cluster.sh(&[], "printf '\\377\\000a'"), 0);
    assert_eq!(
        cluster.sh(&[], "printf '\\377\\000a'").stdout,
        b"\xff\0a",
        "{out}"
    );
    cluster.afslet.assert_nothing_left();
}

#[test]
fn what_fails_is_125_with_the_reason_and_leaves_no_file() {
    let cluster = Cluster::new();
    let odd = std::ffi::OsStr::from_bytes(b"bad\xff");
    std::fs::write(cluster.afslet.machine.dir("odd").join(odd), "x").unwrap();
    for (options, said) in [
        (&["--cpu", "5"][..], "does not fit"),
        (
            &["--node", "other"],
            "--node: there is no node \"other\"; there is one",
        ),
        (&["--timeout", "1000h"], "--timeout: 3600000s is more"),
        (&["--disk", "1TiB"], "--disk: 1048576 MiB is more"),
        (&["--cap-add", "SYS_ADMIN"], "--cap-add[0]: no capability"),
        (
            &["--platform", "linux/arm64"],
            "--platform: a flist is of one",
        ),
        (&["--upload", "odd"], r#"its name is not UTF-8: "bad\xff""#),
        (&["--upload", "none"], "find none"),
        (&["--upload", "/etc/hostname"], "--file"),
        (&["--file", "/etc/hostname"], "FILE:/PATH"),
        (&["--file", "/etc/hostname:/a/../b"], "`..`"),
        (&["--diff", "none/d.tar.gz"], "no directory none"),
        (&["--diff", "/dev/full"], "it is a character device"),
        (&["--net", "host", "--diff", "d.tar.gz"], "network"),
        (
            &["--user", "nobody-of-that-name", "--diff", "d.tar.gz"],
            "nobody-of-that-name",
        ),
    ] {
        let (_, error) = gave(&cluster.exec(options, &["true"]), 125);
        assert!(error.contains(said), "{options:?}: {error}");
    }
    assert!(!cluster.afslet.machine.path("d.tar.gz").exists());
    let nobody = Command::new(env!("CARGO_BIN_EXE_lamina"))
        .args(["exec", "--proxy", "127.0.0.1:1", "debian", "--", "true"])
        .output()
        .unwrap();
    let (_, error) = gave(&nobody, 125);
    assert!(
        error.contains("connect to the proxy at 127.0.0.1:1"),
        "{error}"
    );
    cluster.afslet.assert_nothing_left();
}

#[test]
fn logs_come_as_they_are_written_and_ctrl_c_ends_the_run() {
    let cluster = Cluster::new();
    for (signal, code) in [
        (rustix::process::Signal::INT, 130),
        (rustix::process::Signal::TERM, 143),
    ] {
        let mut exec = cluster.command(
            &["--diff", "d.tar.gz"],
            &["sh", "-c", "echo on; sleep 98765"],
        );
        let mut running = exec.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(running.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "on\n");
        assert!(wait_until(|| sleepers("98765") == 1));
        rustix::process::kill_process(rustix::process::Pid::from_child(&running), signal).unwrap();
        assert_eq!(running.wait().unwrap().code(), Some(code));
        assert!(wait_until(|| sleepers("98765") == 0));
    }
    let names = std::fs::read_dir(cluster.afslet.machine.path("")).unwrap();
    let left: Vec<_> = names.flatten().map(|entry| entry.file_name()).collect();
    let is_left = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with(".tmp") || name.starts_with("d.tar")
    };
    assert!(!left.iter().any(is_left), "{left:?}");
    // Who stops reading ends it as a pipe does here.
    let mut exec = cluster.command(&[], &["yes"]);
    let mut running = exec.stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 2];
    running
        .stdout
        .take()
        .unwrap()
        .read_exact(&mut some)
        .unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(141));
    cluster.afslet.assert_nothing_left();
}

#[test]
fn a_proxy_that_is_killed_or_ends_takes_its_runs_with_it_and_leaves_nothing() {
    for signal in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
        let mut cluster = Cluster::new();
        let mut exec = cluster.command(&[], &["sh", "-c", "echo on; sleep 98764"]);
        let mut running = exec
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(running.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let proxy = cluster.proxy.as_mut().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(proxy), signal).unwrap();
        let ended = running.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(125), "{}", text(&ended.stderr));
        let ended = cluster.proxy.as_mut().unwrap().wait().unwrap();
        assert_eq!(ended.success(), signal == rustix::process::Signal::TERM);
        assert!(wait_until(|| sleepers("98764") == 0));
        cluster.afslet.assert_nothing_left();
    }
}

#[test]
fn status_shows_the_afslet_as_a_table_and_as_json() {
    let cluster = Cluster::new();
    let status = |more: &[&str]| {
        let ran = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(["status", "--proxy", &cluster.at.to_string()])
            .args(more)
            .output()
            .unwrap();
        gave(&ran, 0).0
    };
    let table = status(&[]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(
        row[..5],
        [
            "one",
            &cluster.afslet.listen.to_string(),
            "open",
            "0",
            "0/4"
        ],
        "{table}"
    );
    for more in [&["--json"][..], &["-o", "json"]] {
        let json: serde_json::Value = serde_json::from_str(&status(more)).unwrap();
        assert_eq!(json["summary"]["afslet_reachable"], 1);
        assert_eq!(json["afslets"][0]["limit_memory_mb"], 512);
        assert_eq!(json["afslets"][0]["node_id"], "one");
    }
    let nobody = Command::new(env!("CARGO_BIN_EXE_lamina"))
        .args(["status", "--proxy", "127.0.0.1:1"])
        .output()
        .unwrap();
    gave(&nobody, 6);
}

/// Once, flists of this machine were looked for at Docker Hub.
#[test]
fn what_can_only_be_a_file_is_looked_for_nowhere_else() {
    let machine = crate::mounts::packed();
    let digest = machine.json(&["inspect", "x.fl"])["digest"].clone();
    let name = format!("name it flist:{}", digest.as_str().unwrap());
    for (image, why) in [
        ("bb.fl", "there is no file bb.fl"),
        ("./x.fl.", "there is no file ./x.fl."),
        ("./source", "./source is a directory"),
        ("x.fl", &name),
        ("/etc/hostname", "name it flist:DIGEST"),
        ("flist:x.fl", "give its digest, 64 hex digits"),
        ("flist:sha256:00", "give its digest, 64 hex digits"),
    ] {
        // Nobody is asked.
        let exec = ["exec", "--proxy", "127.0.0.1:1", image, "--", "true"];
        let said = machine.fails(125, &exec);
        assert!(said.contains(why), "{image}: {said}");
    }
    for (image, why) in [
        ("bb.fl", "there is no file bb.fl"),
        ("./bb", "there is no file ./bb"),
        ("./source", "./source is a directory"),
    ] {
        let said = machine.fails(125, &["run", image, "true"]);
        assert!(said.contains(why), "{image}: {said}");
    }
}

#[test]
fn a_variable_has_a_name_and_a_directory_begins_at_the_root() {
    let machine = crate::machine::Machine::new();
    for verb in ["run", "exec"] {
        for variable in ["", "=x"] {
            let said = machine.fails(2, &[verb, "-e", variable, "x.fl", "true"]);
            assert!(said.contains("give NAME=VALUE"), "{said}");
        }
        for directory in ["", "tmp"] {
            let said = machine.fails(2, &[verb, "-w", directory, "x.fl", "true"]);
            assert!(said.contains("begins with `/`"), "{said}");
        }
    }
}

#[test]
fn a_proxy_does_not_serve_anybody_by_mistake() {
    let machine = crate::machine::Machine::new();
    let said = machine.fails(2, &["proxy"]);
    assert!(said.contains("--afslet"), "{said}");
    let open = ["proxy", "--listen", "0.0.0.0:0", "--afslet", "a:1"];
    let said = machine.fails(2, &open);
    assert!(said.contains("--tls-dir"), "{said}");
    let said = machine.fails(2, &["proxy", "--afslet", "nonsense"]);
    assert!(said.contains("HOST:PORT"), "{said}");
    let listen = [
        "proxy",
        "--listen",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
        "--afslet",
        "a:1",
    ];
    let said = machine.fails(3, &[&listen[..], &["--tls-dir", "/nowhere"]].concat());
    assert!(said.contains("tls.crt"), "{said}");
}

#[test]
fn the_page_has_every_option() {
    let machine = crate::machine::Machine::new();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/proxy.md");
    let page = std::fs::read_to_string(page).unwrap();
    for verb in ["proxy", "exec", "status"] {
        let help = machine.ok(&[verb, "--help"]);
        let words = help.split(|c: char| !c.is_ascii_lowercase() && c != '-');
        let is_option = |word: &&str| word.starts_with("--") && word.len() > 4;
        for option in words.filter(is_option) {
            let is_common = ["--help", "--version", "--verbose"].contains(&option);
            assert!(is_common || page.contains(option), "{verb} {option}");
        }
    }
}
