//! The writable union: a read-only tree below, the writer's changes above.
//!
//! ```text
//!   target  = overlayfs ── upper  UPPER/upper   what was written, whiteouts
//!                       ├─ work   UPPER/work    the kernel's scratch room
//!                       └─ lower  EROFS or FUSE mount of an flist, …
//! ```
//!
//! The kernel does the work; this module chooses its options, prepares UPPER
//! (see [`upper`](self::upper)) and keeps the mount detached until the caller
//! puts it somewhere. Every option is given explicitly, so that a union
//! behaves the same whatever the kernel's build-time defaults are.

mod apart;
mod disk;
mod ext4;
pub mod scratch;
pub mod upper;
mod volatile;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use crate::fscontext::{DetachedMount, FsContext, FsError};
use crate::unmount::mountinfo::MountIdentity;
pub use disk::DiskError;
pub use upper::{Upper, UpperDirs, UpperError, is_bounded};
pub use volatile::seal_upper;

/// A directory to read from, topmost first.
#[derive(Debug)]
pub enum Lower<'a> {
    /// By path; a symbolic link as last component is refused.
    Path(&'a Path),
    /// By descriptor of a directory, on a mount that is attached somewhere:
    /// older kernels take no layer from a detached one.
    Fd(BorrowedFd<'a>),
}

/// What a union is built from.
#[derive(Debug)]
pub struct UnionSpec<'a> {
    /// Read-only trees, topmost first; at least one, at most
    /// [`LOWERS_MAX`].
    pub lowers: Vec<Lower<'a>>,
    /// Where changes go; `None` makes a read-only union of the lowers (two or
    /// more of them).
    pub upper: Option<Upper>,
    /// Behaviour that callers choose.
    pub options: UnionOptions,
}

/// What a caller may choose about a union.
///
/// Fixed for all: `index=off`, because an upper must stay usable when the same
/// image is mounted again by another mode or after a reboot (an index ties it
/// to one lower file system instance; the price, as with Docker and
/// containerd, is that hard links to lower files part on the first write), and
/// `redirect_dir=nofollow` and `metacopy=off`, so that an upper holds whole
/// files and can be read, packed or moved without its lower, and nothing forged
/// in it leads elsewhere: renaming a lower directory gives `EXDEV` and tools
/// copy instead. `xino=on` where accepted: `st_dev` is then one for the
/// whole union and `st_ino` does not change when a file is first written.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools)] // independent kernel options
pub struct UnionOptions {
    /// Never sync the upper. For throw-away roots: after a power cut the upper
    /// is refused. Always on for an upper with a bound, which ends with the
    /// union.
    pub volatile: bool,
    /// Keep overlay's xattrs under `user.` instead of `trusted.`, for mounts
    /// made inside a user namespace.
    pub userxattr: bool,
    /// Ignore set-user-ID bits and device nodes in the union. A container's
    /// root file system needs both; a volume does not.
    pub nosuid_nodev: bool,
}

/// Overlayfs takes 500 lowers; far fewer are ever useful, since an flist is
/// already merged.
pub const LOWERS_MAX: usize = 128;

/// A union could not be made.
#[derive(Debug, thiserror::Error)]
pub enum UnionError {
    /// The request contradicts itself.
    #[error("a union needs {0}")]
    Spec(&'static str),
    /// A lower directory cannot be opened.
    #[error("opening the lower directory {}", path.display())]
    Lower {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// UPPER cannot be used.
    #[error(transparent)]
    Upper(#[from] UpperError),
    /// The kernel refused the mount.
    #[error("mounting the union")]
    Mount(#[from] FsError),
}

/// A union that is attached nowhere yet; dropping it dissolves it.
#[derive(Debug)]
pub struct Union {
    mount: DetachedMount,
    upper: Option<UpperDirs>,
}

impl Union {
    /// Puts the union on `target`. The returned value, if there is an upper,
    /// says where the changes are and keeps others from using the same UPPER
    /// while it lives.
    ///
    /// # Errors
    /// When `target` is no directory or is a symbolic link.
    pub fn attach(self, target: &Path) -> Result<Option<UpperDirs>, UnionError> {
        self.mount.attach(target)?;
        Ok(self.upper)
    }

    /// Which mount this is; it stays the same when it is attached.
    ///
    /// # Errors
    /// When the kernel cannot say (before Linux 5.8).
    pub fn identity(&self) -> io::Result<MountIdentity> {
        self.mount.identity()
    }
}

impl AsFd for Union {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// Builds the union, detached.
///
/// # Errors
/// [`UnionError`]: a contradictory request, an unusable directory, or the
/// kernel's refusal with its own explanation.
pub fn build(spec: UnionSpec<'_>) -> Result<Union, UnionError> {
    let writable = spec.upper.is_some();
    check_counts(spec.lowers.len(), writable)?;
    let lowers = open_lowers(&spec.lowers)?;
    let lower_fds: Vec<BorrowedFd<'_>> = lowers.iter().map(LowerFd::as_fd).collect();
    let volatile = spec.options.volatile
        || matches!(spec.upper, Some(Upper::Tmpfs { .. } | Upper::Disk { .. }));
    let upper = spec
        .upper
        .map(|upper| UpperDirs::prepare(upper, &lower_fds, volatile, spec.options.userxattr))
        .transpose()?;
    let attributes = attributes(writable, spec.options);
    let options = UnionOptions {
        volatile,
        ..spec.options
    };
    let mount = mount(&lower_fds, upper.as_ref(), options, attributes)?;
    Ok(Union { mount, upper })
}

fn check_counts(lowers: usize, writable: bool) -> Result<(), UnionError> {
    match lowers {
        0 => Err(UnionError::Spec("at least one lower directory")),
        1 if !writable => Err(UnionError::Spec("an upper, or two lower directories")),
        n if n > LOWERS_MAX => Err(UnionError::Spec("at most 128 lower directories")),
        _ => Ok(()),
    }
}

fn attributes(writable: bool, options: UnionOptions) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    if !writable {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    if !writable || options.nosuid_nodev {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    }
    attributes
}

enum LowerFd<'a> {
    Owned(OwnedFd),
    Borrowed(BorrowedFd<'a>),
}

impl LowerFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Borrowed(fd) => *fd,
        }
    }
}

fn open_lowers<'a>(lowers: &[Lower<'a>]) -> Result<Vec<LowerFd<'a>>, UnionError> {
    lowers
        .iter()
        .map(|lower| match lower {
            Lower::Fd(fd) => Ok(LowerFd::Borrowed(*fd)),
            Lower::Path(path) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::open(*path, flags, Mode::empty())
                    .map(LowerFd::Owned)
                    .map_err(|errno| UnionError::Lower {
                        path: path.to_path_buf(),
                        source: errno.into(),
                    })
            }
        })
        .collect()
}

/// How layers are named to the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Naming {
    /// `lowerdir+` etc. as descriptors (Linux >= 6.13).
    Descriptors,
    /// Strings: every kernel.
    Paths,
}

fn mount(
    lowers: &[BorrowedFd<'_>],
    upper: Option<&UpperDirs>,
    options: UnionOptions,
    attributes: MountAttrFlags,
) -> Result<DetachedMount, FsError> {
    match try_mount(lowers, upper, options, attributes, Naming::Descriptors) {
        // Refused with EOPNOTSUPP by 6.1, EBADF (for O_PATH) by 6.12, EINVAL
        // by others; for paths the real reason, if any, shows again.
        Err(error) if error.step.ends_with("=<fd>") => {
            try_mount(lowers, upper, options, attributes, Naming::Paths)
        }
        other => other,
    }
}

fn try_mount(
    lowers: &[BorrowedFd<'_>],
    upper: Option<&UpperDirs>,
    options: UnionOptions,
    attributes: MountAttrFlags,
    naming: Naming,
) -> Result<DetachedMount, FsError> {
    let context = FsContext::open("overlay")?;
    context.string("source", "lamina")?;
    set_lowers(&context, lowers, naming)?;
    if let Some(dirs) = upper {
        set_layer(&context, "upperdir", dirs.upper_fd(), naming)?;
        set_layer(&context, "workdir", dirs.work_fd(), naming)?;
        context.string("index", "off")?;
        context.string("redirect_dir", "nofollow")?;
        context.string("metacopy", "off")?;
        if options.volatile {
            context.flag("volatile")?;
        }
    } else {
        context.flag("ro")?;
    }
    if options.userxattr {
        context.flag("userxattr")?;
    }
    context.string("xino", "on")?;
    context.mount(attributes)
}

fn set_lowers(
    context: &FsContext,
    lowers: &[BorrowedFd<'_>],
    naming: Naming,
) -> Result<(), FsError> {
    match naming {
        Naming::Descriptors => lowers
            .iter()
            .try_for_each(|fd| context.fd("lowerdir+", *fd)),
        Naming::Paths => {
            let links: Vec<String> = lowers.iter().map(|fd| layer_path(*fd)).collect();
            context.string("lowerdir", links.join(":"))
        }
    }
}

fn set_layer(
    context: &FsContext,
    key: &str,
    fd: BorrowedFd<'_>,
    naming: Naming,
) -> Result<(), FsError> {
    match naming {
        Naming::Descriptors => context.fd(key, fd),
        Naming::Paths => context.string(key, layer_path(fd)),
    }
}

/// The path a descriptor was opened by, for the mount table's readers, if it
/// still leads there and overlayfs would read it literally (`:`, `,` and `\`
/// mean something to it); else the descriptor's link in `/proc`.
fn layer_path(fd: BorrowedFd<'_>) -> String {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let plain = |path: &String| !path.contains([':', ',', '\\', '"']);
    std::fs::read_link(&link)
        .ok()
        .and_then(|path| path.into_os_string().into_string().ok())
        .filter(plain)
        .filter(|path| leads_to(path, fd))
        .unwrap_or(link)
}

fn leads_to(path: &str, fd: BorrowedFd<'_>) -> bool {
    match (rustix::fs::lstat(path), rustix::fs::fstat(fd)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}
