//! A bounded upper on disk: a file system of its own in a file without a name.
//!
//! ```text
//!   AT ── ext4 ── loop device ── file on the file system of AT's parent, all its room reserved
//! ```
//!
//! What always holds: nothing is left when the last user is gone, whoever was killed when. The file has no name from
//! the start, the device clears itself, and the union keeps the file system alive after `AT` is unmounted. Room is
//! reserved before anything can be written: what a program has written is there, however full the disk gets.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::ext4::{self, Layout};
use crate::fscontext::{FsContext, FsError};
use crate::loopdev::{self, LoopDevice, LoopError};
use crate::unmount::mountinfo::MountEntry;

/// Label of the loop devices, by which what a killed process left is known.
const LABEL: &str = "lamina-upper";
/// Of the disk, what stays free for others: a twentieth, and never more than this.
const KEPT_FREE_PART: u64 = 20;
const KEPT_FREE_MAX: u64 = 1 << 30;

/// The file system for the changes cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It would fill the disk.
    #[error(
        "the disk of {} has no room for {wanted} bytes of changes ({free} are free, of which {kept} stay so); \
         free some, or bound them lower",
        path.display()
    )]
    Room {
        /// A directory on the disk.
        path: PathBuf,
        /// Asked for, with what the file system needs for itself.
        wanted: u64,
        /// There now.
        free: u64,
        /// Of it, what is left to others.
        kept: u64,
    },
    /// More than the format can hold.
    #[error(
        "{0} bytes of changes are more than a file system on disk can hold; give less than 15 TiB"
    )]
    TooLarge(u64),
    /// A system call on its file failed.
    #[error("{what} a file in {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No loop device.
    #[error("setting up a loop device for the changes")]
    Device(#[source] LoopError),
    /// The kernel refused to mount it.
    #[error("mounting the file system for the changes")]
    Mount(#[source] FsError),
}

/// Mounts an empty file system that holds `bytes_max` on the directory `at`.
pub(super) fn mount(at: &Path, bytes_max: u64) -> Result<(), DiskError> {
    let layout = Layout::holding(bytes_max).ok_or(DiskError::TooLarge(bytes_max))?;
    let home = at.parent().unwrap_or(at);
    let file = nameless(home)?;
    reserve(&file, home, layout.bytes())?;
    for piece in ext4::pieces(&layout, uuid(home)?, seconds()) {
        let written = file.write_all_at(&piece.bytes, piece.at);
        written.map_err(failed("writing", home))?;
    }
    // The device may read past the page cache.
    file.sync_data().map_err(failed("writing", home))?;
    let device = LoopDevice::attach_writable(file.as_fd(), LABEL).map_err(DiskError::Device)?;
    let build = || {
        let context = FsContext::open("ext4")?;
        context.string("source", device.path())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        context.mount(attributes)?.attach(at)
    };
    build().map_err(DiskError::Mount)
}

/// Whether a mount is one that was made here.
pub(super) fn is_disk(entry: &MountEntry) -> bool {
    entry.fs_type == "ext4" && loopdev::has_label(&entry.source, LABEL)
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DiskError + 'a {
    move |source| DiskError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

fn nameless(home: &Path) -> Result<File, DiskError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let opened = rustix::fs::open(home, flags, Mode::RUSR | Mode::WUSR);
    opened
        .map(File::from)
        .map_err(|errno| failed("making", home)(errno.into()))
}

fn reserve(file: &File, home: &Path, wanted: u64) -> Result<(), DiskError> {
    let disk =
        rustix::fs::fstatvfs(file).map_err(|errno| failed("looking at", home)(errno.into()))?;
    let free = disk.f_bavail * disk.f_frsize;
    let kept = (disk.f_blocks * disk.f_frsize / KEPT_FREE_PART).min(KEPT_FREE_MAX);
    let full = || DiskError::Room {
        path: home.to_owned(),
        wanted,
        free,
        kept,
    };
    if free < wanted.saturating_add(kept) {
        return Err(full());
    }
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, wanted) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Err(full()),
        Err(errno) => Err(failed("reserving room for", home)(errno.into())),
    }
}

/// Random, from the kernel.
fn uuid(home: &Path) -> Result<[u8; 16], DiskError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
    let text = text.map_err(failed("naming the file system of", home))?;
    let mut uuid = [0; 16];
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    hex::decode_to_slice(digits, &mut uuid)
        .map_err(|error| failed("naming the file system of", home)(io::Error::other(error)))?;
    Ok(uuid)
}

fn seconds() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as u32)
}
