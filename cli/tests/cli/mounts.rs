//! Mounting, listing, unmounting, writing: what the README promises.

use crate::machine::{Machine, sample_tree, snapshot, wait_until};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A machine with a sample tree packed as `x.fl`.
pub(crate) fn packed() -> Machine {
    let machine = Machine::new();
    sample_tree(&machine.dir("source"));
    machine.ok(&["pack", "source", "-o", "x.fl", "-s", &machine.store()]);
    machine
}

fn mount_modes() -> [&'static str; 3] {
    ["erofs", "erofs-loop", "fuse"]
}

#[test]
fn a_mount_equals_its_source_in_every_mode() {
    let machine = packed();
    let expected = snapshot(&machine.path("source"));
    for mode in mount_modes() {
        let target = machine.dir(mode);
        machine.ok(&["mount", "x.fl", mode, "--mode", mode]);
        assert_eq!(snapshot(&target), expected, "mode {mode}");
        let listed = machine.json(&["mounts"]);
        assert_eq!(listed["mounts"][0]["mode"], mode);
        machine.ok(&["umount", mode]);
        assert_eq!(
            std::fs::read_dir(&target).unwrap().count(),
            0,
            "mode {mode}"
        );
    }
}

#[test]
fn only_what_is_read_is_fetched() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    std::fs::read(machine.path("m/a/hello")).unwrap();
    let listed = machine.json(&["mounts"]);
    assert_eq!(
        listed["mounts"][0]["bytes_local"], 0,
        "an inline file needs no data"
    );
    std::fs::read(machine.path("m/a/b/random")).unwrap();
    let listed = machine.json(&["mounts"]);
    assert_eq!(listed["mounts"][0]["bytes_fetched"], 700_000);
    machine.ok(&["umount", "m"]);
}

#[test]
fn the_daemons_end_after_the_last_umount_and_leave_no_mount() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    assert_eq!(machine.daemons().len(), 3);
    machine.ok(&["umount", "m"]);
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    assert_eq!(machine.mounted(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn one_flist_on_two_directories_is_one_file_system() {
    let machine = packed();
    for target in ["m1", "m2"] {
        machine.dir(target);
        machine.ok(&["mount", "x.fl", target]);
    }
    let dev = |path: &str| std::fs::metadata(machine.path(path)).unwrap().dev();
    assert_eq!(dev("m1/a/hello"), dev("m2/a/hello"));
    machine.ok(&["umount", "m1"]);
    assert!(machine.path("m2/a/hello").exists());
    machine.ok(&["umount", "m2"]);
}

#[test]
fn what_was_fetched_once_stays_in_the_cache() {
    let machine = packed();
    machine.dir("m");
    for round in 0..2 {
        machine.ok(&["mount", "x.fl", "m"]);
        snapshot(&machine.path("m"));
        let listed = machine.json(&["mounts"]);
        let mount = &listed["mounts"][0];
        assert_eq!(mount["bytes_local"], mount["bytes_total"]);
        assert_eq!(
            mount["bytes_fetched"] == 0,
            round == 1,
            "round {round}: {mount}"
        );
        machine.ok(&["umount", "m"]);
    }
}

#[test]
fn a_writable_union_keeps_changes_in_upper_and_the_flist_as_it_was() {
    let machine = packed();
    let before = snapshot(&machine.path("source"));
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--rw", "upper"]);
    std::fs::write(machine.path("m/a/hello"), "changed").unwrap();
    std::fs::remove_file(machine.path("m/hardrandom")).unwrap();
    std::fs::write(machine.path("m/new"), "new").unwrap();
    machine.ok(&["umount", "m"]);
    assert_eq!(
        std::fs::read(machine.path("upper/upper/a/hello")).unwrap(),
        b"changed"
    );
    machine.ok(&["mount", "x.fl", "m", "--rw", "upper"]);
    assert_eq!(std::fs::read(machine.path("m/new")).unwrap(), b"new");
    assert!(!machine.path("m/hardrandom").exists());
    machine.ok(&["umount", "m"]);
    machine.ok(&["mount", "x.fl", "m"]);
    assert_eq!(snapshot(&machine.path("m")), before);
    machine.ok(&["umount", "m"]);
}

#[test]
fn read_only_mounts_refuse_changes_devices_and_setuid() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let refused = std::fs::write(machine.path("m/new"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let refused = std::fs::File::open(machine.path("m/null")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
    assert!(options_of(&machine.path("m")).contains("nosuid"));
    machine.ok(&["umount", "m"]);
    machine.ok(&["mount", "x.fl", "m", "--trusted"]);
    std::fs::File::open(machine.path("m/null")).unwrap();
    assert!(!options_of(&machine.path("m")).contains("nosuid"));
    machine.ok(&["umount", "m"]);
}

fn options_of(target: &Path) -> String {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = table
        .lines()
        .find(|line| line.split(' ').nth(4) == target.to_str());
    line.unwrap().split(' ').nth(5).unwrap().to_owned()
}

#[test]
fn a_busy_mount_is_not_torn_down_unless_forced() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let held = std::fs::File::open(machine.path("m/a/b/text")).unwrap();
    let said = machine.fails(1, &["umount", "m"]);
    assert!(said.contains("in use"), "{said}");
    machine.ok(&["umount", "m", "--force"]);
    assert!(!machine.path("m/a").exists());
    drop(held);
}

#[test]
fn an_umount_by_other_tools_is_noticed() {
    let machine = packed();
    let target = machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let status = std::process::Command::new("umount")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success());
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    assert_eq!(machine.mounted(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn prefetch_makes_paths_local_before_anybody_reads() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    machine.ok(&["prefetch", "m", "/a/b/text"]);
    let local = |machine: &Machine| machine.json(&["mounts"])["mounts"][0]["bytes_local"].as_u64();
    assert_eq!(local(&machine), Some(2_000_000));
    machine.ok(&["prefetch", "m"]);
    let listed = machine.json(&["mounts"]);
    assert_eq!(
        listed["mounts"][0]["bytes_local"],
        listed["mounts"][0]["bytes_total"]
    );
    assert_eq!(listed["mounts"][0]["chunks_demanded"], 0);
    machine.ok(&["umount", "m"]);
}

/// Mounts until the agent is certain which figure in sysfs is the mount's: others mount meanwhile.
fn mount_with_a_known_read_ahead(machine: &Machine) -> u64 {
    let mut known = None;
    let certain = wait_until(|| {
        machine.ok(&["mount", "x.fl", "m"]);
        known = machine.json(&["mounts"])["mounts"][0]["read_ahead_kb"].as_u64();
        if known.is_none() {
            machine.ok(&["umount", "m"]);
        }
        known.is_some()
    });
    assert!(certain, "{}", machine.log());
    known.unwrap()
}

/// Page cache folios are as large as the reads that filled them: small ones make warm reads slower.
#[test]
fn what_is_all_local_is_read_ahead_like_the_disk_it_is_on() {
    let machine = packed();
    machine.dir("m");
    assert_eq!(
        mount_with_a_known_read_ahead(&machine),
        128,
        "data is missing"
    );
    machine.ok(&["prefetch", "m", "/"]);
    let cache = machine.path("cache");
    let disk = lamina_mount::read_ahead::of_disk(&cache).map_or(128, |kb| kb.max(128));
    let read_ahead =
        |machine: &Machine| machine.json(&["mounts"])["mounts"][0]["read_ahead_kb"].as_u64();
    assert_eq!(read_ahead(&machine), Some(disk.into()), "all is local");
    machine.ok(&["umount", "m"]);
    assert_eq!(
        mount_with_a_known_read_ahead(&machine),
        u64::from(disk),
        "from the start"
    );
    machine.ok(&["umount", "m"]);
}

/// Unmounts, forgets all data, mounts again: so many bytes come without anybody reading.
fn mount_with_empty_cache_brings(machine: &Machine, bytes: u64) {
    machine.ok(&["umount", "m"]);
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    std::fs::remove_dir_all(machine.path("cache")).unwrap();
    machine.ok(&["mount", "x.fl", "m"]);
    let local = || machine.json(&["mounts"])["mounts"][0]["bytes_local"].as_u64();
    assert!(wait_until(|| local() == Some(bytes)), "{:?}", local());
}

#[test]
fn a_recorded_profile_is_followed_by_the_next_cold_mount() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    std::fs::read(machine.path("m/a/b/text")).unwrap();
    mount_with_empty_cache_brings(&machine, 2_000_000);
    let mount = machine.json(&["mounts"])["mounts"][0].clone();
    assert_eq!(
        (&mount["profile"], &mount["chunks_demanded"]),
        (&"recorded".into(), &0.into())
    );
    machine.ok(&["umount", "m"]);
}

#[test]
fn what_a_guess_brought_is_told_from_what_was_asked_for_and_whether_it_was_read() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    std::fs::read(machine.path("m/a/b/text")).unwrap();
    mount_with_empty_cache_brings(&machine, 2_000_000);
    let figures = || {
        let mount = machine.json(&["mounts"])["mounts"][0].clone();
        (
            mount["bytes_prefetched"].as_u64().unwrap(),
            mount["bytes_prefetched_used"].as_u64().unwrap(),
        )
    };
    assert_eq!(figures(), (2_000_000, 0));
    std::fs::read(machine.path("m/a/b/text")).unwrap();
    assert_eq!(figures(), (2_000_000, 2_000_000));
    machine.ok(&["prefetch", "m"]);
    assert_eq!(figures().0, 2_000_000, "that was no guess");
    machine.ok(&["umount", "m"]);
}

#[test]
fn where_bytes_came_from_is_told_by_tier() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    std::fs::read(machine.path("m/a/b/random")).unwrap();
    let mount = machine.json(&["mounts"])["mounts"][0].clone();
    let figure = |name: &str| mount[name].as_u64().unwrap();
    assert_eq!(figure("bytes_from_stores"), 700_000, "{mount}");
    assert_eq!(
        figure("bytes_from_peers") + figure("bytes_from_registry"),
        0
    );
    assert!(figure("bytes_waited_stores") > 0, "{mount}");
    assert!(figure("bytes_read") >= 700_000, "{mount}");
    assert!(figure("bytes_read_local") < figure("bytes_read"), "{mount}");
    let table = machine.ok(&["mounts", "--tiers"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    let header: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let column = |name: &str| header.iter().position(|known| *known == name).unwrap();
    // Sizes have their unit in a column of its own.
    assert_eq!(
        row[column("PEER") + 1..=column("PEER") + 1],
        ["0.0%"],
        "{table}"
    );
    assert!(
        table.contains("USED: of PREFETCHED, read since."),
        "{table}"
    );
    machine.ok(&["umount", "m"]);
}

#[test]
fn how_much_of_an_image_is_in_memory_is_told() {
    let machine = packed();
    machine.dir("m");
    for mode in mount_modes() {
        machine.ok(&["mount", "x.fl", "m", "--no-prefetch", "--mode", mode]);
        let percent = || {
            let mount = machine.json(&["mounts"])["mounts"][0].clone();
            let figure = |name: &str| mount[name].as_u64().unwrap();
            figure("bytes_resident") * 100 / figure("bytes_total")
        };
        assert!(percent() < 10, "{mode}: nothing was read");
        snapshot(&machine.path("m"));
        assert!(percent() > 90, "{mode}: {}", percent());
        machine.ok(&["umount", "m"]);
    }
}

#[test]
fn reads_of_data_that_was_local_already_are_learnt_too() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    machine.ok(&["prefetch", "m", "/a/b/text"]);
    std::fs::read(machine.path("m/a/b/text")).unwrap();
    let listed = machine.json(&["mounts"]);
    assert_eq!(listed["mounts"][0]["chunks_demanded"], 0);
    mount_with_empty_cache_brings(&machine, 2_000_000);
    machine.ok(&["umount", "m"]);
}

/// Without its seal, a blob is verified as a whole at the next mount.
#[test]
fn an_umount_seals_the_blobs_so_that_the_next_mount_believes_them() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    std::fs::read(machine.path("m/a/b/text")).unwrap();
    machine.ok(&["umount", "m"]);
    let blobs = std::fs::read_dir(machine.path("cache/blobs")).unwrap();
    let seals: Vec<serde_json::Value> = blobs
        .map(|blob| std::fs::read(blob.unwrap().path().join("seal")).unwrap())
        .map(|seal| serde_json::from_slice(&seal).unwrap())
        .collect();
    assert_eq!(seals.len(), 1);
    assert_eq!(seals[0]["closed"], true);
}

#[test]
fn a_cache_bound_is_kept_by_dropping_what_nobody_uses() {
    let machine = packed();
    machine.dir("other");
    std::fs::write(machine.path("other/data"), vec![7u8; 3 << 20]).unwrap();
    let noise: Vec<u8> = (0..3u32 << 18)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(machine.path("other/noise"), noise).unwrap();
    machine.ok(&["pack", "other", "-o", "y.fl", "-s", &machine.store()]);
    machine.dir("m");
    for flist in ["x.fl", "y.fl"] {
        machine.ok(&["mount", flist, "m", "--cache-size", "7MiB"]);
        machine.ok(&["prefetch", "m"]);
        machine.ok(&["umount", "m"]);
    }
    machine.ok(&["mount", "y.fl", "m"]);
    let listed = machine.json(&["mounts"]);
    let bytes = listed["caches"][0]["bytes"].as_u64().unwrap();
    assert!(bytes <= 7 << 20, "{bytes}");
    assert_eq!(
        listed["mounts"][0]["bytes_local"],
        listed["mounts"][0]["bytes_total"]
    );
    machine.ok(&["umount", "m"]);
}
