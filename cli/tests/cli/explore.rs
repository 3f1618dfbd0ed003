//! Looking into flists without mounting, and getting files out again.

use crate::machine::{Machine, snapshot, text};
use crate::mounts::packed;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

#[test]
fn unpack_gives_back_the_source() {
    let machine = packed();
    machine.ok(&["unpack", "x.fl", "out"]);
    assert_eq!(
        snapshot(&machine.path("out")),
        snapshot(&machine.path("source"))
    );
    let said = machine.fails(2, &["unpack", "x.fl", "out"]);
    assert!(
        said.contains("not empty") && said.contains("--force"),
        "{said}"
    );
    machine.ok(&["unpack", "x.fl", "out", "--force"]);
    assert_eq!(
        snapshot(&machine.path("out")),
        snapshot(&machine.path("source"))
    );
}

#[test]
fn an_unpacking_that_fails_names_the_file_and_what_it_left() {
    let machine = packed();
    std::fs::remove_dir_all(machine.path("store/packs")).unwrap();
    let said = machine.fails(3, &["unpack", "x.fl", "out"]);
    for expected in ["out is incomplete now", "read the content of out/", "pack"] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    assert!(machine.path("out/a/hello").exists());
}

#[test]
fn verify_says_what_it_looked_at() {
    let machine = packed();
    assert!(
        machine
            .ok(&["verify", "x.fl"])
            .contains("everything matches")
    );
    let said = machine.ok(&["verify", "x.fl", "--no-data"]);
    assert!(said.contains("no pack was looked at"), "{said}");
    assert_eq!(
        machine.json(&["verify", "x.fl", "--no-data"])["data"],
        false
    );
}

#[test]
fn cat_prints_exactly_the_file_inline_chunked_or_sparse() {
    let machine = packed();
    for path in [
        "a/hello",
        "a/nothing",
        "a/b/random",
        "a/b/text",
        "sparse",
        "a/b/link",
    ] {
        let expected = std::fs::read(machine.path("source").join(path)).unwrap();
        let output = machine.run(&["cat", "x.fl", &format!("/{path}")]);
        assert!(
            output.status.success() && output.stdout == expected,
            "{path}"
        );
    }
    let said = machine.fails(2, &["cat", "x.fl", "/a"]);
    assert!(
        said.contains("/a is no regular file but a directory"),
        "{said}"
    );
    machine.fails(2, &["cat", "x.fl", "/fifo"]);
}

#[test]
fn ls_and_tree_show_types_modes_owners_times_and_targets() {
    let machine = packed();
    let listed = machine.ok(&["ls", "-lR", "x.fl"]);
    for expected in [
        "-rwsr-xr-x  2      0    0    6 ",
        "drwxrwxrwt",
        "123  456  2000000  2001-02-03 04:05:06  a/b/text",
        "a/b/link -> ../hello",
        "1,3",
        "prw-",
        r"na\xffme",
    ] {
        assert!(listed.contains(expected), "{expected} is not in\n{listed}");
    }
    let entries = machine.json(&["ls", "x.fl", "/many"]);
    assert_eq!(entries["entries"].as_array().unwrap().len(), 300);
    let tree = machine.ok(&["tree", "x.fl", "/a"]);
    assert!(
        tree.contains("├── b\n│   ├── c\n│   │   └── hard\n│   ├── link -> ../hello\n"),
        "{tree}"
    );
    assert!(tree.ends_with("2 directories, 6 files\n"), "{tree}");
    assert!(!machine.ok(&["tree", "x.fl", "-L", "1"]).contains("hello"));
}

#[test]
fn inspect_and_config_show_and_change_stores_and_tags() {
    let machine = packed();
    let shown = machine.json(&["inspect", "x.fl"]);
    assert_eq!(shown["stores"][0], machine.store());
    let digest = shown["digest"].clone();
    machine.ok(&[
        "config",
        "x.fl",
        "--set-tag",
        "team=a b",
        "--add-store",
        "https://user:pw@host.example/p",
    ]);
    let shown = machine.json(&["inspect", "x.fl"]);
    assert_eq!(shown["tags"]["team"], "a b");
    assert_eq!(
        shown["stores"][1], "https://host.example/p",
        "the password is stripped"
    );
    assert_ne!(shown["digest"], digest, "the digest names the metadata too");
    machine.ok(&[
        "config",
        "x.fl",
        "--add-store",
        "https://user:pw@host.example/p",
        "--keep-credentials",
    ]);
    let text = machine.ok(&["config", "x.fl", "-o", "json"]);
    assert!(text.contains("user:pw"), "{text}");
    machine.ok(&[
        "config",
        "x.fl",
        "--remove-store",
        "https://host.example/p",
        "--remove-tag",
        "team",
        "--out",
        "y.fl",
    ]);
    assert_eq!(machine.json(&["inspect", "x.fl"])["tags"]["team"], "a b");
    assert!(machine.json(&["inspect", "y.fl"])["tags"].is_null());
    machine.ok(&["verify", "y.fl", "--no-data"]);
}

#[test]
fn diff_names_what_changed_and_how() {
    let machine = packed();
    let source = machine.path("source");
    std::fs::write(source.join("a/hello"), "other").unwrap();
    std::fs::write(source.join("added"), "new").unwrap();
    std::fs::remove_file(source.join("fifo")).unwrap();
    std::fs::rename(source.join("a/b/text"), source.join("moved")).unwrap();
    machine.ok(&["pack", "source", "-o", "y.fl", "-s", &machine.store()]);
    let found = machine.json(&["diff", "x.fl", "y.fl"]);
    let of = |path: &str| {
        let lines = found["differences"].as_array().unwrap().iter();
        let mut found = lines.filter(|line| line["path"] == path);
        found.next().cloned().unwrap_or_default()
    };
    assert_eq!(of("/added")["change"], "added");
    assert_eq!(of("/fifo")["change"], "removed");
    assert_eq!(
        (&of("/moved")["change"], &of("/moved")["from"]),
        (&"renamed".into(), &"/a/b/text".into())
    );
    assert!(
        of("/a/hello")["aspects"]
            .as_array()
            .unwrap()
            .contains(&"content".into())
    );
    assert_eq!(machine.ok(&["diff", "x.fl", "x.fl"]), "no differences\n");
}

#[test]
fn du_tells_logical_stored_and_shared() {
    let machine = packed();
    std::fs::write(machine.path("source/more"), vec![b'm'; 50_000]).unwrap();
    machine.ok(&["pack", "source", "-o", "y.fl", "-s", &machine.store()]);
    let found = machine.json(&["du", "x.fl", "y.fl"]);
    let (x, y) = (&found["flists"][0], &found["flists"][1]);
    assert_eq!(
        y["logical"].as_u64().unwrap(),
        x["logical"].as_u64().unwrap() + 50_000
    );
    assert_eq!(x["shared"], x["stored"], "all of x is in y too");
    assert_eq!(found["total"]["stored"], y["stored"]);
}

#[test]
fn a_pipe_that_closes_early_is_no_error() {
    let machine = packed();
    let lamina = env!("CARGO_BIN_EXE_lamina");
    let script = format!("{lamina} ls -R x.fl | head -1; exit ${{PIPESTATUS[0]}}");
    let output = std::process::Command::new("bash")
        .arg("-c")
        .arg(script)
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    let _ = Machine::new;
}

#[test]
fn a_path_in_a_flist_may_be_any_bytes() {
    let machine = packed();
    let name = OsStr::from_bytes(b"na\xffme");
    let ran = |verb: &str, path: &OsStr| machine.run(&[OsStr::new(verb), OsStr::new("x.fl"), path]);
    assert_eq!(ran("cat", name).stdout, b"\xff\xfebad");
    assert_eq!(text(&ran("ls", name).stdout).trim(), "na\\xffme");
    for verb in ["cat", "ls", "tree"] {
        let refused = ran(verb, OsStr::from_bytes(b"no\xff"));
        assert_eq!(refused.status.code(), Some(3), "{verb}");
        let said = text(&refused.stderr);
        assert!(said.contains("no\\xff is not in the flist"), "{said}");
    }
}

#[test]
fn unpack_leaves_out_devices_and_setuid_bits_when_told_to() {
    let machine = packed();
    machine.ok(&["unpack", "x.fl", "out", "--no-devices", "--no-setuid"]);
    assert!(!machine.path("out/null").exists());
    let mode = |path: &str| {
        std::fs::metadata(machine.path(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("out/a/hello") & 0o7777, 0o755);
    assert_eq!(mode("out/empty") & 0o7777, 0o1777);
    assert_eq!(mode("source/a/hello") & 0o7777, 0o4755);
    assert!(machine.path("out/fifo").exists());
}

#[test]
fn inspect_counts_hints() {
    let machine = packed();
    assert!(machine.ok(&["inspect", "x.fl"]).contains("hints"));
    let shown = machine.json(&["inspect", "x.fl"]);
    let hints = shown.get("hints").expect("said, if only as null");
    assert!(
        hints.is_null() || hints["files"].as_u64() > Some(0),
        "{hints}"
    );
}
