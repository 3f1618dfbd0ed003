//! The spawner's own file system: all that a sandbox can be shown of the host.
//!
//! ```text
//!   /        tmpfs, read-only
//!   ├─ dev/      null zero full random urandom tty, links, mount points pts shm
//!   ├─ proc/     procfs of the host's processes: to write id maps by; a sandbox may mount its own only where one
//!   │            that hides nothing is in sight (mount_too_revealing() in the kernel)
//!   ├─ sys/      cpu and node of the host's /sys/devices/system
//!   ├─ empty/    lies over directories of /proc
//!   ├─ ahead/    where an init makes its /proc and /dev
//!   └─ root/     where an init puts its root before it makes it `/`
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, symlinkat};
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::{Failed, Step};
use crate::mounts::{self, attach};
use crate::sys;

/// Devices every program expects: name, major, minor (`admin-guide/devices.txt`).
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// What programs ask for to know how many processors and memory nodes there are.
const SYSTEM: [&str; 2] = ["sys/devices/system/cpu", "sys/devices/system/node"];

/// Leaves the host's file system for one that is made here.
pub(super) fn enter() -> Result<(), Failed> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).step("leave the mount namespace")?;
    sys::mount::make_private().step("cut off the mount namespace")?;
    let host = rustix::fs::open("/", DIRECTORY, Mode::empty()).step("open /")?;
    let stage = mounts::new("tmpfs", &[("mode", "0755"), ("size", "1m")])?;
    // Any directory will do until it is the root.
    attach(stage.as_fd(), CWD, "/proc").step("attach the spawner's root")?;
    let proc = mounts::new("proc", &[])?;
    make_directories(stage.as_fd())?;
    make_devices(stage.as_fd())?;
    attach(proc.as_fd(), &stage, "proc").step("mount /proc")?;
    for path in SYSTEM {
        show(host.as_fd(), stage.as_fd(), path)?;
    }
    rustix::process::fchdir(&stage).step("enter the spawner's root")?;
    rustix::process::pivot_root(".", ".").step("leave the host's root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).step("let go of the host's root")?;
    rustix::process::chdir("/").step("enter the spawner's root")?;
    let read_only = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    sys::mount::set_attributes(stage.as_fd(), read_only).step("protect the spawner's root")
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn make_directories(stage: BorrowedFd<'_>) -> Result<(), Failed> {
    let plain = ["dev", "dev/pts", "dev/shm", "proc", "empty", "root", "sys"];
    let above = [
        "sys/devices",
        "sys/devices/system",
        "ahead",
        "ahead/proc",
        "ahead/dev",
    ];
    for path in plain.into_iter().chain(above).chain(SYSTEM) {
        mkdirat(stage, path, Mode::from_raw_mode(0o755)).step("make the spawner's directories")?;
    }
    Ok(())
}

fn make_devices(stage: BorrowedFd<'_>) -> Result<(), Failed> {
    let all = Mode::from_raw_mode(0o666);
    for (name, major, minor) in DEVICES {
        let path = format!("dev/{name}");
        mknodat(
            stage,
            &path,
            FileType::CharacterDevice,
            all,
            makedev(major, minor),
        )
        .step("make devices")?;
        // The process's umask took some.
        rustix::fs::chmodat(stage, &path, all, rustix::fs::AtFlags::empty())
            .step("make devices")?;
    }
    for (name, target) in LINKS {
        symlinkat(target, stage, format!("dev/{name}")).step("make links of /dev")?;
    }
    Ok(())
}

/// A part of the host's file system, unless it has none.
fn show(host: BorrowedFd<'_>, stage: BorrowedFd<'_>, path: &str) -> Result<(), Failed> {
    let part: Option<OwnedFd> = match mounts::clone(host, path) {
        Ok(part) => Some(part),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => None,
        Err(errno) => return Err(errno).step("show a part of /sys"),
    };
    let Some(part) = part else { return Ok(()) };
    sys::mount::set_attributes(
        part.as_fd(),
        mounts::INERT | MountAttrFlags::MOUNT_ATTR_RDONLY,
    )
    .step("protect a part of /sys")?;
    attach(part.as_fd(), stage, path).step("show a part of /sys")
}
