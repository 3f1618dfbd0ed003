//! Uppers that were written without syncing.
//!
//! A volatile union never syncs. The kernel leaves a marker in `work` and
//! refuses the next mount, since after a crash the upper may hold anything.
//! When the machine was not restarted since, the page cache still holds every
//! write and the marker is only in the way: it is removed. After a restart the
//! upper is refused.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::upper::{DIRECTORY, UpperError, io_error};

/// Where the kernel notes that an upper was used without syncing.
const MARKER: &str = "work/incompat/volatile";
const DIRTY: &str = "work/incompat/volatile/dirty";
/// Where we note in which boot that was.
const BOOT: &str = "boot";

pub(super) struct VolatileState<'a> {
    pub(super) path: &'a Path,
    pub(super) base: BorrowedFd<'a>,
    pub(super) work: BorrowedFd<'a>,
}

impl VolatileState<'_> {
    pub(super) fn clear_marker(&self) -> Result<(), UpperError> {
        match rustix::fs::statat(self.work, MARKER, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(errno) => {
                return Err(io_error("inspecting the work directory of", self.path)(
                    errno,
                ));
            }
            Ok(_) => {}
        }
        if self.recorded_boot()?.as_deref() != Some(&boot_id(self.path)?) {
            return Err(UpperError::Unsynced(self.path.to_owned()));
        }
        remove_marker(self.path, self.work)
    }

    fn recorded_boot(&self) -> Result<Option<Vec<u8>>, UpperError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(self.base, BOOT, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(io_error("opening the boot note of", self.path)(errno)),
        };
        let mut buffer = [0_u8; 64];
        let len = rustix::io::read(&fd, &mut buffer)
            .map_err(io_error("reading the boot note of", self.path))?;
        Ok(Some(buffer[..len].to_vec()))
    }

    pub(super) fn remember_boot(&self) -> Result<(), UpperError> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK;
        let error = |errno| io_error("writing the boot note of", self.path)(errno);
        let fd =
            rustix::fs::openat(self.base, BOOT, flags, Mode::RUSR | Mode::WUSR).map_err(error)?;
        rustix::io::write(&fd, &boot_id(self.path)?).map_err(error)?;
        Ok(())
    }
}

fn boot_id(path: &Path) -> Result<Vec<u8>, UpperError> {
    std::fs::read("/proc/sys/kernel/random/boot_id").map_err(|source| UpperError::Io {
        what: "reading the boot id for",
        path: path.to_owned(),
        source,
    })
}

fn remove_marker(path: &Path, work: BorrowedFd<'_>) -> Result<(), UpperError> {
    // The kernel puts a file into the directory that is the marker.
    for (name, flags) in [(DIRTY, AtFlags::empty()), (MARKER, AtFlags::REMOVEDIR)] {
        match rustix::fs::unlinkat(work, name, flags) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(io_error("clearing the work directory of", path)(errno)),
        }
    }
    Ok(())
}

/// Makes a volatile UPPER durable after its union is gone: syncs its file
/// system, then removes the kernel's marker.
///
/// # Errors
/// When UPPER cannot be opened or synced.
pub fn seal_upper(path: &Path) -> Result<(), UpperError> {
    let base =
        rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(io_error("opening", path))?;
    let work = rustix::fs::openat(&base, "work", DIRECTORY, Mode::empty())
        .map_err(io_error("opening the work directory of", path))?;
    rustix::fs::syncfs(&base).map_err(io_error("syncing", path))?;
    remove_marker(path, work.as_fd())
}
