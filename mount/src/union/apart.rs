//! UPPER must be apart from the lowers and from what other unions use: by what directories are, not by
//! what they are called.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::upper::{UpperError, io_error};
use crate::unmount::mountinfo::MountTable;

/// Directories may be nested this deep before the containment check gives up.
const DEPTH_MAX: usize = 4096;

type FileId = (u64, u64);

/// Refuses an UPPER inside that of another of our unions in this mount namespace, or around it: what
/// one writes would be seen by the other, or taken for its own. Others' overlays keep their directories
/// as they like; for them only [`check_not_mounted`] is sure.
pub(super) fn check_not_nested(path: &Path) -> Result<(), UpperError> {
    let (at, is_base) = match open_path(path) {
        Err(Errno::NOENT) => (open_path(parent(path)), false),
        other => (other, true),
    };
    let at = at.map_err(io_error("opening", path))?;
    let at_id = id_of(path, at.as_fd())?;
    let mut around = ancestors(path, at.as_fd())?;
    if !is_base {
        around.push(at_id);
    }
    for other in live_uppers(path)? {
        let Ok(fd) = open_path(&other) else { continue };
        let inside = around.contains(&id_of(path, fd.as_fd())?);
        let outside = is_base && ancestors(path, fd.as_fd())?.contains(&at_id);
        if inside || outside {
            let path = path.to_owned();
            return Err(UpperError::Nested { path, other });
        }
    }
    Ok(())
}

/// The UPPER of every union of ours that can be named.
fn live_uppers(path: &Path) -> Result<Vec<PathBuf>, UpperError> {
    let table = mount_table(path)?;
    let ours = table
        .entries()
        .iter()
        .filter(|entry| entry.fs_type == "overlay" && entry.source == Path::new("lamina"));
    let uppers = ours.filter_map(|entry| entry.super_option("upperdir"));
    let named = uppers.filter(|upper| !upper.starts_with("/proc") && upper.ends_with("upper"));
    Ok(named.map(|upper| parent(&upper).to_owned()).collect())
}

/// Two unions over one upper corrupt each other, and with `index=off` the
/// kernel only warns. The lock catches unions whose maker still lives; this
/// catches the others in this mount namespace.
pub(super) fn check_not_mounted(path: &Path, upper: &OwnedFd) -> Result<(), UpperError> {
    let ours = id_of(path, upper.as_fd())?;
    let taken = mount_table(path)?
        .overlay_uppers()
        // A name that means something else in every process.
        .filter(|upper| !upper.starts_with("/proc"))
        .filter_map(|upper| rustix::fs::stat(upper).ok())
        .any(|stat| (stat.st_dev, stat.st_ino) == ours);
    if taken {
        return Err(UpperError::InUse(path.to_owned()));
    }
    Ok(())
}

/// Refuses a lower that contains UPPER or is in it.
pub(super) fn check_apart(
    path: &Path,
    base: &OwnedFd,
    lowers: &[BorrowedFd<'_>],
) -> Result<(), UpperError> {
    let base_id = id_of(path, base.as_fd())?;
    let base_parents = ancestors(path, base.as_fd())?;
    for lower in lowers {
        let lower_id = id_of(path, *lower)?;
        let inside = lower_id == base_id
            || base_parents.contains(&lower_id)
            || ancestors(path, *lower)?.contains(&base_id);
        if inside {
            return Err(UpperError::Overlap(path.to_owned()));
        }
    }
    Ok(())
}

/// The directories above `fd`, up to the root of this process.
fn ancestors(path: &Path, fd: BorrowedFd<'_>) -> Result<Vec<FileId>, UpperError> {
    let mut ids: Vec<FileId> = Vec::new();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = rustix::fs::openat(fd, "..", flags, Mode::empty())
        .map_err(io_error("walking up from", path))?;
    while ids.len() < DEPTH_MAX {
        let stat = rustix::fs::fstat(&here).map_err(io_error("walking up from", path))?;
        let id = (stat.st_dev, stat.st_ino);
        if ids.last() == Some(&id) {
            break; // `..` of the root is the root
        }
        ids.push(id);
        here = rustix::fs::openat(&here, "..", flags, Mode::empty())
            .map_err(io_error("walking up from", path))?;
    }
    Ok(ids)
}

fn mount_table(path: &Path) -> Result<MountTable, UpperError> {
    MountTable::read().map_err(|source| UpperError::Io {
        what: "reading the mount table for",
        path: path.to_owned(),
        source,
    })
}

fn id_of(path: &Path, fd: BorrowedFd<'_>) -> Result<FileId, UpperError> {
    let stat = rustix::fs::fstat(fd).map_err(io_error("inspecting what is near", path))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
