//! Loop devices: a file as a block device, for kernels whose EROFS mounts
//! block devices only, and for bounded uppers on disk.
//!
//! Every device clears itself when its last user is gone: the
//! mount that uses it, or this process if it dies before mounting. So nothing
//! leaks, whatever crashes, and a device is held here only between binding and
//! mounting.

pub mod erofs;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::sys::loopdev as sys;

/// Another process may take the device we were told is free; under 64 mounters
/// at once a few rounds are enough, so this many mean something else is wrong.
const RACES_MAX: u32 = 256;
/// How long the node of a new device may take to appear in `/dev`.
const NODE_DEADLINE: Duration = Duration::from_secs(5);
/// What EROFS reads in; the device then takes direct I/O from any disk.
const BLOCK_BYTES: u32 = 4096;

/// A loop device could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoopError {
    /// No loop driver, or no right to use it.
    #[error("opening /dev/loop-control")]
    Control(#[source] io::Error),
    /// The driver has no device to give.
    #[error("asking for a free loop device")]
    NoneFree(#[source] io::Error),
    /// The device's node cannot be opened.
    #[error("opening {}", path.display())]
    Node {
        /// The node.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The driver refused the file.
    #[error("binding {}", path.display())]
    Bind {
        /// The node.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others were faster every time.
    #[error("every free loop device was taken by others, {RACES_MAX} times in a row")]
    Races,
    /// The device is bound to another file than the one given.
    #[error("{} is bound to another file", .0.display())]
    WrongFile(PathBuf),
}

/// How a device reads its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopIo {
    /// Past the file's page cache where the file allows it: EROFS caches what
    /// it reads, so caching the file too would hold every byte twice.
    DirectIfPossible,
    /// Through the file's page cache.
    Buffered,
}

/// What a device is made for.
#[derive(Debug, Clone, Copy)]
struct Purpose {
    /// What `losetup` shows as its file; the file itself is given by descriptor.
    label: &'static str,
    is_writable: bool,
    io: LoopIo,
}

/// Label of devices that are read.
const LABEL: &str = "lamina";

/// A bound, self-clearing loop device.
#[derive(Debug)]
pub struct LoopDevice {
    fd: OwnedFd,
    path: PathBuf,
    direct: bool,
}

impl LoopDevice {
    /// Binds a free device to `file`, to be read.
    ///
    /// # Errors
    /// [`LoopError`].
    pub fn attach(file: BorrowedFd<'_>, io: LoopIo) -> Result<Self, LoopError> {
        let purpose = Purpose {
            label: LABEL,
            is_writable: false,
            io,
        };
        Self::bound(file, purpose)
    }

    /// Binds a free device to `file`, to be read and written past the file's page cache where it allows
    /// that; `label`, of at most 63 bytes, tells it from others (see [`has_label`]).
    ///
    /// # Errors
    /// [`LoopError`].
    pub fn attach_writable(file: BorrowedFd<'_>, label: &'static str) -> Result<Self, LoopError> {
        let purpose = Purpose {
            label,
            is_writable: true,
            io: LoopIo::DirectIfPossible,
        };
        Self::bound(file, purpose)
    }

    fn bound(file: BorrowedFd<'_>, purpose: Purpose) -> Result<Self, LoopError> {
        let control = rustix::fs::open(
            "/dev/loop-control",
            OFlags::RDWR | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| LoopError::Control(errno.into()))?;
        for _ in 0..RACES_MAX {
            let number = sys::get_free(&control).map_err(LoopError::NoneFree)?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let fd = open_node(&path, purpose)?;
            if let Some(direct) = bind(&fd, &path, file, purpose)? {
                return Self { fd, path, direct }.checked(file, purpose);
            }
        }
        Err(LoopError::Races)
    }

    /// The device node, for `mount`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether reads go past the file's page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Unbinds now, or, when a mount uses the device, as soon as it is gone.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn detach(self) -> io::Result<()> {
        sys::clear(&self.fd)
    }

    /// Makes sure that it is our file that was bound.
    fn checked(self, file: BorrowedFd<'_>, purpose: Purpose) -> Result<Self, LoopError> {
        let bind_error = |source| LoopError::Bind {
            path: self.path.clone(),
            source,
        };
        let info = sys::status(&self.fd).map_err(bind_error)?;
        let stat = rustix::fs::fstat(file).map_err(|errno| bind_error(errno.into()))?;
        let is_writable = info.flags & sys::LO_FLAGS_READ_ONLY == 0;
        if info.inode != stat.st_ino || is_writable != purpose.is_writable {
            return Err(LoopError::WrongFile(self.path));
        }
        Ok(self)
    }
}

impl AsFd for LoopDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether the loop device at `path` is bound to a file.
///
/// # Errors
/// When it cannot be opened or asked.
pub fn is_bound(path: &Path) -> io::Result<bool> {
    match sys::status(&opened(path)?) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Only what is a loop device.
fn opened(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if rustix::fs::major(file.metadata()?.rdev()) != LOOP_MAJOR {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is no loop device", path.display()),
        ));
    }
    Ok(file)
}

/// Whether the loop device at `path` was made with this label; no device has none.
pub fn has_label(path: &Path, label: &str) -> bool {
    let info = opened(path).and_then(|file| sys::status(&file));
    info.is_ok_and(|info| {
        let name = info.file_name.split(|byte| *byte == 0).next();
        name == Some(label.as_bytes())
    })
}

/// Major number of loop devices (`linux/major.h`).
const LOOP_MAJOR: u32 = 7;

/// The kernel announces a new device and devtmpfs or udev makes its node a
/// little later.
fn open_node(path: &Path, purpose: Purpose) -> Result<OwnedFd, LoopError> {
    let access = match purpose.is_writable {
        true => OFlags::RDWR,
        false => OFlags::RDONLY,
    };
    let give_up = Instant::now() + NODE_DEADLINE;
    loop {
        match rustix::fs::open(path, access | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => return Ok(fd),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NXIO) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(errno) => {
                return Err(LoopError::Node {
                    path: path.to_owned(),
                    source: errno.into(),
                });
            }
        }
    }
}

/// `Some(direct)` when bound, `None` when another process was faster.
fn bind(
    device: &OwnedFd,
    path: &Path,
    file: BorrowedFd<'_>,
    purpose: Purpose,
) -> Result<Option<bool>, LoopError> {
    let direct_first: &[bool] = match purpose.io {
        LoopIo::DirectIfPossible => &[true, false],
        LoopIo::Buffered => &[false],
    };
    for &direct in direct_first {
        match sys::configure(device, &config(file, purpose, direct)) {
            Ok(()) => return Ok(Some(direct && runs_direct(device))),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(None),
            Err(error) if direct && error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(source) => {
                return Err(LoopError::Bind {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
    unreachable!("the last attempt is buffered and returns")
}

/// The driver drops direct I/O silently where the file cannot do it.
fn runs_direct(device: &OwnedFd) -> bool {
    sys::status(device).is_ok_and(|info| info.flags & sys::LO_FLAGS_DIRECT_IO != 0)
}

fn config(file: BorrowedFd<'_>, purpose: Purpose, direct: bool) -> sys::LoopConfig {
    let mut info = sys::LoopInfo::zeroed();
    info.flags = sys::LO_FLAGS_AUTOCLEAR;
    if !purpose.is_writable {
        info.flags |= sys::LO_FLAGS_READ_ONLY;
    }
    if direct {
        info.flags |= sys::LO_FLAGS_DIRECT_IO;
    }
    let label = purpose.label.as_bytes();
    info.file_name[..label.len()].copy_from_slice(label);
    sys::LoopConfig {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: BLOCK_BYTES,
        info,
        reserved: [0; 8],
    }
}
