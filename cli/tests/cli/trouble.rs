//! Daemons that cannot do their work: the user is told why, at once.

use crate::machine::{kill, wait_until};
use crate::mounts::packed;
use std::path::Path;
use std::process::Command;

fn tmpfs(dir: &Path, options: &str) {
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .arg(dir)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Once, the command waited as long as it may, and then said only that nobody answers.
#[test]
fn an_agent_that_cannot_start_says_why() {
    let machine = packed();
    machine.dir("m");
    tmpfs(&machine.path("cache"), "size=16m");
    let full = std::fs::write(machine.path("cache/ballast"), vec![1; 32 << 20]).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    for _ in ["at first", "beside the holder that tries again"] {
        let said = machine.fails(10, &["mount", "x.fl", "m", "--timeout", "10m"]);
        assert!(said.contains("the agent cannot start: "), "{said}");
        assert!(said.contains("No space left on device"), "{said}");
    }
    std::fs::remove_file(machine.path("cache/ballast")).unwrap();
    machine.ok(&["mount", "x.fl", "m"]);
    let trouble = || machine.instances()[0].join("agent.error").exists();
    assert!(wait_until(|| !trouble()));
    machine.ok(&["umount", "m"]);
    assert!(wait_until(|| machine.daemons().is_empty()));
}

#[test]
fn a_read_only_state_directory_is_named_and_does_not_keep_mounts() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    for role in ["holder", "agent", "mountd"] {
        kill(machine.daemon(role).unwrap());
    }
    assert!(wait_until(|| machine.daemons().is_empty()));
    tmpfs(&machine.path("state"), "ro");
    machine.dir("n");
    let said = machine.fails(4, &["mount", "x.fl", "n", "--timeout", "10m"]);
    let state = machine.path("state");
    assert!(said.contains(state.to_str().unwrap()), "{said}");
    machine.ok(&["umount", "m"]);
    assert!(!machine.path("m/a").exists());
}
