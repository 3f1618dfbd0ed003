//! Uppers on disk with a bound: its limit, its soundness, and its end.

use std::path::Path;
use std::time::{Duration, Instant};

use lamina_mount::union::{UnionError, Upper, UpperError, build, is_bounded};
use lamina_mount::unmount::mountinfo::MountTable;

use crate::support::{Sandbox, features, sandbox, skip};
use crate::unions::{attach, lower, overlay_sandbox, spec, unmount};

/// Needs loop devices and ext4, or says so.
macro_rules! disk_sandbox {
    () => {{
        let sandbox = overlay_sandbox!();
        let known = std::fs::read_to_string("/proc/filesystems").expect("file systems");
        if !known.contains("\text4\n") || !Path::new("/dev/loop-control").exists() {
            skip!("no ext4 or no loop devices");
        }
        sandbox
    }};
}

/// The loop device that is mounted on `at`, such as `loop3`.
fn device_of(at: &Path) -> String {
    let table = MountTable::read().expect("the mount table");
    let entry = table.on(at).expect("mounted");
    assert!(is_bounded(entry), "{entry:?}");
    let name = entry.source.file_name().expect("a device").to_str();
    name.expect("a name").to_owned()
}

/// Waits until nothing of the sandbox is behind the device: the kernel lets go a moment after the last unmount.
fn gone(device: &str, sandbox: &Sandbox) {
    let behind = format!("/sys/block/{device}/loop/backing_file");
    let home = sandbox.path().display().to_string();
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::fs::read_to_string(&behind).is_ok_and(|file| file.starts_with(&home)) {
        assert!(Instant::now() < deadline, "{device} stays");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_disk_upper_is_limited_and_ends_with_its_union() {
    let sandbox = disk_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let at = sandbox.dir("home").join("disk");
    std::fs::create_dir(&at).expect("mkdir");
    let upper = Upper::Disk {
        at: at.clone(),
        bytes_max: 8 << 20,
    };
    let dirs = attach(build(spec(&[&lower], upper)), &target);
    let device = device_of(&at);
    drop(dirs);
    unmount(&at);
    std::fs::write(target.join("fits"), vec![1; 8 << 20]).expect("what was asked for");
    let error = std::fs::write(target.join("big"), vec![1; 1 << 20]).expect_err("no room");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    std::fs::remove_file(target.join("fits")).expect("removing");
    std::fs::write(target.join("file"), "above").expect("write");
    let room = rustix::fs::statvfs(&target).expect("statvfs");
    let total = room.f_blocks * room.f_frsize;
    assert!(((8 << 20)..(9 << 20)).contains(&total), "{total}");
    unmount(&target);
    gone(&device, &sandbox);
    let home = std::fs::read_dir(sandbox.path().join("home")).expect("list");
    assert_eq!(home.count(), 1, "only the directory");
}

/// Directories go to groups of their own: every group's bitmaps are read, those that were never written, too.
#[test]
fn a_disk_upper_of_many_groups_is_sound() {
    let sandbox = disk_sandbox!();
    let (lower, target, at) = (lower(&sandbox), sandbox.dir("target"), sandbox.dir("disk"));
    let upper = Upper::Disk {
        at: at.clone(),
        bytes_max: 300 << 20,
    };
    let dirs = attach(build(spec(&[&lower], upper)), &target);
    let device = device_of(&at);
    for number in 0..40 {
        let directory = target.join(number.to_string());
        std::fs::create_dir(&directory).expect("mkdir");
        std::fs::write(directory.join("file"), vec![number; 100_000]).expect("write");
    }
    rustix::fs::syncfs(std::fs::File::open(&at).expect("open")).expect("syncfs");
    let errors = std::fs::read_to_string(format!("/sys/fs/ext4/{device}/errors_count"));
    assert_eq!(errors.expect("a count").trim(), "0");
    let checked = std::process::Command::new("e2fsck")
        .args(["-fn", &format!("/dev/{device}")])
        .output();
    match checked {
        Ok(checked) => {
            let said = String::from_utf8_lossy(&checked.stdout);
            // 4: it is mounted, so the counts in the superblock are behind.
            let is_sound = |line: &str| !line.contains("differences") && !line.contains("Inode ");
            assert!(said.lines().all(is_sound), "{said}");
        }
        Err(error) => eprintln!("e2fsck did not run: {error}"),
    }
    drop(dirs);
    unmount(&target);
    unmount(&at);
    gone(&device, &sandbox);
}

#[test]
fn a_disk_upper_without_room_is_refused_and_leaves_nothing() {
    let sandbox = disk_sandbox!();
    let (lower, at) = (lower(&sandbox), sandbox.dir("disk"));
    for (bytes_max, said) in [
        (14 << 40, "has no room for"),
        (u64::MAX, "less than 15 TiB"),
    ] {
        let upper = Upper::Disk {
            at: at.clone(),
            bytes_max,
        };
        let error = build(spec(&[&lower], upper)).expect_err("too much");
        assert!(matches!(error, UnionError::Upper(UpperError::Disk(_))));
        assert!(error.to_string().contains(said), "{error}");
        let table = MountTable::read().expect("the mount table");
        assert!(table.on(&at).is_none());
    }
}
