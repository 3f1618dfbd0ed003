//! Where a flist may be written, and what is never replaced by one.

use crate::machine::{Machine, sample_tree};
use crate::mounts::packed;
use std::fs::FileType;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::process::Command;

fn made(machine: &Machine, script: &str) {
    let status = Command::new("sh")
        .args(["-e", "-c", script])
        .current_dir(machine.path(""))
        .status()
        .unwrap();
    assert!(status.success(), "{script}");
}

fn kind(machine: &Machine, name: &str) -> FileType {
    std::fs::symlink_metadata(machine.path(name))
        .unwrap()
        .file_type()
}

#[test]
fn devices_fifos_directories_and_other_files_are_never_replaced_by_a_flist() {
    let machine = packed();
    made(
        &machine,
        "mknod zero c 1 5; mkfifo fifo; mkdir folder; ln -s nowhere dangling; echo mine > notes",
    );
    let store = machine.store();
    for (name, what) in [
        ("zero", "a character device"),
        ("fifo", "a FIFO"),
        ("folder", "a directory"),
        ("folder/", "a directory"),
        ("dangling", "a symbolic link to nothing"),
        ("notes", "is no flist"),
        ("-", "standard output"),
    ] {
        for verb in [
            &["pack", "source", "-s", &store, "-o", name][..],
            &["clone", "x.fl", "-s", &store, "-o", name],
            &["config", "x.fl", "--set-tag", "a=b", "--out", name],
            &["convert", "oci:source", "-s", &store, "-o", name],
        ] {
            let said = machine.fails(2, verb);
            assert!(said.contains(what), "{verb:?}: {said}");
        }
    }
    assert!(kind(&machine, "zero").is_char_device());
    assert!(kind(&machine, "fifo").is_fifo());
    assert!(kind(&machine, "dangling").is_symlink());
    assert!(!machine.path("-").exists());
    assert_eq!(std::fs::read(machine.path("notes")).unwrap(), b"mine\n");
}

#[test]
fn a_link_is_followed_and_flists_and_empty_files_are_replaced() {
    let machine = packed();
    let store = machine.store();
    made(&machine, "mkdir there; cp x.fl there/real.fl; : > empty");
    symlink("there/real.fl", machine.path("link.fl")).unwrap();
    machine.ok(&["config", "link.fl", "--set-tag", "a=b"]);
    assert!(kind(&machine, "link.fl").is_symlink());
    assert!(machine.ok(&["config", "there/real.fl"]).contains("a=b"));
    machine.ok(&["pack", "source", "-s", &store, "-o", "link.fl"]);
    machine.ok(&["pack", "source", "-s", &store, "-o", "empty"]);
    for name in ["there/real.fl", "empty"] {
        assert_eq!(
            std::fs::read(machine.path(name)).unwrap(),
            std::fs::read(machine.path("x.fl")).unwrap(),
            "{name}"
        );
    }
    assert!(kind(&machine, "link.fl").is_symlink());
}

#[test]
fn where_the_flist_goes_is_checked_before_anything_is_uploaded() {
    let machine = Machine::new();
    sample_tree(&machine.dir("source"));
    machine.dir("folder");
    let store = machine.store();
    let said = machine.fails(3, &["pack", "source", "-s", &store, "-o", "nodir/x.fl"]);
    assert!(said.contains("no directory nodir"), "{said}");
    machine.fails(2, &["pack", "source", "-s", &store, "-o", "folder"]);
    machine.fails(
        2,
        &["pack", "source", "-s", &store, "-o", "source/a/hello/x.fl"],
    );
    assert_eq!(
        std::fs::read_dir(machine.path("store")).unwrap().count(),
        0,
        "nothing was uploaded"
    );
}

#[test]
fn a_read_only_file_system_is_exit_code_4_before_anything_is_uploaded() {
    let machine = Machine::new();
    sample_tree(&machine.dir("source"));
    machine.dir("ro");
    made(&machine, "mount -t tmpfs -o ro,size=64k tmpfs ro");
    let store = machine.store();
    let said = machine.fails(4, &["pack", "source", "-s", &store, "-o", "ro/x.fl"]);
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(
        std::fs::read_dir(machine.path("store")).unwrap().count(),
        0,
        "nothing was uploaded"
    );
    machine.ok(&["pack", "source", "-s", &store, "-o", "x.fl"]);
    machine.fails(4, &["unpack", "x.fl", "ro/out"]);
    let shown = machine.fails(4, &["pack", "source", "-s", "ro/store", "-o", "y.fl"]);
    assert!(shown.contains("ro/store"), "{shown}");
}
