//! FUSE connections by the kernel's control file system, `fusectl`.
//!
//! A connection is named by the device number of its mount. The control file
//! system is used through a detached mount of its own, so it need not be
//! mounted on `/sys/fs/fuse/connections` (in containers it seldom is).

use std::fmt;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::mountinfo::MountEntry;
use crate::fscontext::{DetachedMount, FsContext};

/// One FUSE connection of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(u32);

impl ConnectionId {
    /// By the minor of the mount's (anonymous) device number.
    pub fn by_minor(minor: u32) -> Self {
        Self(minor)
    }

    /// Of a FUSE mount.
    pub fn of(entry: &MountEntry) -> Self {
        Self(entry.device.1)
    }

    /// Ends the connection: every waiting and every later request fails. Final.
    ///
    /// # Errors
    /// `ENOENT` when there is no such connection (any more); what `fsopen`
    /// answers when the control file system cannot be reached.
    pub fn abort(self) -> io::Result<()> {
        let control = control()?;
        let path = format!("{}/abort", self.0);
        let file = rustix::fs::openat(
            control.as_fd(),
            path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        rustix::io::write(&file, b"1")?;
        Ok(())
    }

    /// Requests the daemon has not answered yet.
    ///
    /// # Errors
    /// As [`abort`](Self::abort).
    pub fn waiting(self) -> io::Result<u64> {
        let control = control()?;
        let path = format!("{}/waiting", self.0);
        let file = rustix::fs::openat(
            control.as_fd(),
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buffer = [0_u8; 32];
        let len = rustix::io::read(&file, &mut buffer)?;
        std::str::from_utf8(&buffer[..len])
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| io::Error::other("fusectl: waiting is not a number"))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FUSE connection {}", self.0)
    }
}

fn control() -> io::Result<DetachedMount> {
    let mount = || FsContext::open("fusectl")?.mount(MountAttrFlags::empty());
    mount().map_err(|error| error.source)
}
