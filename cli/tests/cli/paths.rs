//! Directories as people name them: relative, behind links, too long, not text, Lamina's own.

use crate::machine::{DEADLINE, Machine, kill, snapshot, text, wait_until};
use crate::mounts::packed;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};
use std::time::Instant;

fn lamina(machine: &Machine) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
    command
        .current_dir(machine.path(""))
        .env("LAMINA_RUN_DIR", machine.path("run"))
        .env("LAMINA_STATE_DIR", machine.path("state"))
        .env("LAMINA_CACHE_DIR", machine.path("cache"));
    command
}

/// Once, the daemons, whose working directory is `/`, looked for relative directories there.
#[test]
fn relative_directories_are_the_callers() {
    let machine = packed();
    machine.dir("m");
    let run = |args: &[&str]| {
        let output = lamina(&machine)
            .args(args)
            .env("LAMINA_RUN_DIR", "run")
            .env("LAMINA_STATE_DIR", "state")
            .env("LAMINA_CACHE_DIR", "cache")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    run(&["mount", "x.fl", "m"]);
    assert_eq!(
        snapshot(&machine.path("m")),
        snapshot(&machine.path("source"))
    );
    assert_eq!(machine.instances().len(), 1);
    assert!(machine.path("cache/blobs").is_dir());
    assert!(run(&["mounts"]).contains(machine.path("m").to_str().unwrap()));
    for role in ["holder", "agent", "mountd"] {
        kill(machine.daemon(role).unwrap());
    }
    assert!(wait_until(|| machine.daemons().is_empty()));
    // The daemons it starts again.
    run(&["mount", "x.fl", "m"]);
    run(&["umount", "m"]);
    assert!(wait_until(|| machine.daemons().is_empty()));
}

#[test]
fn a_mount_is_found_behind_symbolic_links() {
    let machine = packed();
    machine.dir("m");
    symlink("m", machine.path("one")).unwrap();
    symlink(machine.path("one"), machine.path("two")).unwrap();
    machine.ok(&["mount", "x.fl", "two"]);
    machine.ok(&["prefetch", "two"]);
    machine.ok(&["umount", "two"]);
    symlink("turn", machine.path("turn")).unwrap();
    machine.fails(2, &["umount", "turn"]);
    assert!(!machine.path("m/a").exists());
}

#[test]
fn what_is_not_mounted_is_named() {
    let machine = packed();
    let target = machine.dir("m");
    for verb in ["umount", "prefetch"] {
        let said = machine.fails(3, &[verb, "m"]);
        let named = format!("{} is not mounted by lamina", target.display());
        assert!(said.contains(&named), "{said}");
    }
}

#[test]
fn names_that_are_not_text_are_refused_clearly() {
    let machine = packed();
    let target = machine.path("").join(OsStr::from_bytes(b"m\xff"));
    std::fs::create_dir(&target).unwrap();
    for args in [&["mount", "x.fl"][..], &["umount"]] {
        let output = lamina(&machine).args(args).arg(&target).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("is not valid UTF-8"), "{said}");
    }
}

#[test]
fn a_run_directory_too_long_for_sockets_is_refused_with_the_limit() {
    let machine = packed();
    machine.dir("m");
    let long = machine.path(&"r".repeat(100));
    let long = long.to_str().unwrap();
    let said = machine.fails(2, &["mount", "x.fl", "m", "--run-dir", long]);
    assert!(
        said.contains(long) && said.contains("may have 107 bytes"),
        "{said}"
    );
    // The longest one that fits.
    let fits = 107 - "/0123456789abcdef/mountd.sock".len() - machine.path("").as_os_str().len();
    let fits = machine.path(&"r".repeat(fits));
    let fits = fits.to_str().unwrap();
    machine.ok(&["mount", "x.fl", "m", "--run-dir", fits]);
    machine.ok(&["umount", "m", "--run-dir", fits]);
}

/// Once, Lamina mounted over its own directories, and could not be asked any more.
#[test]
fn a_mount_does_not_hide_what_serves_it() {
    let machine = packed();
    symlink(machine.path("cache"), machine.path("behind")).unwrap();
    for (target, what) in [
        ("", "run directory"),
        ("run", "run directory"),
        ("cache", "cache"),
        ("behind", "cache"),
        ("state", "state directory"),
        ("store", "the flist's store"),
    ] {
        let target = machine.path(target);
        let said = machine.fails(2, &["mount", "x.fl", target.to_str().unwrap()]);
        assert!(said.contains(what), "{said}");
    }
    machine.dir("cache/blobs/m");
    let said = machine.fails(2, &["mount", "x.fl", "cache/blobs/m"]);
    assert!(said.contains("lies in Lamina's cache"), "{said}");
    machine.dir("elsewhere/store");
    machine.dir("elsewhere/m");
    let other = ["mount", "x.fl", "elsewhere", "-s", "elsewhere/store"];
    machine.fails(2, &other);
    machine.ok(&["mount", "x.fl", "elsewhere/m"]);
    machine.ok(&["umount", "elsewhere/m"]);
}

fn in_foreground(machine: &Machine) -> Child {
    let child = lamina(machine)
        .args(["mount", "x.fl", "m", "--foreground"])
        .spawn()
        .unwrap();
    assert!(wait_until(|| machine.path("m/a").exists()));
    child
}

fn ended(mut child: Child) -> Option<i32> {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    panic!("the foreground mount does not end");
}

/// Once, it stayed, and at Ctrl-C complained that nothing was mounted.
#[test]
fn a_foreground_mount_ends_with_its_mount() {
    let machine = packed();
    let target = machine.dir("m");
    let child = in_foreground(&machine);
    machine.ok(&["umount", "m"]);
    assert_eq!(ended(child), Some(0));
    let child = in_foreground(&machine);
    let by_hand = Command::new("umount").arg(&target).status().unwrap();
    assert!(by_hand.success());
    assert_eq!(ended(child), Some(0));
    let child = in_foreground(&machine);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(ended(child), Some(0));
    assert!(!machine.path("m/a").exists());
}
