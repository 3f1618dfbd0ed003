//! One kernel mount under construction: `fsopen`, options, `fsmount`.
//!
//! Owns the context descriptor and, when something fails, the kernel's own
//! words about it (the context's message log), which is the difference between
//! "Invalid argument" and "workdir and upperdir must reside under the same
//! mount". What comes out is a [`DetachedMount`]: it is in no directory tree
//! until it is attached, and dropping it unattached leaves nothing behind.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::unmount::mountinfo::MountIdentity;

/// Messages kept from the kernel's log of one context; it holds at most 8.
const LOG_LINES_MAX: usize = 8;

/// A step of building or attaching a mount was refused.
#[derive(Debug, thiserror::Error)]
#[error("{fs}: {step} failed{log}")]
pub struct FsError {
    /// File system type.
    pub fs: &'static str,
    /// What was tried, with its argument.
    pub step: String,
    /// What the kernel said in its context log.
    pub log: KernelLog,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// The errno, 0 when the error did not come from the kernel.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

/// Lines of a context's log, printed in brackets when there are any.
#[derive(Debug, Default, Clone)]
pub struct KernelLog(pub Vec<String>);

impl fmt::Display for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " [kernel: {}]", self.0.join("; "))
    }
}

/// An open file system context.
#[derive(Debug)]
pub struct FsContext {
    fs: &'static str,
    fd: OwnedFd,
}

impl FsContext {
    /// Opens a context for the file system type `fs`.
    ///
    /// # Errors
    /// `ENODEV` when the kernel has no such file system, `EPERM` without
    /// `CAP_SYS_ADMIN`, `ENOSYS` before Linux 5.2.
    pub fn open(fs: &'static str) -> Result<Self, FsError> {
        let fd = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| FsError {
            fs,
            step: "fsopen".to_owned(),
            log: KernelLog::default(),
            source: errno.into(),
        })?;
        Ok(Self { fs, fd })
    }

    /// Sets a flag such as `ro`.
    ///
    /// # Errors
    /// When the file system refuses the flag.
    pub fn flag(&self, key: &str) -> Result<(), FsError> {
        fsconfig_set_flag(self.fd.as_fd(), key).map_err(|errno| self.error(key.to_owned(), errno))
    }

    /// Sets `key=value`. The value is taken as it is: no escaping of commas.
    ///
    /// # Errors
    /// When the file system refuses the option.
    pub fn string(&self, key: &str, value: impl AsRef<Path>) -> Result<(), FsError> {
        let value = value.as_ref();
        fsconfig_set_string(self.fd.as_fd(), key, value)
            .map_err(|errno| self.error(format!("{key}={}", value.display()), errno))
    }

    /// Sets `key` to an open descriptor.
    ///
    /// # Errors
    /// `EINVAL` from file systems and kernels that want a path.
    pub fn fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<(), FsError> {
        fsconfig_set_fd(self.fd.as_fd(), key, value)
            .map_err(|errno| self.error(format!("{key}=<fd>"), errno))
    }

    /// Creates the superblock and a mount of it that is attached nowhere.
    ///
    /// # Errors
    /// Whatever the file system finds wrong with the options as a whole.
    pub fn mount(self, attributes: MountAttrFlags) -> Result<DetachedMount, FsError> {
        fsconfig_create(self.fd.as_fd())
            .map_err(|errno| self.error("creating the superblock".to_owned(), errno))?;
        let fd = fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| self.error("fsmount".to_owned(), errno))?;
        Ok(DetachedMount { fs: self.fs, fd })
    }

    fn error(&self, step: String, errno: rustix::io::Errno) -> FsError {
        FsError {
            fs: self.fs,
            step,
            log: self.read_log(),
            source: errno.into(),
        }
    }

    /// Each read returns one message, `e text` for errors; ENODATA ends it.
    fn read_log(&self) -> KernelLog {
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 512];
        while lines.len() < LOG_LINES_MAX {
            match rustix::io::read(&self.fd, &mut buffer) {
                Ok(n) if n > 2 => {
                    lines.push(String::from_utf8_lossy(&buffer[2..n]).trim().to_owned());
                }
                _ => break,
            }
        }
        KernelLog(lines)
    }
}

/// A mount that is in no directory tree yet.
///
/// Its descriptor can be used as a directory (`openat`) or be handed to
/// another mount. Dropping it dissolves the mount.
#[derive(Debug)]
pub struct DetachedMount {
    fs: &'static str,
    fd: OwnedFd,
}

impl DetachedMount {
    /// Another mount of the directory tree at `path`, as a bind mount is, with the same attributes.
    ///
    /// # Errors
    /// When `path` is no directory or the kernel refuses.
    pub fn clone_of(path: &Path) -> Result<Self, FsError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let fd = open_tree(rustix::fs::CWD, path, flags).map_err(|errno| {
            let step = format!("cloning {}", path.display());
            bind_error(step, errno.into())
        })?;
        Ok(Self { fs: BIND, fd })
    }

    /// The same of an open directory; `name` is what errors call it.
    ///
    /// # Errors
    /// When the kernel refuses: the directory must be on a mount that is attached somewhere.
    pub fn clone_of_directory(directory: BorrowedFd<'_>, name: &Path) -> Result<Self, FsError> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let fd = open_tree(directory, "", flags).map_err(|errno| {
            let step = format!("cloning {}", name.display());
            bind_error(step, errno.into())
        })?;
        Ok(Self { fs: BIND, fd })
    }

    /// Takes `nosuid` and `nodev` away, before anybody can see the mount.
    ///
    /// # Errors
    /// `ENOSYS` before Linux 5.12.
    pub fn trust(&self) -> Result<(), FsError> {
        let clear = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        crate::sys::mount_attr::clear(self.fd.as_fd(), clear)
            .map_err(|source| bind_error("allowing devices and set-user-ID".to_owned(), source))
    }

    /// Shows its files as owned by what the ids of a user namespace are outside it: what belongs to id 0 is the
    /// namespace's root's.
    ///
    /// # Errors
    /// `EINVAL` from file systems that cannot (FUSE before Linux 6.12), `ENOSYS` before Linux 5.12.
    pub fn map_owners(&self, user_namespace: BorrowedFd<'_>) -> Result<(), FsError> {
        crate::sys::mount_attr::map_owners(self.fd.as_fd(), user_namespace)
            .map_err(|source| bind_error("mapping owners".to_owned(), source))
    }

    /// Which mount this is; it stays the same when it is attached.
    ///
    /// # Errors
    /// When the kernel cannot say (before Linux 5.8).
    pub fn identity(&self) -> io::Result<MountIdentity> {
        // Not synced: a FUSE daemon is not asked.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&self.fd, "", flags, StatxFlags::MNT_ID)?;
        if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        Ok(MountIdentity {
            id: stat.stx_mnt_id,
            device: (stat.stx_dev_major, stat.stx_dev_minor),
        })
    }

    /// Puts the mount on the directory `target`, whose last component may not
    /// be a symbolic link.
    ///
    /// # Errors
    /// When `target` is no directory or the move is refused.
    pub fn attach(self, target: &Path) -> Result<(), FsError> {
        self.put_on(target)
    }

    /// The same, for a caller that goes on using its descriptor.
    pub(crate) fn put_on(&self, target: &Path) -> Result<(), FsError> {
        let error = |step: String, source: io::Error| FsError {
            fs: self.fs,
            step,
            log: KernelLog::default(),
            source,
        };
        let directory = rustix::fs::open(
            target,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| error(format!("opening {}", target.display()), errno.into()))?;
        move_mount(
            &self.fd,
            "",
            &directory,
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .map_err(|errno| error(format!("attaching to {}", target.display()), errno.into()))
    }
}

/// What a clone is called in errors.
const BIND: &str = "bind";

fn bind_error(step: String, source: io::Error) -> FsError {
    FsError {
        fs: BIND,
        step,
        log: KernelLog::default(),
        source,
    }
}

impl AsFd for DetachedMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
