//! Writable unions: options, the upper's preparation and checks.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lamina_mount::union::{
    Lower, Union, UnionError, UnionOptions, UnionSpec, Upper, UpperDirs, UpperError, build,
    seal_upper,
};
use lamina_mount::unmount::mountinfo::MountTable;
use rustix::fs::{Mode, OFlags, XattrFlags};
use rustix::mount::UnmountFlags;

use crate::support::{Sandbox, features, sandbox, skip};

pub(crate) fn spec<'a>(lowers: &'a [&'a Path], upper: impl Into<Option<Upper>>) -> UnionSpec<'a> {
    UnionSpec {
        lowers: lowers.iter().map(|path| Lower::Path(path)).collect(),
        upper: upper.into(),
        options: UnionOptions::default(),
    }
}

fn on_disk(path: &Path) -> Upper {
    Upper::Directory(path.to_owned())
}

pub(crate) fn lower(sandbox: &Sandbox) -> PathBuf {
    let lower = sandbox.dir("lower");
    std::fs::write(lower.join("file"), "below").expect("write");
    std::fs::create_dir(lower.join("dir")).expect("mkdir");
    lower
}

pub(crate) fn attach(union: Result<Union, UnionError>, target: &Path) -> Option<UpperDirs> {
    union.expect("a union").attach(target).expect("attached")
}

/// A child of another test has our open files for a moment, until its `exec`.
pub(crate) fn unmount(target: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        let is_busy = error == rustix::io::Errno::BUSY;
        assert!(is_busy && Instant::now() < deadline, "unmounting: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Needs overlayfs, or says so.
macro_rules! overlay_sandbox {
    () => {{
        let sandbox = sandbox!();
        if !features().overlay.found {
            skip!("no overlayfs: {:?}", features().overlay.error);
        }
        sandbox
    }};
}
pub(crate) use overlay_sandbox;

#[test]
fn writes_go_to_the_upper_and_stay_there() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let upper = sandbox.path().join("upper");
    let dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    std::fs::write(target.join("file"), "above").expect("write");
    std::fs::remove_dir(target.join("dir")).expect("rmdir");
    drop(dirs);
    unmount(&target);
    assert_eq!(std::fs::read(lower.join("file")).expect("read"), b"below");
    assert!(lower.join("dir").is_dir());

    let dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    assert_eq!(std::fs::read(target.join("file")).expect("read"), b"above");
    assert!(!target.join("dir").exists());
    assert_eq!(dirs.expect("an upper").path(), upper);
    unmount(&target);
}

#[test]
fn a_fresh_upper_takes_over_the_looks_of_the_root() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    rustix::fs::setxattr(&lower, "user.root", b"yes", XattrFlags::empty()).expect("setxattr");
    std::os::unix::fs::chown(&lower, Some(12), Some(34)).expect("chown");
    rustix::fs::chmod(&lower, Mode::from_raw_mode(0o1751)).expect("chmod");
    let before = std::fs::metadata(&lower).expect("stat");
    let _dirs = attach(
        build(spec(&[&lower], on_disk(&sandbox.path().join("upper")))),
        &target,
    );
    let after = std::fs::metadata(&target).expect("stat");
    let looks = |m: &std::fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec());
    assert_eq!(looks(&after), looks(&before));
    let mut value = [0_u8; 8];
    let len = rustix::fs::getxattr(&target, "user.root", &mut value).expect("getxattr");
    assert_eq!(&value[..len], b"yes");
    let work = std::fs::metadata(sandbox.path().join("upper/work")).expect("stat");
    assert_eq!(work.permissions().mode() & 0o077, 0, "work is private");
}

#[test]
fn an_upper_that_was_not_finished_is_begun_anew() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    rustix::fs::chmod(&lower, Mode::from_raw_mode(0o755)).expect("chmod");
    let upper = sandbox.dir("upper");
    // As a mount leaves it that is killed before the root's looks are copied.
    std::fs::create_dir(upper.join("work")).expect("mkdir");
    std::fs::create_dir(upper.join("upper.new")).expect("mkdir");
    rustix::fs::chmod(upper.join("upper.new"), Mode::RWXU).expect("chmod");
    let _dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    let mode = std::fs::metadata(&target).expect("stat").mode() & 0o7777;
    assert_eq!(mode, 0o755);
    assert!(!upper.join("upper.new").exists());
}

#[test]
fn options_are_what_was_decided() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    // On another file system: with all layers on one, xino has nothing to do.
    let at = sandbox.dir("upper");
    let upper = Upper::Tmpfs {
        at,
        bytes_max: 1 << 20,
    };
    let _dirs = attach(build(spec(&[&lower], upper)), &target);
    let table = MountTable::read().expect("the mount table");
    let entry = table.on(&target).expect("mounted");
    assert_eq!(entry.fs_type, "overlay");
    let has = |option: &str| entry.super_options.split(',').any(|o| o == option);
    // Options equal to the kernel's build-time default are not shown.
    for contradicting in ["index=on", "metacopy=on", "redirect_dir=on"] {
        assert!(!has(contradicting), "{}", entry.super_options);
    }
    assert!(has("xino=on"), "{}", entry.super_options);
    // Paths, not descriptor numbers, for those who read the table.
    let shown = entry.super_option("upperdir").expect("an upper");
    assert_eq!(shown, sandbox.path().join("upper/upper"));
}

#[test]
fn one_union_has_one_device_and_unique_inodes() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let tmpfs = sandbox.dir("tmpfs");
    let upper = Upper::Tmpfs {
        at: tmpfs,
        bytes_max: 1 << 20,
    };
    let _dirs = attach(build(spec(&[&lower], upper)), &target);
    std::fs::write(target.join("new"), "x").expect("write");
    let stat = |name: &str| std::fs::metadata(target.join(name)).expect("stat");
    let (below, above) = (stat("file"), stat("new"));
    assert_eq!(below.dev(), above.dev());
    assert_ne!(below.ino(), above.ino());
    std::fs::write(target.join("file"), "changed").expect("write");
    assert_eq!(stat("file").ino(), below.ino());
}

#[test]
fn a_tmpfs_upper_is_limited_and_readable_afterwards() {
    let sandbox = overlay_sandbox!();
    let (lower, target, at) = (lower(&sandbox), sandbox.dir("target"), sandbox.dir("tmpfs"));
    let upper = Upper::Tmpfs {
        at: at.clone(),
        bytes_max: 1 << 20,
    };
    let dirs = attach(build(spec(&[&lower], upper)), &target);
    let error = std::fs::write(target.join("big"), vec![1; 4 << 20]).expect_err("no room");
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    std::fs::remove_file(target.join("big")).expect("removing");
    std::fs::write(target.join("small"), "kept").expect("write");
    drop(dirs);
    unmount(&target);
    assert_eq!(
        std::fs::read(at.join("upper/small")).expect("read"),
        b"kept"
    );
    unmount(&at);
    assert_eq!(std::fs::read_dir(&at).expect("list").count(), 0);
}

#[test]
fn a_lower_may_be_a_descriptor_and_several_may_be_stacked() {
    let sandbox = overlay_sandbox!();
    let (bottom, top) = (lower(&sandbox), sandbox.dir("top"));
    std::fs::write(top.join("file"), "top").expect("write");
    let target = sandbox.dir("target");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fds: Vec<OwnedFd> = [&top, &bottom]
        .map(|path| rustix::fs::open(path, flags, Mode::empty()).expect("open"))
        .into();
    let union = build(UnionSpec {
        lowers: fds.iter().map(|fd| Lower::Fd(fd.as_fd())).collect(),
        upper: None,
        options: UnionOptions::default(),
    });
    attach(union, &target);
    assert_eq!(std::fs::read(target.join("file")).expect("read"), b"top");
    assert!(target.join("dir").is_dir());
    let error = std::fs::write(target.join("new"), "x").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let table = MountTable::read().expect("the mount table");
    let options = &table.on(&target).expect("mounted").options;
    assert!(
        options.contains("nosuid") && options.contains("nodev"),
        "{options}"
    );
    unmount(&target);
}

#[test]
fn names_with_colons_commas_and_backslashes_work() {
    let sandbox = overlay_sandbox!();
    let odd = sandbox.dir("a:b,c\\d \"e\"");
    std::fs::write(odd.join("file"), "odd").expect("write");
    let target = sandbox.dir("target");
    let upper = sandbox.path().join("u:p,p\\er");
    let _dirs = attach(build(spec(&[&odd], on_disk(&upper))), &target);
    std::fs::write(target.join("new"), "x").expect("write");
    assert_eq!(std::fs::read(target.join("file")).expect("read"), b"odd");
    assert!(upper.join("upper/new").is_file());
}

#[test]
fn an_upper_in_use_is_refused() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let upper = sandbox.path().join("upper");
    let in_use = |result: Result<Union, UnionError>| {
        let error = result.expect_err("in use");
        assert!(
            matches!(error, UnionError::Upper(UpperError::InUse(_))),
            "{error}"
        );
    };
    let dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    in_use(build(spec(&[&lower], on_disk(&upper)))); // by the lock
    drop(dirs);
    in_use(build(spec(&[&lower], on_disk(&upper)))); // by the mount table
    unmount(&target);
    build(spec(&[&lower], on_disk(&upper))).expect("free again");
}

#[test]
fn an_upper_inside_that_of_a_live_union_or_around_it_is_refused_and_leaves_nothing() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let home = sandbox.dir("home");
    let upper = home.join("upper");
    let nested = |at: &Path| {
        let error = build(spec(&[&lower], on_disk(at))).expect_err("nested");
        let UnionError::Upper(UpperError::Nested { path, other }) = &error else {
            panic!("{error}");
        };
        assert_eq!((path.as_path(), other.as_path()), (at, upper.as_path()));
    };
    let dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    for inside in ["upper/upper/new", "upper/upper", "upper/beside"] {
        nested(&home.join(inside));
    }
    nested(&home);
    assert!(!target.join("new").exists() && !upper.join("beside").exists());
    assert_eq!(std::fs::read_dir(&home).expect("list").count(), 1);
    build(spec(&[&lower], on_disk(&sandbox.path().join("other")))).expect("apart");
    drop(dirs);
    unmount(&target);
    build(spec(&[&lower], on_disk(&upper.join("beside")))).expect("nobody uses it");
}

#[test]
fn uppers_that_cannot_work_are_refused_by_name() {
    let sandbox = overlay_sandbox!();
    let lower = lower(&sandbox);
    let refused =
        |lowers: &[&Path], upper: &Path| build(spec(lowers, on_disk(upper))).expect_err("refused");

    let inside = lower.join("dir/upper");
    let error = refused(&[&lower], &inside);
    assert!(
        matches!(error, UnionError::Upper(UpperError::Overlap(_))),
        "{error}"
    );
    let error = refused(&[&lower.join("dir")], &lower);
    assert!(
        matches!(error, UnionError::Upper(UpperError::Overlap(_))),
        "{error}"
    );

    let upper = sandbox.dir("links");
    std::os::unix::fs::symlink(sandbox.dir("elsewhere"), upper.join("upper")).expect("symlink");
    let error = refused(&[&lower], &upper);
    assert!(
        matches!(error, UnionError::Upper(UpperError::Io { .. })),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(sandbox.path().join("elsewhere"))
            .expect("list")
            .count(),
        0
    );

    let link = sandbox.path().join("link");
    std::os::unix::fs::symlink(sandbox.dir("real"), &link).expect("symlink");
    let error = refused(&[&lower], &link);
    assert!(
        matches!(error, UnionError::Upper(UpperError::Io { .. })),
        "{error}"
    );
    let error = refused(&[&link], &sandbox.path().join("fresh"));
    assert!(matches!(error, UnionError::Lower { .. }), "{error}");

    let split = sandbox.dir("split");
    std::fs::create_dir(split.join("work")).expect("mkdir");
    rustix::mount::mount(
        "tmpfs",
        split.join("work"),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        None,
    )
    .expect("tmpfs");
    let error = refused(&[&lower], &split);
    assert!(
        matches!(
            error,
            UnionError::Upper(UpperError::DifferentFileSystems(_))
        ),
        "{error}"
    );
    unmount(&split.join("work"));

    let file = sandbox.path().join("file");
    std::fs::write(&file, "").expect("write");
    let error = refused(&[&lower], &file);
    assert!(
        matches!(error, UnionError::Upper(UpperError::Io { .. })),
        "{error}"
    );
    assert!(matches!(
        refused(&[], &sandbox.path().join("fresh")),
        UnionError::Spec(_)
    ));
    let error = build(spec(&[&lower], None)).expect_err("one lower alone");
    assert!(matches!(error, UnionError::Spec(_)), "{error}");
}

#[test]
fn a_stale_work_directory_is_no_obstacle() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let upper = sandbox.dir("upper");
    std::fs::create_dir_all(upper.join("work/work/left")).expect("mkdir");
    std::fs::write(upper.join("work/work/left/over"), "x").expect("write");
    let _dirs = attach(build(spec(&[&lower], on_disk(&upper))), &target);
    std::fs::write(target.join("file"), "above").expect("copy up through the work directory");
    unmount(&target);
}

#[test]
fn a_volatile_upper_is_trusted_in_the_same_boot_only() {
    let sandbox = overlay_sandbox!();
    if !features().overlay_volatile.found {
        skip!("no volatile: {:?}", features().overlay_volatile.error);
    }
    let (lower, target) = (lower(&sandbox), sandbox.dir("target"));
    let upper = sandbox.path().join("upper");
    let volatile = || {
        let options = UnionOptions {
            volatile: true,
            ..UnionOptions::default()
        };
        build(UnionSpec {
            options,
            ..spec(&[&lower], on_disk(&upper))
        })
    };
    drop(attach(volatile(), &target));
    std::fs::write(target.join("new"), "x").expect("write");
    unmount(&target);
    let marker = upper.join("work/work/incompat/volatile");
    assert!(marker.is_dir(), "the kernel leaves its marker");

    // The same boot: nothing was lost.
    drop(attach(volatile(), &target));
    assert!(target.join("new").is_file());
    unmount(&target);

    // Another boot: nothing can be said.
    let boot = std::fs::read(upper.join("boot")).expect("the note");
    std::fs::write(upper.join("boot"), "00000000-another-boot\n").expect("write");
    let error = volatile().expect_err("unsynced");
    assert!(
        matches!(error, UnionError::Upper(UpperError::Unsynced(_))),
        "{error}"
    );

    // Sealed in its boot, it is as good as any.
    std::fs::write(upper.join("boot"), boot).expect("write");
    seal_upper(&upper).expect("sealed");
    assert!(!marker.exists());
    std::fs::write(upper.join("boot"), "00000000-another-boot\n").expect("write");
    drop(attach(volatile(), &target));
    unmount(&target);
}

#[test]
fn a_refusal_carries_the_kernels_words() {
    let sandbox = overlay_sandbox!();
    let (lower, target) = (lower(&sandbox), sandbox.path().join("no/such/target"));
    let union = build(spec(&[&lower], on_disk(&sandbox.path().join("upper")))).expect("a union");
    let error = union.attach(&target).expect_err("no target");
    assert!(matches!(&error, UnionError::Mount(_)), "{error}");

    // proc can be no upper; what the kernel says depends on its version.
    let error = build(spec(&[&lower], on_disk(Path::new("/proc")))).expect_err("no upper");
    assert!(matches!(&error, UnionError::Upper(_)), "{error}");
}

#[test]
fn a_detached_union_that_is_dropped_leaves_nothing() {
    let sandbox = overlay_sandbox!();
    let lower = lower(&sandbox);
    let before = MountTable::read().expect("the mount table").entries().len();
    let union = build(spec(&[&lower], on_disk(&sandbox.path().join("upper")))).expect("a union");
    // It works before it is anywhere.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(&union, "new", flags, Mode::from_raw_mode(0o600)).expect("create");
    drop(union);
    assert_eq!(
        MountTable::read().expect("the mount table").entries().len(),
        before
    );
    assert!(sandbox.path().join("upper/upper/new").is_file());
}
