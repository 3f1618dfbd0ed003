//! `/dev/fuse` calls that no crate offers: cloning a device and putting a live
//! descriptor in the place of another.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `FUSE_DEV_IOC_CLONE` = `_IOR(229, 0, uint32_t)` of `linux/fuse.h`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Opens `/dev/fuse`, not yet tied to any connection.
pub(crate) fn open() -> io::Result<OwnedFd> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    Ok(file.into())
}

/// A further descriptor of the connection behind `device`, with its own queue
/// of taken requests.
pub(crate) fn clone(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fresh = open()?;
    let mut source = u32::try_from(device.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: the ioctl reads one u32 (the source descriptor) through a valid
    // pointer that lives for the call; both descriptors are open.
    let rc = unsafe {
        libc::ioctl(
            fresh.as_raw_fd(),
            FUSE_DEV_IOC_CLONE as _,
            std::ptr::from_mut(&mut source),
        )
    };
    if rc == 0 {
        Ok(fresh)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes the descriptor number behind `target` mean what `source` means; what
/// it meant before is closed.
pub(crate) fn replace(source: BorrowedFd<'_>, target: impl AsFd) -> io::Result<()> {
    let target = target.as_fd();
    // SAFETY: dup3 of two open descriptors; `target` stays open (with a new
    // meaning), so whoever owns it still closes exactly one descriptor.
    let rc = unsafe { libc::dup3(source.as_raw_fd(), target.as_raw_fd(), libc::O_CLOEXEC) };
    if rc >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
