//! A sandbox's root: the given mount with `/proc`, `/dev` and `/sys` of the sandbox's own on it, and nothing else.
//!
//! The image may be hostile: what lies where a mount is to go is opened without following a link and must be a
//! directory. Everything else happens by descriptors.

use std::fs::Permissions;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, mkdirat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};

use crate::mounts::{self, INERT, attach, attach_to, beneath};
use crate::spawner::{Failed, Step};
use crate::spec::{ShownFile, Spec};
use crate::sys;

/// Of `/proc`: what tells of the host or changes it. They are hidden behind something empty.
const HIDDEN: [&str; 12] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Of `/proc`: what may be read only.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// Memory files at most, as other container tools have it.
const SHM_OPTIONS: [(&str, &str); 2] = [("mode", "1777"), ("size", "64m")];
/// A terminal belongs to group 5, `tty` in every distribution.
const PTS_OPTIONS: [(&str, &str); 3] = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];

/// What goes on every root, made before it is known which one that is: most of the work, for all the mounts it takes.
pub(super) struct Ahead {
    proc: OwnedFd,
    dev: OwnedFd,
    sys: OwnedFd,
}

impl Ahead {
    /// On the spawner's file system for now: before Linux 6.15 nothing can be mounted on what is attached nowhere.
    pub(super) fn make() -> Result<Self, Failed> {
        Ok(Self {
            proc: make_proc()?,
            dev: make_dev()?,
            sys: make_sys()?,
        })
    }

    fn put_on(&self, root: BorrowedFd<'_>) -> Result<(), Failed> {
        for (name, mount) in [("proc", &self.proc), ("dev", &self.dev), ("sys", &self.sys)] {
            let place = place(root, name)?;
            attach_to(mount.as_fd(), place.as_fd()).step(&format!("mount /{name}"))?;
        }
        Ok(())
    }
}

/// Makes `root` this process's `/`.
pub(super) fn enter(root: BorrowedFd<'_>, ahead: &Ahead, spec: &Spec) -> Result<(), Failed> {
    attach(root, CWD, "/root").step("attach the root")?;
    ahead.put_on(root)?;
    show_files(root, &spec.files)?;
    rustix::process::fchdir(root).step("enter the root")?;
    rustix::process::pivot_root(".", ".").step("change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("let go of the spawner's root")?;
    rustix::process::chdir("/").step("enter the root")
}

/// A directory of the image to mount on.
fn place(root: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Failed> {
    let open = || beneath(root, name, OFlags::DIRECTORY);
    let opened = match open() {
        Err(Errno::NOENT) => {
            mkdirat(root, name, Mode::from_raw_mode(0o755))
                .step(&format!("make /{name} in the image"))?;
            open()
        }
        other => other,
    };
    opened.step(&format!(
        "use /{name} of the image, which must be a directory,"
    ))
}

fn make_proc() -> Result<OwnedFd, Failed> {
    let proc = mounts::new_with("proc", &[], INERT)?;
    // Of the network namespace that is ours, while /proc/sys can be written. Without capabilities nobody binds
    // low ports, so none are reserved.
    let _ = rustix::fs::openat(
        &proc,
        "sys/net/ipv4/ip_unprivileged_port_start",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| rustix::io::write(&file, b"0"));
    attach(proc.as_fd(), CWD, "/ahead/proc").step("attach /proc")?;
    for path in READ_ONLY {
        cover(proc.as_fd(), path, |_| mounts::clone(proc.as_fd(), path))?;
    }
    for path in HIDDEN {
        cover(proc.as_fd(), path, |is_directory| match is_directory {
            true => mounts::clone(CWD, "/empty"),
            false => mounts::clone(CWD, "/dev/null"),
        })?;
    }
    Ok(proc)
}

/// Puts something read-only over a part of `/proc`, where this kernel has that part.
fn cover(
    proc: BorrowedFd<'_>,
    path: &str,
    by: impl Fn(bool) -> Result<OwnedFd, Errno>,
) -> Result<(), Failed> {
    let step = || format!("protect /proc/{path}");
    let place = match beneath(proc, path, OFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.step(&step())?,
    };
    let stat = rustix::fs::fstat(&place).step(&step())?;
    let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    let cover = by(is_directory).step(&step())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    sys::mount::set_attributes(cover.as_fd(), attributes).step(&step())?;
    attach_to(cover.as_fd(), place.as_fd()).step(&step())
}

fn make_dev() -> Result<OwnedFd, Failed> {
    let dev = mounts::clone(CWD, "/dev").step("show devices")?;
    attach(dev.as_fd(), CWD, "/ahead/dev").step("attach /dev")?;
    let no_programs = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    // The terminals of a devpts are device files.
    let pts = mounts::new_with("devpts", &PTS_OPTIONS, no_programs)?;
    attach(pts.as_fd(), &dev, "pts").step("mount /dev/pts")?;
    let shm = mounts::new_with("tmpfs", &SHM_OPTIONS, INERT)?;
    attach(shm.as_fd(), &dev, "shm").step("mount /dev/shm")?;
    Ok(dev)
}

/// `/sys` with processors and memory nodes only.
fn make_sys() -> Result<OwnedFd, Failed> {
    let sys = mounts::clone_all("/sys").step("show a part of /sys")?;
    let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    sys::mount::set_attributes(sys.as_fd(), attributes).step("protect /sys")?;
    Ok(sys)
}

/// Files from outside, on what the image has in their place; what it does not have is made empty.
fn show_files(root: BorrowedFd<'_>, files: &[ShownFile]) -> Result<(), Failed> {
    if files.is_empty() {
        return Ok(());
    }
    let home = mounts::new_with("tmpfs", &[("mode", "0755"), ("size", "1m")], INERT)?;
    // Only what is attached can be shown elsewhere, too; it cannot be attached twice.
    attach(home.as_fd(), CWD, "/empty").step("attach files from outside")?;
    for (number, file) in files.iter().enumerate() {
        let step = || format!("show {} in the sandbox", file.path);
        let name = number.to_string();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&home, &name, flags, Mode::from_raw_mode(0o644));
        let mut made = std::fs::File::from(made.step(&step())?);
        made.write_all(&file.content).step(&step())?;
        made.set_permissions(Permissions::from_mode(0o644))
            .step(&step())?;
        let Some(place) = file_place(root, file.path.trim_start_matches('/')).step(&step())? else {
            continue;
        };
        let shown = mounts::clone(home.as_fd(), &name).step(&step())?;
        let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
        sys::mount::set_attributes(shown.as_fd(), attributes).step(&step())?;
        attach_to(shown.as_fd(), place.as_fd()).step(&step())?;
    }
    Ok(())
}

/// What lies there, if it is a file, made if there is nothing. A link is left alone, for the image wants something else
/// in its place.
fn file_place(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>, Errno> {
    let place = match beneath(root, path, OFlags::empty()) {
        Err(Errno::NOENT) => make_file(root, path),
        other => other,
    };
    match place {
        Ok(place) => {
            let stat = rustix::fs::fstat(&place)?;
            let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
            Ok(is_file.then_some(place))
        }
        Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// An empty file in a directory that is there.
fn make_file(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    let (above, name) = path.rsplit_once('/').unwrap_or((".", path));
    let above = beneath(root, above, OFlags::DIRECTORY)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644))?;
    beneath(root, path, OFlags::empty())
}

/// Changes to the directory the command starts in, within what is `/` now.
pub(super) fn go_to(directory: &[u8]) -> Result<(), Failed> {
    let path = Path::new(std::ffi::OsStr::from_bytes(directory));
    let step = || format!("start in {}", path.display());
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(path).step(&step())?;
            rustix::process::chdir(path).step(&step())
        }
        other => other.step(&step()),
    }
}
