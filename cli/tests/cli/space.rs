//! Bounds, of the cache above all, as programs that read notice them: not at all, or by an error that
//! says what to do.

use crate::machine::{DEADLINE, Machine, kill, wait_until};
use crate::mounts::packed;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const FILES: u32 = 12;
const FILE_BYTES: usize = 2 << 20;

/// Bytes that do not compress and repeat nowhere.
fn noise(seed: u32) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let words = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 16).to_le_bytes()
    });
    words.flatten().take(FILE_BYTES).collect()
}

/// A machine with a flist of 24 MiB.
fn packed_noise() -> Machine {
    let machine = Machine::new();
    let source = machine.dir("source");
    for seed in 0..FILES {
        std::fs::write(source.join(seed.to_string()), noise(seed)).unwrap();
    }
    machine.ok(&["pack", "source", "-o", "x.fl", "-s", &machine.store()]);
    machine
}

/// Reads a file past the kernel's page cache as far as that can be, and compares.
fn read_anew(dir: &Path, seed: u32) -> io::Result<()> {
    let file = std::fs::File::open(dir.join(seed.to_string()))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut got = vec![0; FILE_BYTES];
    file.read_exact_at(&mut got, 0)?;
    assert!(got == noise(seed), "wrong bytes in file {seed}");
    Ok(())
}

/// Several readers at once, each in an order of its own.
fn read_all(dir: &Path) {
    std::thread::scope(|scope| {
        for reader in 0..4 {
            scope.spawn(move || {
                for step in 0..FILES {
                    let seed = (reader * 3 + step * 5) % FILES;
                    read_anew(dir, seed).unwrap();
                }
            });
        }
    });
}

/// Blocks in which the file system keeps the extents of files with many holes: they count as soon as
/// somebody looks, and room is made for them at the next fetch.
const EXTENTS: u64 = 64 << 10;

fn cache_bytes(machine: &Machine) -> u64 {
    machine.json(&["mounts"])["caches"][0]["bytes"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_mount_larger_than_the_cache_is_read_right_in_every_mode() {
    let machine = packed_noise();
    for mode in ["erofs", "erofs-loop", "fuse"] {
        let target = machine.dir(mode);
        machine.ok(&[
            "mount",
            "x.fl",
            mode,
            "--mode",
            mode,
            "--cache-size",
            "6MiB",
            "--no-prefetch",
        ]);
        for _ in 0..2 {
            read_all(&target);
            let bytes = cache_bytes(&machine);
            assert!(bytes <= 6 * MIB + EXTENTS, "{bytes} bytes, mode {mode}");
        }
        machine.ok(&["umount", mode]);
    }
    assert!(
        !machine.log().contains("cache is full"),
        "{}",
        machine.log()
    );
}

#[test]
fn readers_of_a_full_cache_go_on_while_the_daemons_are_killed() {
    let machine = packed_noise();
    let target = machine.dir("m");
    machine.ok(&[
        "mount",
        "x.fl",
        "m",
        "--cache-size",
        "6MiB",
        "--no-prefetch",
    ]);
    std::thread::scope(|scope| {
        let readers = scope.spawn(|| read_all(&target));
        for role in ["agent", "mountd", "agent"] {
            let pid = machine.daemon(role).unwrap();
            kill(pid);
            let back = || machine.daemon(role).is_some_and(|now| now != pid);
            assert!(wait_until(back), "{}", machine.log());
        }
        readers.join().unwrap();
    });
    let bytes = cache_bytes(&machine);
    assert!(bytes <= 6 * MIB + EXTENTS, "{bytes} bytes");
    machine.ok(&["umount", "m"]);
}

#[test]
fn what_the_kernel_reads_by_itself_is_never_evicted() {
    let machine = packed_noise();
    std::fs::rename(machine.path("source"), machine.path("first")).unwrap();
    let second = machine.dir("second");
    for seed in FILES..2 * FILES {
        std::fs::write(second.join((seed - FILES).to_string()), noise(seed)).unwrap();
    }
    machine.ok(&["pack", "second", "-o", "y.fl", "-s", &machine.store()]);
    let direct = machine.dir("direct");
    machine.ok(&["mount", "x.fl", "direct"]);
    machine.ok(&["prefetch", "direct"]);
    machine.ok(&["umount", "direct"]);
    machine.ok(&["mount", "x.fl", "direct"]);
    let served = machine.dir("served");
    machine.ok(&[
        "mount",
        "y.fl",
        "served",
        "--cache-size",
        "28MiB",
        "--no-prefetch",
    ]);
    for seed in 0..FILES {
        std::fs::read(served.join(seed.to_string())).unwrap();
    }
    kill(machine.daemon("agent").unwrap());
    for seed in 0..FILES {
        std::fs::read(served.join(seed.to_string())).unwrap();
        read_anew(&direct, seed).unwrap();
    }
    let listed = machine.json(&["mounts"]);
    let mounts = listed["mounts"].as_array().unwrap();
    let whole = mounts
        .iter()
        .find(|mount| mount["bytes_local"] == mount["bytes_total"]);
    assert!(whole.is_some(), "{listed}");
    for target in ["direct", "served"] {
        machine.ok(&["umount", target]);
    }
}

#[test]
fn a_cache_that_cannot_hold_one_read_says_so() {
    let machine = packed_noise();
    let target = machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    bounded(&machine, "x.fl", 30 << 10);
    let error = read_anew(&target, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let said = || machine.log().contains("raise --cache-size");
    assert!(wait_until(said), "{}", machine.log());
    machine.ok(&["mount", "x.fl", "m", "--cache-size", "6MiB"]);
    assert!(wait_until(|| read_anew(&target, 0).is_ok()));
    machine.ok(&["umount", "m"]);
}

#[test]
fn limits_outlive_the_agent_and_the_instance() {
    let machine = packed();
    machine.dir("m");
    let limits = ["--cache-size", "7MiB", "--cache-expire", "1h"];
    machine.ok(&[["mount", "x.fl", "m"].as_slice(), &limits].concat());
    let kept = |when: &str| {
        let cache = &machine.json(&["mounts"])["caches"][0];
        assert_eq!(cache["bytes_max"], 7 * MIB, "{when}");
        assert_eq!(cache["expire_s"], 3600, "{when}");
    };
    let agent = machine.daemon("agent").unwrap();
    kill(agent);
    assert!(wait_until(|| machine
        .daemon("agent")
        .is_some_and(|now| now != agent)));
    kept("after a kill");
    machine.ok(&["umount", "m"]);
    assert!(
        wait_until(|| machine.daemons().is_empty()),
        "{}",
        machine.log()
    );
    machine.ok(&["mount", "x.fl", "m"]);
    kept("after the instance ended");
    machine.ok(&["umount", "m"]);
}

/// Mounts with a bound below what the command line takes.
fn bounded(machine: &Machine, flist: &str, bytes: u64) {
    let call = serde_json::json!({
        "call": "mount", "flist": machine.path(flist), "target": machine.path("m"), "cache_size": bytes,
    });
    let call = serde_json::from_value(call).unwrap();
    let socket = machine.instances().remove(0).join("api.sock");
    lamina_nodeagent::api::call(&socket, &call, DEADLINE).unwrap();
}

#[test]
fn a_copy_of_a_flist_counts_and_is_kept_while_it_is_mounted() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let copies = || -> Vec<PathBuf> {
        let found = std::fs::read_dir(machine.path("cache/flists")).unwrap();
        found.map(|entry| entry.unwrap().path()).collect()
    };
    let copied = std::fs::metadata(machine.path("x.fl")).unwrap().len();
    assert!(cache_bytes(&machine) >= copied);
    bounded(&machine, "x.fl", 1024);
    assert_eq!(copies().len(), 2, "the copy and its seal");
    machine.ok(&["umount", "m"]);
    machine.ok(&["pack", "source/many", "-o", "y.fl", "-s", &machine.store()]);
    machine.ok(&["mount", "y.fl", "m", "--cache-size", "1MiB"]);
    bounded(&machine, "y.fl", 1024);
    assert_eq!(copies().len(), 2, "the one nobody uses went");
    machine.ok(&["umount", "m"]);
}

#[test]
fn two_instances_do_not_share_a_cache_at_the_same_time() {
    let machine = packed();
    for dir in ["m", "m2"] {
        machine.dir(dir);
    }
    let run_dir = machine.dir("run2");
    let run_dir = run_dir.to_str().unwrap();
    machine.ok(&["mount", "x.fl", "m"]);
    let other = ["mount", "x.fl", "m2", "--run-dir", run_dir];
    let said = machine.fails(6, &other);
    let cache = machine.path("cache");
    assert!(
        said.contains(&format!("the cache {} is in use", cache.display())),
        "{said}"
    );
    machine.ok(&["umount", "m"]);
    machine.ok(&other);
    assert!(machine.path("m2/a/hello").exists());
    machine.ok(&["umount", "m2", "--run-dir", run_dir]);
    assert!(wait_until(|| machine.daemons().is_empty()));
}

#[test]
fn a_store_that_hangs_delays_only_its_own_readers() {
    /// More than one set of stores may have under way at once.
    const READERS: u32 = 40;
    let machine = packed();
    let other = machine.dir("other");
    for seed in 0..READERS {
        std::fs::write(other.join(seed.to_string()), &noise(seed)[..100_000]).unwrap();
    }
    machine.ok(&["pack", "other", "-o", "y.fl", "-s", &machine.store()]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("http://{}/", silent.local_addr().unwrap());
    let stuck = machine.dir("stuck");
    machine.ok(&["mount", "y.fl", "stuck", "--store", &store, "--no-prefetch"]);
    let mut readers: Vec<_> = (0..READERS)
        .map(|seed| {
            let mut cat = std::process::Command::new("cat");
            cat.arg(stuck.join(seed.to_string()))
                .stdout(std::process::Stdio::null());
            cat.spawn().unwrap()
        })
        .collect();
    silent.accept().expect("the first request");
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let read = std::fs::read(machine.path("m/a/b/random")).unwrap();
    let waiting = readers
        .iter_mut()
        .all(|reader| matches!(reader.try_wait(), Ok(None)));
    for mut reader in readers {
        reader.kill().unwrap();
        reader.wait().unwrap();
    }
    assert!(waiting, "it was not served before the stuck ones gave up");
    assert!(read == std::fs::read(machine.path("source/a/b/random")).unwrap());
    for target in ["m", "stuck"] {
        machine.ok(&["umount", target, "--force"]);
    }
}

#[test]
fn a_long_log_is_put_aside_and_every_daemon_goes_on_in_a_new_one() {
    let machine = packed();
    machine.dir("m");
    machine.ok(&["mount", "x.fl", "m"]);
    let log = machine.instances()[0].join("log");
    let long = std::fs::File::options().append(true).open(&log).unwrap();
    long.set_len(17 * MIB).unwrap();
    kill(machine.daemon("agent").unwrap());
    let told = || machine.log().contains("died; starting it again");
    assert!(wait_until(told), "the holder writes to the new log");
    assert!(std::fs::metadata(&log).unwrap().len() < MIB);
    let aside = std::fs::metadata(log.with_extension("1")).unwrap();
    assert!(aside.len() >= 17 * MIB);
    machine.ok(&["umount", "m"]);
}

/// A file system of so many bytes over a directory; [`Machine`] unmounts what is left below it.
fn small_disk(dir: &Path, bytes: u64) {
    let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", dir, "tmpfs", flags, options.as_c_str()).unwrap();
}

/// Bounds the cache above what its disk holds, so that the disk is full first.
fn mount_beyond_the_disk(machine: &Machine) {
    machine.ok(&[
        "mount",
        "x.fl",
        "m",
        "--cache-size",
        "64MiB",
        "--no-prefetch",
    ]);
}

#[test]
fn a_disk_that_is_full_before_the_bound_evicts_and_reads_go_on() {
    let machine = packed_noise();
    small_disk(&machine.path("cache"), 8 * MIB);
    let target = machine.dir("m");
    mount_beyond_the_disk(&machine);
    for _ in 0..2 {
        read_all(&target);
    }
    assert!(machine.log().contains("the disk is full; evicted"));
    let agent = machine.daemon("agent").unwrap();
    kill(agent);
    assert!(wait_until(|| machine
        .daemon("agent")
        .is_some_and(|now| now != agent)));
    read_all(&target);
    let mount = &machine.json(&["mounts"])["mounts"][0];
    assert_eq!(mount["reads_failed"], 0, "{}", machine.log());
    machine.ok(&["umount", "m"]);
}

#[test]
fn a_flist_finds_room_on_a_disk_full_of_what_nobody_uses() {
    let machine = packed_noise();
    let cache = machine.path("cache");
    small_disk(&cache, 8 * MIB);
    let target = machine.dir("m");
    mount_beyond_the_disk(&machine);
    read_anew(&target, 0).unwrap();
    machine.ok(&["umount", "m"]);
    machine.dir("little");
    std::fs::write(machine.path("little/file"), vec![1; 100_000]).unwrap();
    machine.ok(&["pack", "little", "-o", "little.fl", "-s", "store"]);
    let hog = std::fs::write(cache.join("somebody's"), vec![1; 8 * MIB as usize]);
    assert_eq!(hog.unwrap_err().kind(), io::ErrorKind::StorageFull);
    machine.ok(&["mount", "little.fl", "m"]);
    assert_eq!(
        std::fs::read(machine.path("m/file")).unwrap(),
        vec![1; 100_000]
    );
    machine.ok(&["umount", "m"]);
}

#[test]
fn a_disk_that_others_filled_is_named_with_what_to_do() {
    let machine = packed_noise();
    let cache = machine.path("cache");
    small_disk(&cache, 8 * MIB);
    let target = machine.dir("m");
    mount_beyond_the_disk(&machine);
    let hog = cache.join("somebody's");
    let full = std::fs::write(&hog, vec![1; 8 * MIB as usize]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let error = read_anew(&target, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let said = machine.json(&["mounts"])["mounts"][0]["last_error"].to_string();
    let wanted = format!("the disk of the cache {} is full", cache.display());
    assert!(
        said.contains(&wanted) && said.contains("free space"),
        "{said}"
    );
    std::fs::remove_file(&hog).unwrap();
    assert!(wait_until(|| read_anew(&target, 0).is_ok()));
    machine.ok(&["umount", "m"]);
}
