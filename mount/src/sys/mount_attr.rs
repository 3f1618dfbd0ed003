//! `mount_setattr(2)`: attributes of a mount, changed in one step.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::mount::MountAttrFlags;

/// Clears attributes of the mount whose root is open as `mount`.
pub(crate) fn clear(mount: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: 0,
        attr_clr: u64::from(attributes.bits()),
        propagation: 0,
        userns_fd: 0,
    };
    change_one(mount, &change)
}

/// Shows files of a mount that is attached nowhere as owned by what the ids of a user namespace are outside it.
pub(crate) fn map_owners(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(user_namespace.as_raw_fd().cast_unsigned()),
    };
    change_one(mount, &change)
}

fn change_one(mount: BorrowedFd<'_>, change: &libc::mount_attr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, `change` is a mount_attr of the size given, and both
    // live until the call returns; it keeps nothing.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(change),
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
