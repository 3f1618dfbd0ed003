//! How much of an image the kernel has in memory: an estimate.
//!
//! Reads that the kernel answers from memory are seen by nobody, so how many there are cannot be counted. What can be
//! asked, since Linux 6.5, is how much of a file is in memory at a moment (`cachestat(2)`). Of a small image every file is
//! asked, of another one places that are evenly spaced over the bytes of all files: a share of the places is that share
//! of the image, give or take a few percent.
//!
//! Nothing is read for it, and it keeps nobody from unmounting: files are opened on a mount of their own that nobody sees.

use crate::sys;
use lamina_flist::{FileType, Flist, FlistError};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Files, or places, that are asked.
const PLACES_MAX: u64 = 256;
/// What of a place is looked at.
const WINDOW: u64 = 64 << 10;
/// What the kernel counts in, at least.
const PAGE: u64 = 4096;

/// Where to look in an image; made once.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<Place>,
}

#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Below the root, without a slash in front.
    path: PathBuf,
    offset: u64,
    len: u64,
}

impl Places {
    /// Those of an image.
    pub(crate) fn of(flist: &Flist) -> Result<Self, FlistError> {
        let (mut files, mut total) = (0_u64, 0_u64);
        walk(flist, |_, size| {
            files += 1;
            total += size;
        })?;
        let (mut places, mut before, mut next) = (Vec::new(), 0, 0);
        walk(flist, |path, size| {
            let mut add = |offset, len| {
                let path = PathBuf::from(OsString::from_vec(path.to_vec()));
                places.push(Place { path, offset, len });
            };
            if files <= PLACES_MAX {
                return add(0, size);
            }
            while next < PLACES_MAX && middle(next, total) < before + size {
                let offset = (middle(next, total) - before) / WINDOW * WINDOW;
                add(offset, WINDOW.min(size - offset));
                next += 1;
            }
            before += size;
        })?;
        Ok(Self { places })
    }

    /// Of `bytes`, how many are in memory; `None` where the kernel does not say. `root` is where the image is mounted.
    pub(crate) fn resident(&self, root: &Path, bytes: u64) -> Option<u64> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let root = open_tree(rustix::fs::CWD, root, clone).ok()?;
        let (mut here, mut all) = (0, 0);
        for place in &self.places {
            // Covered by something else now, or not to be asked: the others say enough.
            let Some(file) = open(&root, &place.path) else {
                continue;
            };
            let pages = sys::cached_pages(file.as_fd(), place.offset, place.len).ok()?;
            let whole = place.len.div_ceil(PAGE);
            here += pages.min(whole);
            all += whole;
        }
        let share = u128::from(bytes) * u128::from(here) / u128::from(all.max(1));
        Some(u64::try_from(share).unwrap_or(bytes))
    }
}

/// The middle of one of `PLACES_MAX` equal parts.
fn middle(part: u64, total: u64) -> u64 {
    let middle = u128::from(total) * u128::from(2 * part + 1) / u128::from(2 * PLACES_MAX);
    u64::try_from(middle).unwrap_or(u64::MAX)
}

fn open(root: &OwnedFd, path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(root, path, flags, Mode::empty(), within).ok()
}

/// Every file that has bytes: its path and size, always in the same order.
fn walk(flist: &Flist, mut seen: impl FnMut(&[u8], u64)) -> Result<(), FlistError> {
    let mut open = vec![(flist.root()?, Vec::new())];
    while let Some((directory, path)) = open.pop() {
        for entry in flist.read_dir(&directory) {
            let entry = entry?;
            if entry.name == b"." || entry.name == b".." {
                continue;
            }
            let inode = flist.inode(entry.nid)?;
            let below = [path.as_slice(), entry.name].join(&b'/');
            let below = below.strip_prefix(b"/").unwrap_or(&below).to_vec();
            match inode.file_type() {
                FileType::Directory => open.push((inode, below)),
                FileType::File if inode.size() > 0 => seen(&below, inode.size()),
                _ => {}
            }
        }
    }
    Ok(())
}
