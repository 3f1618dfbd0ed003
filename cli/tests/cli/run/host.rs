//! What a run has of its caller's machine: a terminal, the network, processors.

use super::{assert_nothing_left, cgroups, lamina, machine};
use crate::machine::{DEADLINE, Machine, text, wait_until};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A shell on a terminal of its own, by script(1); what it reads and writes is the terminal's other side.
fn on_a_terminal(machine: &Machine, script: &str) -> Child {
    let program = Path::new(env!("CARGO_BIN_EXE_lamina"));
    let script = format!(
        "PATH={}:$PATH; {script}",
        program.parent().unwrap().display()
    );
    Command::new("script")
        .args(["-qec", &script, "/dev/null"])
        .current_dir(machine.path(""))
        .env("SHELL", "/bin/sh")
        .env("LAMINA_RUN_DIR", machine.path("run"))
        .env("LAMINA_STATE_DIR", machine.path("state"))
        .env("LAMINA_CACHE_DIR", machine.path("cache"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The lines of a terminal until one is this.
fn lines_until(terminal: &mut impl BufRead, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let length = terminal.read_line(&mut line).unwrap();
        assert!(length > 0, "it ended before {last:?}: {lines:?}");
        lines.push(line.trim_end().to_owned());
        if line.trim_end() == last {
            return lines;
        }
    }
}

#[test]
fn a_terminal_is_the_caller_s_and_is_left_as_it_was() {
    let machine = machine();
    let inside = r#"tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all
        trap "echo caught; exit 7" INT; read line; echo "read <$line>"; echo ready; while :; do sleep 0.01; done"#;
    std::fs::write(machine.path("inside"), inside).unwrap();
    let script = r#"stty rows 33 cols 99; stty -g > before; timeout --foreground 60 lamina run -it x.fl -- sh -c "$(cat inside)"; code=$?; stty -g > after; exit $code"#;
    let mut terminal = on_a_terminal(&machine, script);
    let mut typed = terminal.stdin.take().unwrap();
    let mut shown = BufReader::new(terminal.stdout.take().unwrap());
    let began = lines_until(&mut shown, "all");
    assert_eq!(began, ["/dev/pts/0", "33 99", "all"]);
    typed.write_all(b"a word\n").unwrap();
    let read = lines_until(&mut shown, "ready");
    assert!(read.contains(&"read <a word>".to_owned()), "{read:?}");
    // What is typed is the command's to interpret, Ctrl-C as well.
    typed.write_all(b"\x03").unwrap();
    let mut rest = String::new();
    shown.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("caught"), "{rest:?}");
    assert_eq!(terminal.wait().unwrap().code(), Some(7), "{rest:?}");
    let settings = ["before", "after"].map(|name| std::fs::read(machine.path(name)).unwrap());
    assert_eq!(settings[0], settings[1]);
    assert_nothing_left(&machine);
}

#[test]
fn the_host_s_network_is_there_when_asked_for() {
    let machine = machine();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    // Once it has answered, nobody else may come.
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"from the host\n").unwrap();
        drop(stream);
        listener.set_nonblocking(true).unwrap();
        listener
    });
    let nc = ["x.fl", "--", "nc", "-w", "60", "127.0.0.1", &port];
    for without in [&["run"][..], &["run", "--net", "none"]] {
        let said = machine.fails(1, &[without, &nc].concat());
        assert!(said.contains("refused"), "{said}");
    }
    assert!(!answering.is_finished());
    let with = ["run", "--net", "host"];
    assert_eq!(machine.ok(&[&with, &nc[..]].concat()), "from the host\n");
    let listener = answering.join().unwrap();
    let said = machine.fails(1, &[&["run"], &nc[..]].concat());
    assert!(said.contains("refused"), "{said}");
    assert!(listener.accept().is_err());
    assert_nothing_left(&machine);
}

/// What its processors are bounded to, in thousandths, by the files of either version; `None` for no bound.
fn cpu_millis(machine: &Machine) -> Option<u64> {
    let read = |name: &str| {
        let mut files = cgroups(machine)
            .into_iter()
            .map(|dir| Path::new(&dir).join(name));
        files.find_map(|file| std::fs::read_to_string(file).ok())
    };
    let (quota, period) = match read("cpu.max") {
        Some(both) => {
            let (quota, period) = both.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // No bound is `max` in one version and -1 in the other.
    let quota: u64 = quota.trim().parse().ok()?;
    Some(quota * 1000 / period.trim().parse::<u64>().unwrap())
}

/// How often it was made to wait for its next period.
fn throttled(machine: &Machine) -> u64 {
    let stats = cgroups(machine)
        .into_iter()
        .filter_map(|dir| std::fs::read_to_string(Path::new(&dir).join("cpu.stat")).ok());
    let lines: Vec<String> = stats
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let times = lines
        .iter()
        .filter_map(|line| line.strip_prefix("nr_throttled "));
    times
        .map(|times| times.parse::<u64>().unwrap())
        .max()
        .unwrap_or(0)
}

#[test]
fn processors_are_as_many_as_asked_for() {
    let machine = machine();
    let busy = ["x.fl", "--", "sh", "-c", "echo on; while :; do :; done"];
    for (options, millis) in [(&["--cpus", "0.2"][..], Some(200)), (&[], None)] {
        let mut child = lamina(&machine, &[&["run"], options, &busy].concat())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "on\n");
        assert_eq!(cpu_millis(&machine), millis);
        if millis.is_some() {
            assert!(
                wait_until(|| throttled(&machine) > 0),
                "within {DEADLINE:?}"
            );
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(143), "{}", text(&ended.stderr));
    }
    assert_nothing_left(&machine);
}
