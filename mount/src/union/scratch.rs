//! The root file system of one sandbox: a tree that others use, too, below; above, what ends with the sandbox.
//!
//! ```text
//!   root = overlayfs ── upper  tmpfs (or ext4 in a nameless file), new, bounded; owners as the host has them
//!                    └─ lower  the tree's mount, its owners mapped into the sandbox's user namespace
//! ```
//!
//! What belongs to id 0 in the image belongs to the sandbox's root, without copying or changing a file: the lower is an
//! id-mapped mount. The upper is not, since overlayfs writes to it as whoever mounted, who has no id in the map: what a
//! sandbox writes belongs to its ids of the host, and never to the host's root (`docs/decisions/0007`).
//!
//! What always holds: nothing is attached anywhere once this is built, so nothing can be left behind: the last
//! descriptor or process that uses it takes it along.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Mode};
use rustix::mount::{MountAttrFlags, UnmountFlags};

use super::upper::{DIRECTORY, UpperDirs, UpperError, io_error};
use super::{UnionError, UnionOptions, attributes, disk, mount};
use crate::fscontext::{DetachedMount, FsContext};

/// Bytes of changes per file among them that are reckoned with: as ext4 has it by default.
const BYTES_PER_FILE: u64 = 16 << 10;
/// Files that fit however little room there is.
const FILES_MIN: u64 = 4096;

/// What a sandbox's root is built from.
#[derive(Debug)]
pub struct ScratchSpec<'a> {
    /// The tree: a directory on an attached mount.
    pub lower: BorrowedFd<'a>,
    /// Whose ids its owners become.
    pub user_namespace: BorrowedFd<'a>,
    /// Most bytes of changes.
    pub bytes_max: u64,
    /// Most files among them, where the medium has a bound of its own for these (memory).
    pub files_max: u64,
    /// Where changes are kept.
    pub medium: ScratchMedium,
    /// An empty directory for mounts that must be somewhere for a moment.
    pub at: &'a Path,
}

/// Where changes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ScratchMedium {
    /// Memory, as it is written; whoever writes is charged for it.
    #[default]
    Memory,
    /// The disk of `at`, all of the bound's size from the start.
    Disk,
}

/// A sandbox's root, attached nowhere.
#[derive(Debug)]
pub struct Scratch {
    root: DetachedMount,
    upper: UpperDirs,
    lower: DetachedMount,
}

impl Scratch {
    /// Builds it.
    ///
    /// # Errors
    /// [`UnionError`].
    pub fn build(spec: &ScratchSpec<'_>) -> Result<Self, UnionError> {
        let lower = DetachedMount::clone_of_directory(spec.lower, Path::new("the image"))?;
        lower.map_owners(spec.user_namespace)?;
        match spec.medium {
            ScratchMedium::Memory => in_memory(spec, lower),
            ScratchMedium::Disk => on_disk(spec, lower),
        }
    }

    /// The root, to be attached by whoever has a mount namespace for it.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What was changed: overlayfs's upper directory. Nobody changes it any more once the root is not in use.
    pub fn changes(&self) -> BorrowedFd<'_> {
        self.upper.upper_fd()
    }

    /// The tree below, with owners as in the sandbox.
    pub fn image(&self) -> BorrowedFd<'_> {
        self.lower.as_fd()
    }

    /// Of these names in its root, those that the image itself has nothing of.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn not_in_image<'a>(&self, names: &[&'a str]) -> std::io::Result<Vec<&'a str>> {
        let mut absent = Vec::new();
        for &name in names {
            match rustix::fs::statat(&self.lower, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(rustix::io::Errno::NOENT) => absent.push(name),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(absent)
    }

    /// Whether there is room for more changes: in bytes, and in files.
    ///
    /// # Errors
    /// When the file system of the changes cannot be asked.
    pub fn has_room(&self) -> std::io::Result<bool> {
        let room = rustix::fs::fstatvfs(self.changes())?;
        // File systems that make inodes as they are needed count none.
        let has_files = room.f_files == 0 || room.f_ffree > 0;
        Ok(room.f_bavail > 0 && has_files)
    }
}

/// As many files as are reckoned with in so many bytes of changes.
pub fn files_max(bytes_max: u64) -> u64 {
    (bytes_max / BYTES_PER_FILE).max(FILES_MIN)
}

/// What holds for every sandbox's root: throw-away, and no image's devices or set-user-ID programs.
const OPTIONS: UnionOptions = UnionOptions {
    volatile: true,
    userxattr: false,
    nosuid_nodev: true,
};

fn in_memory(spec: &ScratchSpec<'_>, lower: DetachedMount) -> Result<Scratch, UnionError> {
    let memory = memory(spec)?;
    let base = rustix::fs::openat(&memory, ".", DIRECTORY, Mode::empty())
        .map_err(io_error("opening the memory for changes of", spec.at))?;
    let upper = UpperDirs::in_new(spec.at, base, lower.as_fd())?;
    over(spec, lower, upper, &memory)
}

fn on_disk(spec: &ScratchSpec<'_>, lower: DetachedMount) -> Result<Scratch, UnionError> {
    disk::mount(spec.at, spec.bytes_max).map_err(UpperError::Disk)?;
    let taken_down = Attached(spec.at);
    let base = rustix::fs::open(spec.at, DIRECTORY, Mode::empty())
        .map_err(io_error("opening", spec.at))?;
    let upper = UpperDirs::in_new(spec.at, base, lower.as_fd())?;
    // At once with layers that are attached: a try that fails marks the disk as one that cannot be mounted again.
    let built = attached(spec, lower, upper, None);
    drop(taken_down);
    built
}

/// Whether this kernel was found to refuse layers that are attached nowhere, as those before Linux 6.15 do, each time with a
/// line in its log.
static ATTACHED_ONLY: AtomicBool = AtomicBool::new(false);

/// The union with changes in memory. Where layers must be attached somewhere, the directories open here are then, too.
fn over(
    spec: &ScratchSpec<'_>,
    lower: DetachedMount,
    upper: UpperDirs,
    memory: &DetachedMount,
) -> Result<Scratch, UnionError> {
    if !ATTACHED_ONLY.load(Ordering::Relaxed)
        && let Ok(root) = union(lower.as_fd(), &upper)
    {
        return Ok(Scratch { root, upper, lower });
    }
    let built = attached(spec, lower, upper, Some(memory))?;
    ATTACHED_ONLY.store(true, Ordering::Relaxed);
    Ok(built)
}

fn memory(spec: &ScratchSpec<'_>) -> Result<DetachedMount, UnionError> {
    let build = || {
        let context = FsContext::open("tmpfs")?;
        context.string("source", "lamina-scratch")?;
        context.string("size", spec.bytes_max.to_string())?;
        context.string("nr_inodes", spec.files_max.to_string())?;
        context.string("mode", "0700")?;
        context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV)
    };
    Ok(build().map_err(UpperError::Tmpfs)?)
}

fn union(lower: BorrowedFd<'_>, upper: &UpperDirs) -> Result<DetachedMount, UnionError> {
    let attributes = attributes(true, OPTIONS);
    Ok(mount(&[lower], Some(upper), OPTIONS, attributes)?)
}

/// Builds the union while its layers are attached for a moment.
fn attached(
    spec: &ScratchSpec<'_>,
    lower: DetachedMount,
    upper: UpperDirs,
    memory: Option<&DetachedMount>,
) -> Result<Scratch, UnionError> {
    lower.put_on(spec.at)?;
    let below = Attached(spec.at);
    let above = memory
        .map(|memory| memory.put_on(spec.at).map(|()| Attached(spec.at)))
        .transpose()?;
    let root = union(lower.as_fd(), &upper)?;
    drop((above, below));
    Ok(Scratch { root, upper, lower })
}

/// A mount that is taken off its directory when this is dropped; who uses it goes on doing so.
struct Attached<'a>(&'a Path);

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = rustix::mount::unmount(self.0, flags) {
            tracing::warn!(%error, at = %self.0.display(), "take down a mount");
        }
    }
}
