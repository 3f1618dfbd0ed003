//! What a command finds around it, and what is left of it.

use crate::sandbox::{Bench, DEADLINE, Wish, patient, spec};
use lamina_runtime::Ended;
use lamina_runtime::spec::{Identity, WindowSize};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// A tree is killed within a second of its time's end; a machine that does much else beside may take five.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_command_finds_itself_alone_in_its_image() {
    let bench = Bench::new();
    let script = "echo $$ $(id -u) $(id -g) $(hostname) $PWD; ls /; ls /dev; ps | wc -l; ls /sys/devices/system; \
                  ip link | grep -c lo:; ls /proc/self/fd | wc -l";
    let outcome = bench.sh(&Wish::default(), script);
    assert_eq!(outcome.ended, Ended::Exited(0), "{outcome:?}");
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(lines[0], "2 0 0 box /", "{outcome:?}");
    for name in [
        "bin", "proc", "dev", "sys", "null", "urandom", "pts", "shm", "cpu",
    ] {
        assert!(lines.contains(&name), "{name}: {outcome:?}");
    }
    assert!(
        !lines.contains(&"kmsg") && !lines.contains(&"sda"),
        "{outcome:?}"
    );
}

#[test]
fn image_files_of_root_are_root_s_and_changes_stay_in_the_sandbox() {
    let bench = Bench::new();
    let script = "stat -c '%u %g %n' /bin/busybox /home/web /etc/shadow; cat /etc/shadow; echo changed > /etc/shadow; \
                  touch /new; stat -c '%u' /new; rm /bin/ls; cat /etc/shadow";
    let outcome = bench.sh(&Wish::default(), script);
    let expected = "0 0 /bin/busybox\n33 34 /home/web\n0 0 /etc/shadow\nsecret\n0\nchanged\n";
    assert_eq!(
        (outcome.out.as_str(), outcome.error.as_str()),
        (expected, "")
    );
    let shadow = std::fs::read_to_string(bench.path("image/etc/shadow")).unwrap();
    assert_eq!(shadow, "secret\n");
    let again = bench.sh(&Wish::default(), "ls /bin/ls /new");
    assert_eq!(again.out, "/bin/ls\n", "{again:?}");
}

#[test]
fn another_user_is_that_user_only() {
    let bench = Bench::new();
    let wish = Wish {
        user: Identity {
            uid: 33,
            gid: 34,
            groups: vec![50],
        },
        ..Wish::default()
    };
    let outcome = bench.sh(
        &wish,
        "id -u; id -g; id -G; echo x > /home/web/x && echo mine; cat /etc/shadow",
    );
    assert_eq!(outcome.out, "33\n34\n34 50\nmine\n", "{outcome:?}");
    assert!(outcome.error.contains("denied"), "{outcome:?}");
}

#[test]
fn exit_codes_and_signals_come_out() {
    let bench = Bench::new();
    let wish = Wish::default();
    assert_eq!(bench.sh(&wish, "exit 7").ended, Ended::Exited(7));
    assert_eq!(bench.sh(&wish, "kill -TERM $$").ended, Ended::Signaled(15));
    assert_eq!(bench.run(&wish, &["nosuch"]).ended.exit_code(), 127);
    assert_eq!(bench.run(&wish, &["/etc/passwd"]).ended.exit_code(), 126);
    assert_eq!(bench.run(&wish, &["/bin"]).ended.exit_code(), 126);
    assert_eq!(bench.run(&wish, &["true"]).ended, Ended::Exited(0));
}

#[test]
fn a_signal_from_outside_reaches_the_command() {
    let bench = Bench::new();
    let mut running = bench.start("trap 'exit 42' USR1; while :; do sleep 0.01; done");
    let signaller = running.signaller().unwrap();
    let deadline = Instant::now() + patient(DEADLINE);
    let ended = loop {
        // Until it has its trap, the signal ends it; before it is a shell it has none to lose.
        std::thread::sleep(Duration::from_millis(50));
        let _ = signaller.signal(libc::SIGUSR1);
        if let Some(ended) = running.wait(Some(Instant::now())).unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline);
    };
    assert!(
        matches!(ended, Ended::Exited(42) | Ended::Signaled(10)),
        "{ended:?}"
    );
}

#[test]
fn what_a_command_leaves_running_ends_with_it() {
    let bench = Bench::new();
    let mark = format!("{}", 100_000 + std::process::id());
    let script = format!("(setsid sleep {mark} &) ; (sleep {mark} &) ; exit 0");
    let outcome = bench.sh(&Wish::default(), &script);
    assert_eq!(outcome.ended, Ended::Exited(0));
    assert_eq!(processes_with(&mark), 0);
}

#[test]
fn a_timeout_ends_everything() {
    let bench = Bench::new();
    let mark = format!("{}", 200_000 + std::process::id());
    let wish = Wish {
        timeout: patient(Duration::from_millis(300)),
        ..Wish::default()
    };
    let began = Instant::now();
    let outcome = bench.sh(
        &wish,
        &format!("trap '' TERM INT; (setsid sleep {mark} &); sleep {mark}"),
    );
    let took = began.elapsed();
    assert!(outcome.timed_out && took >= wish.timeout, "{took:?}");
    let within = wish.timeout + patient(KILLED_WITHIN);
    assert!(took < within, "{took:?} of {within:?}");
    assert_eq!(outcome.ended.exit_code(), 137);
    assert_eq!(processes_with(&mark), 0);
}

#[test]
fn sandboxes_end_with_their_supervisor_s_handle_and_with_the_spawner() {
    let bench = Bench::new();
    let mark = format!("{}", 300_000 + std::process::id());
    let script = format!("sleep {mark}");
    let first = bench.start(&script);
    let second = bench.start(&script);
    wait_until(|| processes_with(&mark) == 2);
    drop(first);
    assert_eq!(processes_with(&mark), 1);
    drop(bench);
    wait_until(|| processes_with(&mark) == 0);
    drop(second);
}

#[test]
fn a_terminal_is_the_command_s_own() {
    let bench = Bench::new();
    let prepared = bench.prepare();
    let root = bench.root(&prepared, 16 << 20);
    let mut spec = spec(
        &Wish::default(),
        &["/bin/sh", "-c", "tty; stty size; [ -t 0 ] && echo yes"],
    );
    spec.terminal = Some(WindowSize {
        rows: 33,
        columns: 99,
    });
    let mut running = prepared.start(&spec, root.root(), None).unwrap();
    let mut master = File::from(running.take_terminal().unwrap());
    let mut out = String::new();
    // The kernel ends a terminal that nobody has with EIO.
    let _ = master.read_to_string(&mut out);
    assert_eq!(running.wait(None).unwrap(), Some(Ended::Exited(0)), "{out}");
    assert_eq!(out, "/dev/pts/0\r\n33 99\r\nyes\r\n");
}

#[test]
fn an_image_whose_proc_is_a_link_is_refused() {
    let bench = Bench::new();
    std::os::unix::fs::symlink("/etc", bench.path("image/proc")).unwrap();
    let prepared = bench.prepare();
    let root = bench.root(&prepared, 16 << 20);
    let refused = prepared.start(&spec(&Wish::default(), &["true"]), root.root(), None);
    let refused = refused.map(drop).unwrap_err().to_string();
    assert!(refused.contains("/proc"), "{refused}");
}

fn processes_with(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let is_it = |line: &Vec<u8>| {
        let mut words = line.split(|byte| *byte == 0);
        words.next() == Some(b"sleep") && words.any(|word| word == argument.as_bytes())
    };
    lines.filter(is_it).count()
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patient(DEADLINE);
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}
