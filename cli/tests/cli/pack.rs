//! Packing, stores, and keeping them.

use crate::machine::{Machine, sample_tree, snapshot, wait_until};
use crate::mounts::packed;
use std::process::{Command, Stdio};

fn stored(machine: &Machine) -> u64 {
    let output = Command::new("du")
        .args(["-sb", "store/packs"])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split('\t')
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn packing_twice_gives_the_same_flist_at_any_parallelism_and_stores_nothing_new() {
    let machine = packed();
    let before = stored(&machine);
    machine.ok(&[
        "pack",
        "source",
        "-o",
        "y.fl",
        "-s",
        &machine.store(),
        "--threads",
        "1",
    ]);
    assert_eq!(
        std::fs::read(machine.path("x.fl")).unwrap(),
        std::fs::read(machine.path("y.fl")).unwrap()
    );
    assert_eq!(stored(&machine), before);
}

#[test]
fn packing_tells_what_the_stores_had_from_what_the_input_repeats() {
    let machine = Machine::new();
    let source = machine.dir("source");
    let noise: Vec<u8> = (0..1u32 << 18)
        .flat_map(|i| {
            i.wrapping_mul(2_654_435_761)
                .rotate_left(i % 31)
                .to_le_bytes()
        })
        .collect();
    for name in ["one", "two"] {
        std::fs::write(source.join(name), &noise).unwrap();
    }
    let pack = ["pack", "source", "-o", "x.fl", "-s", &machine.store()];
    let first = machine.ok(&pack);
    assert!(
        first
            .contains("2.00 MiB of file data, 0 B in the stores before, 1.00 MiB repeated in it, "),
        "{first}"
    );
    let second = machine.ok(&pack);
    assert!(
        second.contains("1.00 MiB in the stores before, 1.00 MiB repeated in it, 0 B stored"),
        "{second}"
    );
}

#[test]
fn a_changed_tree_stores_only_what_changed() {
    let machine = packed();
    let before = stored(&machine);
    let mut text = std::fs::read(machine.path("source/a/b/random")).unwrap();
    text.splice(300_000..300_000, *b"inserted in the middle");
    std::fs::write(machine.path("source/a/b/random"), text).unwrap();
    machine.ok(&["pack", "source", "-o", "y.fl", "-s", &machine.store()]);
    let added = stored(&machine) - before;
    assert!(
        added < 600_000,
        "{added} bytes for one changed place in 700,000"
    );
    machine.ok(&["verify", "x.fl"]);
    machine.ok(&["verify", "y.fl"]);
}

#[test]
fn a_packing_that_was_killed_is_finished_by_the_next_one() {
    let machine = Machine::new();
    sample_tree(&machine.dir("source"));
    let noise: Vec<u8> = (0..12u32 << 20)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(machine.path("source/noise"), noise).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_lamina"))
        .args(["pack", "source", "-o", "x.fl", "-s", &machine.store()])
        .current_dir(machine.path(""))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let packs = machine.path("store/packs");
    assert!(wait_until(
        || packs.exists() || child.try_wait().unwrap().is_some()
    ));
    child.kill().unwrap();
    child.wait().unwrap();
    machine.ok(&["pack", "source", "-o", "x.fl", "-s", &machine.store()]);
    machine.ok(&["verify", "x.fl"]);
    machine.ok(&["unpack", "x.fl", "out"]);
    assert_eq!(
        snapshot(&machine.path("out")),
        snapshot(&machine.path("source"))
    );
}

#[test]
fn shards_and_replicas_hold_what_they_should() {
    let machine = Machine::new();
    sample_tree(&machine.dir("source"));
    let place = |name: &str| format!("dir://{}", machine.dir(name).display());
    let low = format!("00-7f={}", place("low"));
    let high = format!("80-ff={}", place("high"));
    let all = place("all");
    machine.ok(&[
        "pack", "source", "-o", "x.fl", "-s", &low, "-s", &high, "-s", &all,
    ]);
    machine.ok(&["verify", "x.fl"]);
    std::fs::remove_dir_all(machine.path("low")).unwrap();
    std::fs::remove_dir_all(machine.path("high")).unwrap();
    machine.ok(&["unpack", "x.fl", "out"]);
    assert_eq!(
        snapshot(&machine.path("out")),
        snapshot(&machine.path("source"))
    );
    machine.fails(8, &["verify", "x.fl"]);
}

#[test]
fn gc_shows_first_and_never_removes_what_a_kept_flist_needs() {
    let machine = packed();
    let noise: Vec<u8> = (0..2u32 << 20)
        .flat_map(|i| i.wrapping_mul(2_246_822_519).to_le_bytes())
        .collect();
    std::fs::write(machine.dir("other").join("noise"), noise).unwrap();
    machine.ok(&["pack", "other", "-o", "y.fl", "-s", &machine.store()]);
    let before = stored(&machine);
    let gc = [
        "gc",
        "-s",
        &machine.store(),
        "--keep",
        "x.fl",
        "--grace",
        "0s",
    ];
    let shown = machine.json(&gc);
    assert!(
        shown["stores"][0]["unneeded_packs"].as_u64().unwrap() >= 1,
        "{shown}"
    );
    assert_eq!(stored(&machine), before, "a dry run deletes nothing");
    machine.ok(&[&gc[..], &["--delete"]].concat());
    assert!(stored(&machine) < before);
    machine.ok(&["verify", "x.fl"]);
    machine.fails(8, &["verify", "y.fl"]);
    machine.ok(&["pack", "other", "-o", "y.fl", "-s", &machine.store()]);
    machine.ok(&["verify", "y.fl"]);
    machine.fails(2, &["gc", "-s", &machine.store()]);
    machine.dir("nothing-here");
    machine.fails(3, &["gc", "-s", &machine.store(), "--keep", "nothing-here"]);
}

#[test]
fn gc_keeps_every_flist_below_a_directory_whatever_its_name() {
    let machine = packed();
    let store = machine.store();
    machine.dir("images/old/deep");
    std::fs::rename(machine.path("x.fl"), machine.path("images/old/deep/base")).unwrap();
    std::fs::write(machine.path("images/notes.txt"), "not one").unwrap();
    std::os::unix::fs::symlink("..", machine.path("images/old/circle")).unwrap();
    std::os::unix::fs::symlink("self", machine.path("images/self")).unwrap();
    let before = stored(&machine);
    let gc = ["gc", "-s", &store, "--grace", "0s", "--delete", "--keep"];
    let said = machine.ok(&[&gc[..], &["images"]].concat());
    assert!(
        said.contains("kept for 1 named flist, 2 other files passed over"),
        "{said}"
    );
    assert!(said.contains("there is nothing to delete"), "{said}");
    assert_eq!(stored(&machine), before);
    machine.ok(&["verify", "images/old/deep/base"]);
    std::fs::write(machine.path("images/cut.fl"), "").unwrap();
    machine.fails(8, &[&gc[..], &["images"]].concat());
    let said = machine.fails(3, &[&gc[..], &["source"]].concat());
    assert!(said.contains("no flist in source"), "{said}");
    assert_eq!(stored(&machine), before);
}

#[test]
fn gc_of_a_store_that_is_not_there_says_so() {
    let machine = packed();
    let said = machine.fails(3, &["gc", "-s", "./nostore", "--keep", "x.fl"]);
    assert!(said.contains("nostore"), "{said}");
    assert!(!machine.path("nostore").exists());
}

#[test]
fn clone_copies_packs_and_names_the_new_stores() {
    let machine = packed();
    let copy = format!("dir://{}", machine.dir("copy").display());
    machine.ok(&["clone", "x.fl", "-s", &copy, "-o", "y.fl"]);
    assert_eq!(
        machine.json(&["inspect", "y.fl"])["stores"],
        serde_json::json!([copy])
    );
    std::fs::remove_dir_all(machine.path("store")).unwrap();
    machine.ok(&["verify", "y.fl"]);
    let again = machine.ok(&["clone", "y.fl", "-s", &copy]);
    assert!(again.starts_with("copied 0 packs"), "{again}");
}

#[test]
fn a_store_on_a_full_disk_is_exit_code_10() {
    let machine = Machine::new();
    let small = machine.dir("small");
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&small)
        .status()
        .unwrap();
    assert!(status.success());
    sample_tree(&machine.dir("source"));
    let store = format!("dir://{}", small.join("packs").display());
    let said = machine.fails(10, &["pack", "source", "-o", "x.fl", "-s", &store]);
    assert!(said.contains("full") || said.contains("space"), "{said}");
    assert!(!machine.path("x.fl").exists());
}
