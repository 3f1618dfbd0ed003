//! Processes killed, stores gone, cache files tampered with: readers wait or are told, never fooled.

use crate::machine::{Machine, kill, snapshot, text, wait_until};
use crate::mounts::packed;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

fn kill_daemon(machine: &Machine, role: &str) {
    let pid = machine.daemon(role).unwrap();
    kill(pid);
    assert!(
        wait_until(|| machine.daemon(role).is_some_and(|now| now != pid)),
        "{}",
        machine.log()
    );
}

#[test]
fn reads_go_on_after_each_daemon_was_killed() {
    let machine = packed();
    let expected = snapshot(&machine.path("source"));
    for role in ["agent", "mountd"] {
        machine.dir("m");
        machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
        kill_daemon(&machine, role);
        assert_eq!(
            snapshot(&machine.path("m")),
            expected,
            "after {role} was killed"
        );
        let listed = machine.json(&["mounts"]);
        assert_eq!(
            listed["mounts"].as_array().unwrap().len(),
            1,
            "after {role} was killed"
        );
        machine.ok(&["umount", "m"]);
        std::fs::remove_dir_all(machine.path("cache/blobs")).unwrap();
    }
}

#[test]
fn mounts_go_on_after_the_agent_was_killed_between_two_calls() {
    let machine = packed();
    for target in ["m1", "m2"] {
        machine.dir(target);
        machine.ok(&["mount", "x.fl", target, "--no-prefetch"]);
        kill_daemon(&machine, "agent");
    }
    for target in ["m1", "m2"] {
        machine.ok(&["umount", target]);
    }
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    assert_eq!(machine.mounted(), Vec::<PathBuf>::new());
}

#[test]
fn a_store_that_is_gone_gives_an_error_and_later_the_right_bytes() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    std::fs::rename(machine.path("store"), machine.path("away")).unwrap();
    let error = std::fs::read(machine.path("m/a/b/random")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let mount = &machine.json(&["mounts"])["mounts"][0];
    assert!(mount["reads_failed"].as_u64() > Some(0), "{mount}");
    let why = mount["last_error"].as_str().unwrap();
    assert!(why.contains("not found"), "{why}");
    assert!(machine.ok(&["mounts"]).contains(why));
    std::fs::rename(machine.path("away"), machine.path("store")).unwrap();
    let source = std::fs::read(machine.path("source/a/b/random")).unwrap();
    assert!(wait_until(
        || std::fs::read(machine.path("m/a/b/random")).is_ok_and(|got| got == source)
    ));
    machine.ok(&["umount", "m"]);
}

#[test]
fn a_mount_warns_of_a_store_that_has_nothing_unless_all_is_local() {
    let machine = packed();
    machine.dir("m");
    let elsewhere = ["mount", "x.fl", "m", "-s", "nosuchstore"];
    let said = |args: &[&str]| {
        let output = machine.run(args);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        said
    };
    let warned = said(&elsewhere);
    assert!(warned.contains("warning: no store has data"), "{warned}");
    assert!(warned.contains("nosuchstore"), "{warned}");
    assert!(machine.ok(&["mounts"]).contains("last error: no store has"));
    machine.ok(&["umount", "m"]);
    assert_eq!(said(&["mount", "x.fl", "m"]), "");
    machine.ok(&["prefetch", "m"]);
    machine.ok(&["umount", "m"]);
    assert_eq!(said(&elsewhere), "");
    machine.ok(&["umount", "m"]);
}

/// Port 9 of loopback is closed: nobody runs a discard service any more.
#[test]
fn a_store_that_is_down_is_unavailable_to_verify_not_damaged() {
    let machine = packed();
    let said = machine.fails(6, &["verify", "x.fl", "-s", "http://127.0.0.1:9/packs"]);
    assert!(said.contains("could not be asked"), "{said}");
}

#[test]
fn a_store_that_lies_gives_an_error_never_wrong_bytes() {
    let machine = packed();
    for pack in packs(&machine) {
        let file = std::fs::File::options().write(true).open(&pack).unwrap();
        let len = file.metadata().unwrap().len();
        for at in (0..len).step_by(512) {
            file.write_all_at(b"\0wrong", at.min(len - 6)).unwrap();
        }
    }
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let error = std::fs::read(machine.path("m/a/b/random")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    machine.ok(&["umount", "m"]);
    let said = machine.fails(8, &["verify", "x.fl"]);
    assert!(said.contains("1 problem found"), "{said}");
}

#[test]
fn a_second_replica_serves_what_the_first_lost() {
    let machine = packed();
    let copy = format!("dir://{}", machine.dir("copy").display());
    machine.ok(&["clone", "x.fl", "-s", &copy]);
    machine.ok(&["config", "x.fl", "--add-store", &copy]);
    for pack in packs(&machine) {
        std::fs::remove_file(pack).unwrap();
    }
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    assert_eq!(
        snapshot(&machine.path("m")),
        snapshot(&machine.path("source"))
    );
    machine.ok(&["umount", "m"]);
}

fn packs(machine: &Machine) -> Vec<PathBuf> {
    let output = std::process::Command::new("find")
        .arg(machine.path("store/packs"))
        .args(["-type", "f"])
        .output()
        .unwrap();
    let found: Vec<PathBuf> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(PathBuf::from)
        .collect();
    assert!(!found.is_empty());
    found
}

/// Damages the one blob's data file in the cache of a machine whose daemons have ended.
fn tamper(what: &str, damage: impl Fn(&std::path::Path)) {
    let machine = packed();
    let expected = snapshot(&machine.path("source"));
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.ok(&["prefetch", "m"]);
    machine.ok(&["umount", "m"]);
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    let blobs: Vec<PathBuf> = std::fs::read_dir(machine.path("cache/blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(blobs.len(), 1);
    damage(&blobs[0]);
    machine.ok(&["mount", "x.fl", "m"]);
    assert_eq!(snapshot(&machine.path("m")), expected, "{what}");
    machine.ok(&["umount", "m"]);
}

#[test]
fn flipped_cache_data_is_fetched_again() {
    tamper("flipped", |blob| {
        let file = std::fs::File::options()
            .write(true)
            .open(blob.join("data"))
            .unwrap();
        file.write_all_at(b"flip", 5000).unwrap();
    });
}

#[test]
fn truncated_cache_data_is_fetched_again() {
    tamper("truncated", |blob| {
        let file = std::fs::File::options()
            .write(true)
            .open(blob.join("data"))
            .unwrap();
        file.set_len(4096).unwrap();
    });
}

#[test]
fn a_link_in_place_of_cache_data_is_not_followed() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), vec![0xAA; 4 << 20]).unwrap();
    tamper("symlink", |blob| {
        std::fs::remove_file(blob.join("data")).unwrap();
        std::os::unix::fs::symlink(outside.path(), blob.join("data")).unwrap();
    });
    assert_eq!(std::fs::read(outside.path()).unwrap(), vec![0xAA; 4 << 20]);
}

#[test]
fn a_fifo_in_place_of_cache_data_does_not_hang() {
    tamper("fifo", |blob| {
        std::fs::remove_file(blob.join("data")).unwrap();
        let status = std::process::Command::new("mkfifo")
            .arg(blob.join("data"))
            .status()
            .unwrap();
        assert!(status.success());
    });
}

#[test]
fn a_changed_copy_of_a_flist_is_replaced() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.ok(&["umount", "m"]);
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    let copies = std::fs::read_dir(machine.path("cache/flists")).unwrap();
    let copy = copies
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "fl"))
        .unwrap();
    let file = std::fs::File::options().write(true).open(&copy).unwrap();
    file.write_all_at(&[0xFF; 64], 5000).unwrap();
    drop(file);
    machine.ok(&["mount", "x.fl", "m"]);
    assert_eq!(
        snapshot(&machine.path("m")),
        snapshot(&machine.path("source"))
    );
    machine.ok(&["umount", "m"]);
}
