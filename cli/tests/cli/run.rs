//! `lamina run`: a command in a copy of a flist, its exit code, and what is left afterwards: nothing.

mod host;

use crate::machine::{Machine, kill, text, wait_until};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// An image of busybox, packed as `x.fl`.
fn machine() -> Machine {
    let machine = Machine::new();
    let script = r"
        set -e
        mkdir -p img/bin img/etc img/tmp img/srv
        cp /bin/busybox img/bin/busybox
        for name in $(img/bin/busybox --list); do [ -e img/bin/$name ] || ln -s busybox img/bin/$name; done
        printf 'root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n' > img/etc/passwd
        chown 33:34 img/srv; echo kept > img/etc/file
    ";
    let made = Command::new("bash")
        .args(["-c", script])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    machine.ok(&["pack", "img", "-o", "x.fl", "-s", &machine.store()]);
    machine
}

fn lamina(machine: &Machine, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
    command
        .args(args)
        .current_dir(machine.path(""))
        .env("LAMINA_RUN_DIR", machine.path("run"))
        .env("LAMINA_STATE_DIR", machine.path("state"))
        .env("LAMINA_CACHE_DIR", machine.path("cache"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Cgroups of sandboxes of the machine, in any hierarchy.
fn cgroups(machine: &Machine) -> Vec<String> {
    let home = machine.path("run/sandboxes");
    let id = lamina_flist::ChunkId::of(home.as_os_str().as_encoded_bytes()).to_string();
    let found = Command::new("find")
        .args([
            "/sys/fs/cgroup",
            "-type",
            "d",
            "-name",
            &format!("lamina-{}-*", &id[..8]),
        ])
        .output()
        .unwrap();
    text(&found.stdout).lines().map(str::to_owned).collect()
}

fn assert_nothing_left(machine: &Machine) {
    let slots = std::fs::read_dir(machine.path("run/sandboxes")).unwrap();
    assert_eq!(slots.count(), 0);
    assert_eq!(cgroups(machine), Vec::<String>::new());
    let sandboxes = machine.path("run/sandboxes");
    let left = machine.mounted();
    let left: Vec<_> = left
        .iter()
        .filter(|at| at.starts_with(&sandboxes))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_command_runs_in_a_copy_and_leaves_nothing() {
    let machine = machine();
    let script = "cat /etc/file; echo changed > /etc/file; cat /etc/file; id -u; pwd; echo $X $HOME; hostname";
    let args = [
        "run",
        "-e",
        "X=1",
        "-w",
        "/tmp/new",
        "--hostname",
        "box",
        "x.fl",
        "--",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(
        machine.ok(&args),
        "kept\nchanged\n0\n/tmp/new\n1 /root\nbox\n"
    );
    assert_nothing_left(&machine);
    assert_eq!(machine.ok(&["run", "x.fl", "cat", "/etc/file"]), "kept\n");
    assert_eq!(
        machine.ok(&[
            "run",
            "-u",
            "web",
            "x.fl",
            "--",
            "sh",
            "-c",
            "id -u; echo $HOME"
        ]),
        "33\n/srv\n"
    );
    assert_nothing_left(&machine);
}

#[test]
fn exit_codes_say_whose_they_are() {
    let machine = machine();
    for (code, args) in [
        (3, &["x.fl", "--", "sh", "-c", "exit 3"][..]),
        (143, &["x.fl", "--", "sh", "-c", "kill -TERM $$"]),
        (127, &["x.fl", "nosuch"]),
        (126, &["x.fl", "/etc/passwd"]),
        (125, &["nosuch/x.fl.", "true"]),
        (125, &["-u", "nobody", "x.fl", "true"]),
        (125, &["x.fl"]),
        (137, &["--timeout", "300ms", "x.fl", "sleep", "100"]),
    ] {
        let args: Vec<&str> = ["run"].iter().chain(args).copied().collect();
        machine.fails(code, &args);
    }
    let said = machine.fails(
        137,
        &[
            "run",
            "--memory",
            "16MiB",
            "x.fl",
            "tail",
            "-c",
            "900000000",
            "/dev/zero",
        ],
    );
    assert!(
        said.contains("out of memory") && said.contains("16"),
        "{said}"
    );
    // Once, each process's own limit was hit before the cgroup's, and nobody said why.
    let many = "i=0; while [ $i -lt 40 ]; do sleep 9 & i=$((i + 1)); done";
    let said = machine.fails(2, &["run", "--pids", "20", "x.fl", "--", "sh", "-c", many]);
    assert!(said.contains("too many processes: --pids is 20"), "{said}");
    let said = machine.fails(127, &["run", "x.fl", "nosuch"]);
    assert!(said.contains("there is no \"nosuch\""), "{said}");
    let fill = "cat /dev/zero > /tmp/zero";
    let said = machine.fails(
        1,
        &["run", "--disk", "2MiB", "x.fl", "--", "sh", "-c", fill],
    );
    let limit = "its changes fill what they may: --disk is 2.00 MiB";
    assert!(said.contains(limit), "{said}");
    let said = machine.fails(125, &["run", "--cache", "x.fl", "x.fl", "true"]);
    assert!(said.contains("x.fl: it is no directory"), "{said}");
    let said = machine.fails(137, &["run", "--timeout", "200ms", "x.fl", "sleep", "100"]);
    assert!(said.contains("timed out"), "{said}");
    let said = machine.fails(125, &["run", "--io-write-bps", "1MiB", "x.fl", "true"]);
    assert!(said.contains("give --scratch disk"), "{said}");
    assert_nothing_left(&machine);
}

#[test]
fn standard_files_are_handed_on() {
    let machine = machine();
    let mut child = lamina(
        &machine,
        &["run", "-i", "x.fl", "--", "sh", "-c", "cat; echo error >&2"],
    )
    .spawn()
    .unwrap();
    let lines: Vec<String> = (0..100_000).map(|line| line.to_string()).collect();
    let sent = lines.join("\n") + "\n";
    let mut input = child.stdin.take().unwrap();
    let to_send = sent.clone();
    let sender = std::thread::spawn(move || input.write_all(to_send.as_bytes()));
    let output = child.wait_with_output().unwrap();
    sender.join().unwrap().unwrap();
    assert_eq!(
        (text(&output.stdout) == sent, text(&output.stderr)),
        (true, "error\n".into())
    );
    let nothing = lamina(&machine, &["run", "x.fl", "cat"]).output().unwrap();
    assert_eq!(
        (nothing.status.code(), nothing.stdout),
        (Some(0), Vec::new())
    );
}

/// A command that says it runs, then does not end.
fn running(machine: &Machine) -> Child {
    let mut child = lamina(
        machine,
        &[
            "run",
            "x.fl",
            "--",
            "sh",
            "-c",
            "trap 'exit 9' TERM; echo on; while :; do sleep 0.01; done",
        ],
    )
    .spawn()
    .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "on\n");
    child
}

#[test]
fn signals_are_handed_on() {
    let machine = machine();
    let mut child = running(&machine);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert_nothing_left(&machine);
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    let machine = machine();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = lamina(&machine, &["run", "x.fl", "echo", "lost"]);
    let output = command.stdout(full.unwrap()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{said}");
    let why = "write the command's standard output: No space left on device";
    assert!(said.contains(why), "{said}");
    assert_nothing_left(&machine);
}

#[test]
fn changes_replace_nothing_but_a_file() {
    let machine = machine();
    let made = Command::new("mkfifo").arg(machine.path("fifo")).status();
    assert!(made.unwrap().success());
    std::os::unix::fs::symlink("aim", machine.path("link")).unwrap();
    std::fs::write(machine.path("aim"), "old").unwrap();
    for (out, why) in [
        ("fifo", "it is a FIFO"),
        ("/dev/full", "it is a character device"),
        (".", "names a directory"),
        ("x.fl", "it is a flist"),
        ("none/d", "there is no directory none"),
        ("-", "not written to standard output"),
    ] {
        // Before the command runs.
        let said = machine.fails(125, &["run", "--diff", out, "x.fl", "--", "echo", "ran"]);
        assert!(said.contains(why) && !said.contains("ran\n"), "{said}");
    }
    // Once, the second one was refused after the run.
    for commit in ["./new", "img/../new"] {
        let both = [
            "run", "--diff", "new", "--commit", commit, "x.fl", "--", "echo", "ran",
        ];
        let out = lamina(&machine, &both).output().unwrap();
        let said = text(&out.stderr);
        assert_eq!(
            (out.status.code(), out.stdout),
            (Some(125), Vec::new()),
            "{said}"
        );
        assert!(said.contains("--diff and --commit both name new"), "{said}");
    }
    machine.ok(&["run", "--diff", "link", "x.fl", "true"]);
    assert!(machine.path("link").is_symlink());
    assert_ne!(std::fs::read(machine.path("aim")).unwrap(), b"old");
}

#[test]
fn signals_after_the_command_s_end_are_ours() {
    let machine = machine();
    // Nobody reads what it wrote, so it is not over when the command is.
    let script = "head -c 30000 /dev/zero; echo >&2 on; while :; do head -c 3000 /dev/zero; done";
    let run = ["run", "--timeout", "1s", "x.fl", "--", "sh", "-c", script];
    let mut child = lamina(&machine, &run).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut line = String::new();
    let mut error = BufReader::new(child.stderr.take().unwrap());
    error.read_line(&mut line).unwrap();
    assert_eq!(line, "on\n");
    let ended = wait_until(|| {
        // The first one may end the command.
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        child.try_wait().unwrap().is_some()
    });
    assert!(ended, "it waits for a reader for ever");
    assert_nothing_left(&machine);
}

#[test]
fn what_a_killed_run_leaves_is_taken_down_by_the_next() {
    let machine = machine();
    let mut child = running(&machine);
    assert_eq!(cgroups(&machine).is_empty(), cgroups_are_missing());
    kill(child.id().cast_signed());
    child.wait().unwrap();
    let shell_runs = || {
        let shells = Command::new("pgrep")
            .args(["-f", "trap 'exit 9' TERM; echo on"])
            .output()
            .unwrap();
        // The pattern is among the arguments of nothing else that runs now.
        !shells.stdout.is_empty()
    };
    assert!(wait_until(|| !shell_runs()));
    assert_eq!(machine.ok(&["run", "x.fl", "echo", "fine"]), "fine\n");
    assert_nothing_left(&machine);
}

/// A machine may have none.
fn cgroups_are_missing() -> bool {
    !std::path::Path::new("/sys/fs/cgroup").is_dir()
}

/// An image with a config of its own; what it is to be run as.
fn docker_archive(machine: &Machine) -> &'static str {
    let script = r#"
        set -e
        tar -C img -cf layer.tar .
        diff=$(sha256sum layer.tar | cut -d' ' -f1)
        printf '{"os":"linux","architecture":"amd64","config":{"Entrypoint":["sh","-c"],"Cmd":["pwd; id -u; echo $A"],"Env":["A=b"],"WorkingDir":"/srv","User":"web"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $diff > config.json
        printf '[{"Config":"config.json","RepoTags":["img:1"],"Layers":["layer.tar"]}]' > manifest.json
        tar -cf img.tar manifest.json config.json layer.tar
    "#;
    let made = Command::new("bash")
        .args(["-c", script])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    "docker-archive:img.tar"
}

#[test]
fn an_image_is_converted_once_and_its_config_applies() {
    let machine = machine();
    let image = docker_archive(&machine);
    assert_eq!(machine.ok(&["run", image]), "/srv\n33\nb\n");
    assert_eq!(machine.ok(&["run", image, "echo $0 $A"]), "sh b\n");
    assert_eq!(
        machine.ok(&["run", "--entrypoint", "echo", image, "x"]),
        "x\n"
    );
    assert_nothing_left(&machine);
}

#[test]
fn changes_come_out_as_a_layer() {
    let machine = machine();
    let script = "rm /etc/file; echo new > /new; exit 5";
    machine.fails(
        5,
        &[
            "run",
            "--diff",
            "diff.tar.gz",
            "x.fl",
            "--",
            "sh",
            "-c",
            script,
        ],
    );
    let listed = Command::new("tar")
        .args(["-tzf", "diff.tar.gz"])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert_eq!(
        text(&listed.stdout),
        "etc/\netc/.wh.file\nnew\n",
        "{listed:?}"
    );
    machine.fails(
        125,
        &["run", "--diff", "nosuch/diff.tar.gz", "x.fl", "true"],
    );
    assert_nothing_left(&machine);
}

/// Everything that shows of a root file system, but what is mounted on it.
const LISTING: &str = r#"
    find / -xdev \( -path /proc -o -path /dev -o -path /sys \) -prune -o -print | sort | while read -r at; do
        [ "$at" = / ] && continue
        if [ -L "$at" ]; then stat -c '%n %F %u %g' "$at"; readlink "$at"
        elif [ -d "$at" ]; then stat -c '%n %F %a %u %g %Y' "$at"
        else stat -c '%n %F %a %u %g %s %h %Y' "$at"; [ -f "$at" ] && md5sum < "$at"
        fi
    done
"#;

#[test]
fn what_was_committed_is_what_the_command_saw_at_its_end() {
    let machine = machine();
    let changes = r"
        set -e
        mkdir -p /a/b/c; echo one > /a/b/one; ln /a/b/one /a/two; ln -s ../b/one /a/c; mkfifo /a/pipe
        dd if=/dev/urandom of=/a/large bs=64k count=20 2> /dev/null; truncate -s 10M /a/sparse; echo end >> /a/sparse
        rm /etc/file; rm -r /srv; mkdir /srv; echo again > /srv/index
        chmod 700 /tmp; chown 33:34 /etc/passwd; chmod 4755 /bin/busybox
        rm /bin/awk; echo script > /bin/awk; mv /bin/cat /bin/dog; touch -d @1000000 /a/b/one
        sync
    ";
    let script = format!("{changes}{LISTING}");
    let run = ["run", "--cap-add", "ALL"];
    let commit = ["--commit", "y.fl", "x.fl", "--", "sh", "-c", &script];
    let seen = machine.ok(&[&run[..], &commit].concat());
    assert!(
        seen.contains("/a/pipe fifo 644") && seen.contains("/srv/index"),
        "{seen}"
    );
    assert!(
        !seen.contains("/etc/file") && !seen.contains("/bin/cat "),
        "{seen}"
    );
    let again = machine.ok(&[&run[..], &["y.fl", "--", "sh", "-c", LISTING]].concat());
    assert_eq!(again, seen);
    // What was below is as it was.
    assert_eq!(machine.ok(&["run", "x.fl", "cat", "/etc/file"]), "kept\n");
    machine.ok(&["verify", "y.fl", "--no-data"]);
    machine.ok(&["unpack", "y.fl", "out"]);
    assert_eq!(
        std::fs::read_to_string(machine.path("out/srv/index")).unwrap(),
        "again\n"
    );
    assert_nothing_left(&machine);
}

/// Bytes of all packs of a store.
fn stored(machine: &Machine, store: &str) -> u64 {
    let packs = Command::new("find")
        .args([store, "-type", "f", "-printf", "%s\n"])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    text(&packs.stdout)
        .lines()
        .map(|size| size.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_commit_stores_what_is_new_and_leaves_the_rest_where_it_is() {
    let machine = machine();
    let before = stored(&machine, &machine.store());
    let script = "cp /bin/busybox /copy; chmod 700 /bin/busybox; head -c 300000 /dev/urandom > /new; md5sum /new /copy; exit 5";
    let args = [
        "run",
        "--commit",
        "y.fl",
        "--commit-store",
        "other",
        "x.fl",
        "--",
        "sh",
        "-c",
        script,
    ];
    let out = lamina(&machine, &args).output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{out:?}");
    assert_eq!(text(&out.stderr), "");
    assert_eq!(stored(&machine, &machine.store()), before);
    let new = stored(&machine, "other");
    assert!((300_000..340_000).contains(&new), "{new} bytes");
    let inspected = machine.ok(&["inspect", "y.fl"]);
    for store in [machine.path("other").display().to_string(), machine.store()] {
        assert!(
            inspected.contains(store.trim_start_matches("dir://")),
            "{inspected}"
        );
    }
    // A run of what was kept, kept again; over itself, too.
    let more = "echo more > /more; md5sum /new /copy";
    let args = [
        "run",
        "--commit",
        "y.fl",
        "--commit-store",
        "other",
        "y.fl",
        "--",
        "sh",
        "-c",
        more,
    ];
    assert_eq!(machine.ok(&args), text(&out.stdout));
    let seen = machine.ok(&[
        "run",
        "y.fl",
        "--",
        "sh",
        "-c",
        "cat /more; stat -c %a /bin/busybox",
    ]);
    assert_eq!(seen, "more\n700\n");
    assert_nothing_left(&machine);
}

#[test]
fn an_image_s_config_stays_with_what_is_committed_over_it() {
    let machine = machine();
    let image = docker_archive(&machine);
    machine.ok(&[
        "run",
        "-u",
        "0",
        "--commit",
        "y.fl",
        image,
        "echo changed > /tmp/file",
    ]);
    assert_eq!(machine.ok(&["run", "y.fl"]), "/srv\n33\nb\n");
    assert_eq!(machine.ok(&["run", "y.fl", "cat /tmp/file"]), "changed\n");
    assert!(machine.path("state/store").is_dir());
    assert_nothing_left(&machine);
}

#[test]
fn a_commit_that_cannot_be_is_refused_before_the_command_runs() {
    let machine = machine();
    std::fs::write(machine.path("notes"), "mine").unwrap();
    for (why, args) in [
        ("it exists and is no flist", &["--commit", "notes"][..]),
        ("there is no directory nosuch", &["--commit", "nosuch/y.fl"]),
        ("names a directory", &["--commit", "img/"]),
        (
            "understand store",
            &["--commit", "y.fl", "--commit-store", "gopher://x"],
        ),
        (
            "not a directory",
            &["--commit", "y.fl", "--commit-store", "notes"],
        ),
    ] {
        let args = [&["run"], args, &["x.fl", "echo", "ran"]].concat();
        let out = lamina(&machine, &args).output().unwrap();
        assert_eq!(
            (out.status.code(), text(&out.stdout)),
            (Some(125), String::new()),
            "{out:?}"
        );
        assert!(
            text(&out.stderr).contains(why),
            "{why}: {}",
            text(&out.stderr)
        );
    }
    assert_eq!(
        std::fs::read_to_string(machine.path("notes")).unwrap(),
        "mine"
    );
    assert!(!machine.path("y.fl").exists());
    // No sandbox was begun.
    assert!(!machine.path("run/sandboxes").exists());
}

#[test]
fn a_commit_that_fails_says_so_by_its_code_and_leaves_no_flist() {
    let machine = machine();
    // The store is a full disk by the time the command has ended.
    std::fs::create_dir(machine.path("small")).unwrap();
    let small = machine.path("small");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(mounted.success());
    let script = "head -c 2000000 /dev/urandom > /new";
    let args = [
        "run",
        "--commit",
        "y.fl",
        "--commit-store",
        "small",
        "x.fl",
        "--",
        "sh",
        "-c",
        script,
    ];
    let out = lamina(&machine, &args).output();
    let unmounted = Command::new("umount").arg(&small).status().unwrap();
    let out = out.unwrap();
    assert!(unmounted.success());
    assert_eq!(out.status.code(), Some(125), "{out:?}");
    assert!(text(&out.stderr).contains("commit to y.fl"), "{out:?}");
    assert!(!machine.path("y.fl").exists());
    assert_nothing_left(&machine);
}
