//! Help, completions, manual pages, exit codes and error texts.

use crate::machine::{Machine, text};
use crate::mounts::packed;

#[test]
fn every_verb_explains_itself() {
    let machine = Machine::new();
    let help = machine.ok(&["--help"]);
    for verb in [
        "pack",
        "convert",
        "mount",
        "umount",
        "mounts",
        "unpack",
        "inspect",
        "tree",
        "ls",
        "cat",
        "diff",
        "du",
        "clone",
        "config",
        "verify",
        "prefetch",
        "gc",
        "doctor",
        "discovery",
        "completions",
        "man",
    ] {
        assert!(
            help.contains(&format!("\n  {verb}")),
            "{verb} is not in the help:\n{help}"
        );
        let own = machine.ok(&[verb, "--help"]);
        assert!(own.contains("Usage: lamina"), "{verb}: {own}");
    }
    for code in [
        "0  success",
        "2  usage",
        "3  not found",
        "4  auth",
        "6  unavail",
        "7  timeout",
        "8  integ",
        "10 res",
    ] {
        assert!(help.contains(code), "{code} is not documented:\n{help}");
    }
    assert_eq!(
        machine.ok(&["docker", "--help"]),
        machine.ok(&["convert", "--help"])
    );
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            machine.ok(&["completions", shell]).contains("umount"),
            "{shell}"
        );
    }
    machine.ok(&["man", "pages"]);
    for page in ["lamina.1", "lamina-pack.1", "lamina-mount.1", "lamina-gc.1"] {
        assert!(machine.path("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn mistakes_in_the_command_line_are_exit_code_2() {
    let machine = Machine::new();
    machine.dir("source");
    machine.fails(2, &["pack", "source"]);
    machine.fails(2, &["frobnicate"]);
    machine.fails(2, &["mount", "x.fl", "m", "--mode", "magic"]);
    machine.fails(2, &["mount", "x.fl", "m", "--cache-size", "10 parsecs"]);
    for small in ["1", "10", "1000KiB"] {
        let said = machine.fails(2, &["mount", "x.fl", "m", "--cache-size", small]);
        assert!(said.contains("give a unit"), "{said}");
    }
    let said = machine.fails(
        2,
        &["pack", "source", "-o", "x.fl", "-s", "gopher://host/x"],
    );
    assert!(said.contains("gopher"), "{said}");
    let said = machine.fails(2, &["pack", "source", "-o", "x.fl", "-s", "7f-00=dir:///x"]);
    assert!(said.contains("7f-00"), "{said}");
    let said = machine.fails(2, &["pack", "source", "-o", "x.fl", "-s", "00-7f=store"]);
    assert!(said.contains("80"), "the gap is not named: {said}");
    let said = machine.fails(
        2,
        &[
            "pack",
            "source",
            "-o",
            "x.fl",
            "-s",
            &machine.store(),
            "--tag",
            "nokey",
        ],
    );
    assert!(said.contains("KEY=VALUE"), "{said}");
}

#[test]
fn inputs_of_the_wrong_kind_are_exit_code_2() {
    let machine = packed();
    machine.dir("d.fl");
    let store = machine.store();
    machine.fails(2, &["pack", "x.fl", "-o", "y.fl", "-s", &store]);
    for verb in ["inspect", "ls", "verify"] {
        let said = machine.fails(2, &[verb, "d.fl"]);
        assert_eq!(said, "error: open flist d.fl: not a regular file\n");
    }
    let said = machine.fails(2, &["unpack", "x.fl", "x.fl"]);
    assert!(said.contains("x.fl is no directory"), "{said}");
    let file = machine.path("x.fl").display().to_string();
    for verb in [
        &["pack", "source", "-o", "y.fl", "-s", &file][..],
        &["verify", "x.fl", "-s", &file],
        &["unpack", "x.fl", "out", "-s", &file],
    ] {
        let said = machine.fails(2, verb);
        assert!(
            said.contains("x.fl is a file, not a directory"),
            "{verb:?}: {said}"
        );
    }
    for threads in ["0", "100000"] {
        let said = machine.fails(
            2,
            &[
                "pack",
                "source",
                "-o",
                "y.fl",
                "-s",
                &store,
                "--threads",
                threads,
            ],
        );
        assert!(said.contains("256"), "{said}");
    }
}

#[test]
fn what_does_not_exist_is_exit_code_3() {
    let machine = packed();
    machine.fails(
        3,
        &["pack", "nowhere", "-o", "y.fl", "-s", &machine.store()],
    );
    machine.fails(3, &["inspect", "nowhere.fl"]);
    machine.fails(3, &["mount", "nowhere.fl", "source"]);
    machine.fails(3, &["mount", "x.fl", "nowhere"]);
    machine.fails(3, &["umount", "source"]);
    machine.fails(3, &["cat", "x.fl", "/no/such/file"]);
    machine.fails(3, &["ls", "x.fl", "/no"]);
    machine.fails(3, &["config", "x.fl", "--remove-tag", "none"]);
    machine.fails(
        3,
        &[
            "convert",
            "oci:nowhere",
            "-o",
            "y.fl",
            "-s",
            &machine.store(),
        ],
    );
}

#[test]
fn an_unreachable_registry_is_exit_code_6() {
    let machine = Machine::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let image = format!("127.0.0.1:{port}/nobody/home:1");
    machine.fails(
        6,
        &["convert", &image, "-o", "y.fl", "-s", &machine.store()],
    );
}

#[test]
fn damaged_flists_are_exit_code_8_wherever_they_are_cut_or_flipped() {
    let machine = packed();
    let good = std::fs::read(machine.path("x.fl")).unwrap();
    machine.dir("m");
    for at in [9, 100, 1100, 1200, 4200, good.len() / 2, good.len() - 3] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        std::fs::write(machine.path("bad.fl"), &bad).unwrap();
        machine.fails(8, &["verify", "bad.fl", "--no-data"]);
        machine.fails(8, &["mount", "bad.fl", "m"]);
        std::fs::write(machine.path("bad.fl"), &good[..at]).unwrap();
        machine.fails(8, &["ls", "bad.fl"]);
        machine.fails(8, &["mount", "bad.fl", "m"]);
    }
    std::fs::write(machine.path("bad.fl"), b"#!/bin/sh\necho not a flist\n").unwrap();
    machine.fails(8, &["inspect", "bad.fl"]);
    assert_eq!(std::fs::read_dir(machine.path("m")).unwrap().count(), 0);
}

#[test]
fn a_target_in_use_is_named() {
    let machine = packed();
    machine.dir("other");
    machine.ok(&["pack", "other", "-o", "y.fl", "-s", &machine.store()]);
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.ok(&["mount", "x.fl", "m"]);
    let said = machine.fails(1, &["mount", "y.fl", "m"]);
    assert!(said.contains("x.fl is mounted there"), "{said}");
    let digest = |file| machine.json(&["inspect", file])["digest"].clone();
    let (was, now) = (digest("x.fl"), digest("y.fl"));
    std::fs::rename(machine.path("y.fl"), machine.path("x.fl")).unwrap();
    let said = machine.fails(1, &["mount", "x.fl", "m"]);
    for digest in [was, now] {
        let digest = digest.as_str().unwrap();
        assert!(said.contains(digest), "{digest} is not in {said}");
    }
    machine.ok(&["umount", "m"]);
}

#[test]
fn nothing_but_results_is_written_to_standard_output() {
    let machine = packed();
    let output = machine.run(&["pack", "source", "-o", "y.fl", "-s", &machine.store()]);
    assert_eq!(text(&output.stderr), "", "progress is for terminals");
    assert!(
        text(&output.stdout).starts_with("y.fl "),
        "{}",
        text(&output.stdout)
    );
}
