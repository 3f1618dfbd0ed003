//! `mount_setattr(2)`, which no crate offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

/// Sets attributes of the one mount whose root is open as `mount`.
pub(crate) fn set_attributes(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: u64::from(attributes.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set(mount, libc::AT_EMPTY_PATH, &change)
}

/// Cuts the mount at `/` and all below it off from what others mount and unmount.
pub(crate) fn make_private() -> io::Result<()> {
    let root = rustix::fs::open(
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let change = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    set(std::os::fd::AsFd::as_fd(&root), flags, &change)
}

fn set(mount: BorrowedFd<'_>, flags: libc::c_int, change: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, `change` is a mount_attr of the size given, and both
    // live until the call returns; it keeps nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(change),
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
