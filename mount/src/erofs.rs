//! Mounting a flist as EROFS with its blobs as devices.
//!
//! The kernel opens the flist and every device by path while the superblock is
//! made; we hand it `/proc/self/fd/N` of descriptors we opened and checked, so
//! no link can be swapped in between, and paths longer than the 255 bytes
//! fsconfig takes work. What it cannot check is that device `i` is blob `i` of
//! the table: a wrong order mounts and reads wrong data. The caller passes the
//! devices in table order.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::MountAttrFlags;

use crate::fscontext::{DetachedMount, FsContext, FsError};

/// fsconfig copies at most 256 bytes of a value, NUL included.
const FSCONFIG_VALUE_MAX: usize = 255;

/// How an EROFS mount reads its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErofsOptions {
    /// Read devices with `O_DIRECT`: pages are not cached twice (once for the
    /// device, once for the file), better for random reads and many readers;
    /// worse for one cold sequential reader.
    pub directio: bool,
    /// Leave out `nodev,nosuid`.
    pub trusted: bool,
}

impl Default for ErofsOptions {
    fn default() -> Self {
        Self {
            directio: true,
            trusted: false,
        }
    }
}

/// Why the mount could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The flist or a device cannot be opened, or is no regular file.
    #[error("open {path} for an EROFS mount")]
    Open {
        /// The file.
        path: PathBuf,
        /// What open said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("mount EROFS {flist}")]
    Mount {
        /// The image.
        flist: PathBuf,
        /// Which step, and what the kernel said.
        #[source]
        source: FsError,
    },
}

/// Mounts the EROFS image `flist` with `devices` in table order; the result is
/// attached nowhere yet. A device may be a file of the blob file system (filled
/// on demand) or, for a complete blob, its data file in the cache.
///
/// Blocks while a device's server is away: never call it on a thread that
/// serves one of the devices.
///
/// # Errors
/// See [`ErofsError`]. ENOTBLK from the kernel means that it cannot mount EROFS
/// from a file (before Linux 6.12).
pub fn mount_erofs(
    flist: &Path,
    devices: &[PathBuf],
    options: ErofsOptions,
) -> Result<DetachedMount, ErofsError> {
    let image = open_regular(flist)?;
    let opened = devices
        .iter()
        .map(|path| open_regular(path))
        .collect::<Result<Vec<_>, _>>()?;
    build(flist, &image, &opened, options).map_err(|source| ErofsError::Mount {
        flist: flist.to_owned(),
        source,
    })
}

fn build(
    flist: &Path,
    image: &File,
    devices: &[File],
    options: ErofsOptions,
) -> Result<DetachedMount, FsError> {
    let context = FsContext::open("erofs")?;
    // The source is what people see in mount tables: the path if it fits.
    if flist.as_os_str().len() <= FSCONFIG_VALUE_MAX && flist.is_absolute() {
        context.string("source", flist)?;
    } else {
        context.string("source", fd_path(image))?;
    }
    for device in devices {
        context.string("device", fd_path(device))?;
    }
    if options.directio {
        context.flag("directio")?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if !options.trusted {
        attributes |= MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    }
    context.mount(attributes)
}

/// Opens for reading; a FIFO, device or directory is refused.
fn open_regular(path: &Path) -> Result<File, ErofsError> {
    let failed = |source| ErofsError::Open {
        path: path.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        Ok(file)
    } else {
        Err(failed(io::Error::other("not a regular file")))
    }
}

fn fd_path(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
