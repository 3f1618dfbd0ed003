//! The unmount ladder, on mounts that are fine, busy, or whose daemon is gone.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use lamina_mount::fscontext::DetachedMount;
use lamina_mount::session::{ConnectOptions, FuseConnection};
use lamina_mount::unmount::fusectl::ConnectionId;
use lamina_mount::unmount::mountinfo::MountTable;
use lamina_mount::unmount::{UnmountError, UnmountOptions, Unmounted, unmount, unmount_tree};
use rustix::mount::MountFlags;

use crate::support::{features, sandbox, skip};

fn tmpfs(target: &Path) {
    std::fs::create_dir_all(target).expect("mkdir");
    rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::empty(), None).expect("tmpfs");
}

fn quick() -> UnmountOptions {
    UnmountOptions {
        step_deadline: Duration::from_secs(5),
        busy_grace: Duration::from_millis(20),
        ..UnmountOptions::default()
    }
}

fn is_mounted(target: &Path) -> bool {
    MountTable::read()
        .expect("the mount table")
        .on(target)
        .is_some()
}

#[test]
fn a_plain_mount_goes_and_a_missing_one_is_no_error() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    assert_eq!(
        unmount(&target, &quick()).expect("nothing"),
        Unmounted::WasNotMounted
    );
    let nowhere = sandbox.path().join("nowhere");
    assert_eq!(
        unmount(&nowhere, &quick()).expect("nothing"),
        Unmounted::WasNotMounted
    );
    tmpfs(&target);
    tmpfs(&target);
    assert_eq!(
        unmount(&target, &quick()).expect("unmounted"),
        Unmounted::Clean
    );
    assert!(is_mounted(&target), "only the topmost");
    assert_eq!(
        unmount(&target, &quick()).expect("unmounted"),
        Unmounted::Clean
    );
    assert!(!is_mounted(&target));
}

#[test]
fn a_link_to_a_mount_is_not_followed() {
    let sandbox = sandbox!();
    let (target, link) = (sandbox.dir("target"), sandbox.path().join("link"));
    tmpfs(&target);
    std::os::unix::fs::symlink(&target, &link).expect("symlink");
    assert_eq!(
        unmount(&link, &quick()).expect("nothing"),
        Unmounted::WasNotMounted
    );
    assert!(is_mounted(&target));
    // A link on the way is.
    let parent = sandbox.path().join("parent");
    std::os::unix::fs::symlink(sandbox.path(), &parent).expect("symlink");
    assert_eq!(
        unmount(&parent.join("target"), &quick()).expect("unmounted"),
        Unmounted::Clean
    );
}

#[test]
fn a_busy_mount_stays_and_its_holders_are_named() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    tmpfs(&target);
    let held = File::create(target.join("held")).expect("create");
    let error = unmount(&target, &quick()).expect_err("busy");
    let UnmountError::Busy { holders, .. } = &error else {
        panic!("{error}");
    };
    let ours = holders
        .found
        .iter()
        .find(|holder| holder.pid == std::process::id());
    let ours = ours.unwrap_or_else(|| panic!("{error}"));
    assert!(ours.link.starts_with("fd/"), "{ours:?}");
    assert!(error.to_string().contains("held"), "{error}");
    assert!(is_mounted(&target));
    drop(held);
    assert_eq!(
        unmount(&target, &quick()).expect("unmounted"),
        Unmounted::Clean
    );
}

#[test]
fn a_process_that_works_in_a_mount_or_maps_its_files_is_named() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    tmpfs(&target);
    // The working directory, without any descriptor.
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .current_dir(&target)
        .spawn()
        .expect("sleep");
    let error = unmount(&target, &quick()).expect_err("busy");
    child.kill().expect("kill");
    child.wait().expect("wait");
    let UnmountError::Busy { holders, .. } = &error else {
        panic!("{error}");
    };
    let by_child = holders.found.iter().find(|holder| holder.pid == child.id());
    assert_eq!(
        by_child.map(|holder| holder.link.as_str()),
        Some("cwd"),
        "{error}"
    );

    let file = File::create_new(target.join("mapped")).expect("create");
    file.set_len(4096).expect("grow");
    drop(file);
    let map = crate::sys::map_file(&target.join("mapped"));
    let error = unmount(&target, &quick()).expect_err("busy");
    drop(map);
    let UnmountError::Busy { holders, .. } = &error else {
        panic!("{error}");
    };
    let mapped = holders
        .found
        .iter()
        .find(|holder| holder.pid == std::process::id());
    assert!(
        mapped.is_some_and(|holder| holder.link.starts_with("map_files/")),
        "{error}"
    );
    assert_eq!(
        unmount(&target, &quick()).expect("unmounted"),
        Unmounted::Clean
    );
}

#[test]
fn a_busy_mount_can_be_detached() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    tmpfs(&target);
    let held = File::create(target.join("held")).expect("create");
    let options = UnmountOptions {
        detach: true,
        ..quick()
    };
    assert_eq!(
        unmount(&target, &options).expect("detached"),
        Unmounted::Detached
    );
    assert!(!is_mounted(&target));
    std::os::unix::fs::FileExt::write_all_at(&held, b"still works", 0).expect("write");
}

#[test]
fn a_tree_of_mounts_goes_innermost_first() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    tmpfs(&target);
    tmpfs(&target.join("a"));
    tmpfs(&target.join("a/b"));
    tmpfs(&target.join("c"));
    tmpfs(&target.join("a/b"));
    assert_eq!(unmount_tree(&target, &quick()).expect("unmounted"), 5);
    assert_eq!(unmount_tree(&target, &quick()).expect("nothing"), 0);
}

/// A connection that nobody serves.
fn silent(target: &Path) -> FuseConnection {
    std::fs::create_dir_all(target).expect("mkdir");
    FuseConnection::create(target, &ConnectOptions::default()).expect("connecting")
}

#[test]
fn a_mount_whose_daemon_is_silent_is_not_waited_for() {
    let sandbox = sandbox!();
    if !features().fuse.found || !features().fuse_abort.found {
        skip!("no FUSE: {:?}", features().fuse.error);
    }
    let target = sandbox.dir("target");
    let connection = silent(&target);
    // A reader in the kernel, waiting for an answer that never comes.
    let path = target.join("file");
    let reader = std::thread::spawn(move || std::fs::metadata(path));
    let id = ConnectionId::of(
        MountTable::read()
            .expect("table")
            .on(&target)
            .expect("mounted"),
    );
    let give_up = Instant::now() + Duration::from_secs(20);
    while id.waiting().expect("fusectl") == 0 {
        assert!(Instant::now() < give_up, "the reader never asked");
        std::thread::yield_now();
    }
    // Its lookup keeps the mount busy; who holds it is not visible as a file.
    let error = unmount(&target, &quick()).expect_err("busy");
    assert!(matches!(error, UnmountError::Busy { .. }), "{error}");
    // Only aborting frees the reader, with an error and not with made-up data.
    let options = UnmountOptions {
        abort_busy: true,
        busy_grace: Duration::from_secs(10),
        ..quick()
    };
    assert_eq!(
        unmount(&target, &options).expect("aborted"),
        Unmounted::Aborted
    );
    let result = reader.join().expect("the reader comes back");
    let errno = result.expect_err("no answer").raw_os_error();
    assert!(
        matches!(errno, Some(libc::ECONNABORTED | libc::ENOTCONN | libc::EIO)),
        "{errno:?}"
    );
    drop(connection);
}

#[test]
fn aborting_is_final_and_reported() {
    let sandbox = sandbox!();
    if !features().fuse.found || !features().fuse_abort.found {
        skip!("no FUSE: {:?}", features().fuse.error);
    }
    let target = sandbox.dir("target");
    let connection = silent(&target);
    let id = ConnectionId::of(
        MountTable::read()
            .expect("table")
            .on(&target)
            .expect("mounted"),
    );
    id.abort().expect("aborted");
    let error = std::fs::metadata(target.join("file")).expect_err("aborted");
    assert!(error.raw_os_error().is_some(), "{error}");
    assert_eq!(
        unmount(&target, &quick()).expect("unmounted"),
        Unmounted::Clean
    );
    // The connection's number may be given out again; ours is gone.
    drop(connection);
    let gone = ConnectionId::by_minor(u32::MAX)
        .abort()
        .expect_err("no such connection");
    assert_eq!(gone.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_holder_in_another_namespace_is_not_blamed() {
    let sandbox = sandbox!();
    let target = sandbox.dir("target");
    tmpfs(&target);
    // A child with a copy of every mount, working in its copy of this one.
    let mut child = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sleep", "60"])
        .current_dir(&target)
        .spawn()
        .expect("unshare");
    let comm = format!("/proc/{}/comm", child.id());
    let give_up = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(&comm).expect("comm").trim() != "sleep" {
        assert!(Instant::now() < give_up, "the child never got there");
        std::thread::yield_now();
    }
    let result = unmount(&target, &quick());
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(result.expect("unmounted here"), Unmounted::Clean);
}

#[test]
fn a_clone_is_known_and_trusted_before_it_is_attached() {
    let sandbox = sandbox!();
    let (source, target) = (sandbox.dir("source"), sandbox.dir("target"));
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("test", &source, "tmpfs", flags, None).expect("tmpfs");
    let clone = DetachedMount::clone_of(&source).expect("a clone");
    clone.trust().expect("attributes can be cleared");
    let identity = clone.identity().expect("it has an id");
    clone.attach(&target).expect("attached");
    let table = MountTable::read().expect("mountinfo");
    let [from, to] = [&source, &target].map(|at| table.on(at).expect("mounted"));
    assert_eq!(to.identity(), identity);
    assert_ne!(from.id, to.id);
    assert_eq!(from.device, to.device);
    assert!(from.options.contains("nosuid,nodev"), "{}", from.options);
    assert!(!to.options.contains("nosuid"), "{}", to.options);
    assert!(!to.options.contains("nodev"), "{}", to.options);
}
