//! UPPER: where a union's changes live.
//!
//! ```text
//!   UPPER/           0700 when made by us; locked while a union is alive
//!     upper/         becomes the union's root: same owner, mode, xattrs as
//!                    the lower's root, or `/` of a container would change
//!     work/    0700  the kernel's; emptied by the kernel at each mount
//!     boot           only with `volatile`: the boot id the writes belong to
//! ```
//!
//! What always holds: `upper` and `work` are real directories (no symbolic
//! link, whatever a previous writer left there) on one file system, UPPER is
//! in no lower and no lower in UPPER, and no second union in reach uses it, what
//! is in it, or what it is in (see `apart.rs`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::mount::MountAttrFlags;

use super::apart::{check_apart, check_not_mounted, check_not_nested};
use super::disk::{self, DiskError};
use super::volatile::VolatileState;
use crate::fscontext::{FsContext, FsError};
use crate::unmount::mountinfo::MountEntry;

/// Where changes go.
#[derive(Debug, Clone)]
pub enum Upper {
    /// On disk, made if missing, used again if there.
    Directory(PathBuf),
    /// In memory: a tmpfs of at most `bytes_max` is mounted on `at` first.
    /// It stays until `at` is unmounted, so that the changes can be read.
    Tmpfs {
        /// An existing directory.
        at: PathBuf,
        /// Limit; writes beyond it fail with `ENOSPC`.
        bytes_max: u64,
    },
    /// On disk, in a file system of its own that holds `bytes_max` and is
    /// mounted on `at` first; its room is taken on the disk of `at`'s parent
    /// at once. It stays until `at` is unmounted and the union is gone, too.
    Disk {
        /// An existing directory.
        at: PathBuf,
        /// Limit; writes beyond it fail with `ENOSPC`.
        bytes_max: u64,
    },
}

/// UPPER cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpperError {
    /// A system call on it failed.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// `upper` and `work` are on different file systems.
    #[error("{} and its upper and work directories must be on one file system", .0.display())]
    DifferentFileSystems(PathBuf),
    /// UPPER and a lower directory contain one another.
    #[error("{} and a lower directory are inside one another; choose another place for the changes", .0.display())]
    Overlap(PathBuf),
    /// UPPER and that of a union in use contain one another.
    #[error(
        "{} and {}, where another union keeps its changes, are inside one another; choose another place for the changes",
        path.display(), other.display()
    )]
    Nested {
        /// UPPER.
        path: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// Another union uses it.
    #[error("{} is in use by another union", .0.display())]
    InUse(PathBuf),
    /// A volatile union used it before the machine restarted.
    #[error("{} was written without syncing and the machine restarted since: its contents cannot be trusted; remove it", .0.display())]
    Unsynced(PathBuf),
    /// The tmpfs cannot be made.
    #[error("making the tmpfs for the changes")]
    Tmpfs(#[source] FsError),
    /// The file system on disk cannot be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

pub(super) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(rustix::io::Errno) -> UpperError + 'a {
    move |errno| UpperError::Io {
        what,
        path: path.to_owned(),
        source: errno.into(),
    }
}

/// UPPER, opened, checked and locked for as long as this lives.
#[derive(Debug)]
pub struct UpperDirs {
    path: PathBuf,
    /// Has the lock.
    _base: OwnedFd,
    upper: OwnedFd,
    work: OwnedFd,
}

impl UpperDirs {
    /// UPPER itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory holding the changes.
    pub fn upper_fd(&self) -> BorrowedFd<'_> {
        self.upper.as_fd()
    }

    pub(super) fn work_fd(&self) -> BorrowedFd<'_> {
        self.work.as_fd()
    }

    /// Keeps others out of the UPPER of a union that lives while its maker
    /// does not: the lock ended with the process that took it.
    ///
    /// # Errors
    /// [`UpperError::InUse`] when somebody else has it; when it is not where
    /// it was.
    pub fn hold(path: &Path) -> Result<Self, UpperError> {
        let base =
            rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(io_error("opening", path))?;
        lock(path, &base)?;
        let open = |name: &str| {
            rustix::fs::openat(&base, name, DIRECTORY, Mode::empty())
                .map_err(io_error("opening", &path.join(name)))
        };
        Ok(Self {
            path: path.to_owned(),
            upper: open("upper")?,
            work: open("work")?,
            _base: base,
        })
    }

    /// In an empty file system that nobody else can see. `path` is what errors call it.
    pub(super) fn in_new(
        path: &Path,
        base: OwnedFd,
        lower: BorrowedFd<'_>,
    ) -> Result<Self, UpperError> {
        let upper = open_child(path, &base, "upper")?;
        let work = open_child(path, &base, "work")?;
        copy_root_metadata(path, lower, &upper, false)?;
        Ok(Self {
            path: path.to_owned(),
            _base: base,
            upper,
            work,
        })
    }

    pub(super) fn prepare(
        upper: Upper,
        lowers: &[BorrowedFd<'_>],
        volatile: bool,
        userxattr: bool,
    ) -> Result<Self, UpperError> {
        let path = match upper {
            Upper::Directory(path) => path,
            Upper::Tmpfs { at, bytes_max } => {
                mount_tmpfs(&at, bytes_max)?;
                at
            }
            Upper::Disk { at, bytes_max } => {
                disk::mount(&at, bytes_max)?;
                at
            }
        };
        // Before anything is made: the other union would show it.
        check_not_nested(&path)?;
        let base = open_base(&path)?;
        lock(&path, &base)?;
        check_apart(&path, &base, lowers)?;
        let work = open_child(&path, &base, "work")?;
        let known = open_known(&path, &base, "upper")?;
        if let Some(upper) = &known {
            check_not_mounted(&path, upper)?;
        }
        let upper = match known {
            Some(upper) => upper,
            None => fresh_upper(&path, &base, |upper| {
                check_one_file_system(&path, [&base, upper, &work])?;
                copy_root_metadata(&path, lowers[0], upper, userxattr)
            })?,
        };
        check_one_file_system(&path, [&base, &upper, &work])?;
        let volatile_state = VolatileState {
            path: &path,
            base: base.as_fd(),
            work: work.as_fd(),
        };
        volatile_state.clear_marker()?;
        if volatile {
            volatile_state.remember_boot()?;
        }
        Ok(Self {
            path,
            _base: base,
            upper,
            work,
        })
    }
}

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

fn open_base(path: &Path) -> Result<OwnedFd, UpperError> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(io_error("making", path)(errno)),
    }
    rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(io_error("opening", path))
}

fn open_child(path: &Path, base: &OwnedFd, name: &str) -> Result<OwnedFd, UpperError> {
    let full = path.join(name);
    match rustix::fs::mkdirat(base, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(errno) => return Err(io_error("making", &full)(errno)),
    }
    rustix::fs::openat(base, name, DIRECTORY, Mode::empty()).map_err(io_error("opening", &full))
}

fn open_known(path: &Path, base: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, UpperError> {
    match rustix::fs::openat(base, name, DIRECTORY, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(errno) => Err(io_error("opening", &path.join(name))(errno)),
    }
}

/// The directory for changes, there only once it is as it must be: one that is half done would be taken for used.
fn fresh_upper(
    path: &Path,
    base: &OwnedFd,
    finish: impl FnOnce(&OwnedFd) -> Result<(), UpperError>,
) -> Result<OwnedFd, UpperError> {
    const UNFINISHED: &str = "upper.new";
    let full = path.join(UNFINISHED);
    match rustix::fs::unlinkat(base, UNFINISHED, AtFlags::REMOVEDIR) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(io_error("removing", &full)(errno)),
    }
    let upper = open_child(path, base, UNFINISHED)?;
    finish(&upper)?;
    rustix::fs::renameat(base, UNFINISHED, base, "upper").map_err(io_error("naming", &full))?;
    Ok(upper)
}

fn lock(path: &Path, base: &OwnedFd) -> Result<(), UpperError> {
    match rustix::fs::flock(base, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(UpperError::InUse(path.to_owned())),
        Err(errno) => Err(io_error("locking", path)(errno)),
    }
}

fn check_one_file_system(path: &Path, fds: [&OwnedFd; 3]) -> Result<(), UpperError> {
    let mut devices = Vec::with_capacity(fds.len());
    for fd in fds {
        devices.push(
            rustix::fs::fstat(fd)
                .map_err(io_error("inspecting", path))?
                .st_dev,
        );
    }
    if devices.iter().all(|device| *device == devices[0]) {
        Ok(())
    } else {
        Err(UpperError::DifferentFileSystems(path.to_owned()))
    }
}

/// A fresh upper's root replaces the lower's in the union, so it must look
/// the same.
fn copy_root_metadata(
    path: &Path,
    lower: BorrowedFd<'_>,
    upper: &OwnedFd,
    userxattr: bool,
) -> Result<(), UpperError> {
    let context = "copying the root's metadata to";
    // The lower may be an O_PATH descriptor: open it for reading.
    let lower = rustix::fs::openat(lower, ".", DIRECTORY, Mode::empty())
        .map_err(io_error(context, path))?;
    let stat = rustix::fs::fstat(&lower).map_err(io_error(context, path))?;
    rustix::fs::fchown(
        upper,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
    .map_err(io_error(context, path))?;
    rustix::fs::fchmod(upper, Mode::from_raw_mode(stat.st_mode & 0o7777))
        .map_err(io_error(context, path))?;
    copy_xattrs(&lower, upper, userxattr).map_err(io_error(context, path))?;
    let times = rustix::fs::Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec.cast_signed(),
        },
    };
    rustix::fs::futimens(upper, &times).map_err(io_error(context, path))
}

/// Names that mean something to overlayfs itself are its own and are left out.
fn copy_xattrs(from: &OwnedFd, to: &OwnedFd, userxattr: bool) -> rustix::io::Result<()> {
    let own_prefix: &[u8] = if userxattr {
        b"user.overlay."
    } else {
        b"trusted.overlay."
    };
    let mut names = vec![0_u8; 64 * 1024];
    let len = match rustix::fs::flistxattr(from, &mut names) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let mut value = vec![0_u8; 64 * 1024];
    for name in names[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        if name.starts_with(own_prefix) {
            continue;
        }
        let name = std::ffi::OsStr::from_bytes(name);
        let len = rustix::fs::fgetxattr(from, name, &mut value)?;
        match rustix::fs::fsetxattr(to, name, &value[..len], XattrFlags::empty()) {
            // A tmpfs upper may know no `user.` names (before Linux 6.6).
            Ok(()) | Err(rustix::io::Errno::NOTSUP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What the mount table calls the source of an [`Upper::Tmpfs`].
const MEMORY_SOURCE: &str = "lamina-upper";

/// Whether a mount is the file system of an [`Upper::Tmpfs`] or [`Upper::Disk`].
pub fn is_bounded(entry: &MountEntry) -> bool {
    let is_memory = entry.fs_type == "tmpfs" && entry.source == Path::new(MEMORY_SOURCE);
    is_memory || disk::is_disk(entry)
}

fn mount_tmpfs(at: &Path, bytes_max: u64) -> Result<(), UpperError> {
    let build = || {
        let context = FsContext::open("tmpfs")?;
        context.string("source", MEMORY_SOURCE)?;
        context.string("size", bytes_max.to_string())?;
        context.string("mode", "0700")?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        context.mount(attributes)?.attach(at)
    };
    build().map_err(UpperError::Tmpfs)
}
