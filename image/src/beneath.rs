//! Opening files below a directory, whatever anybody does to the path.
//!
//! Always: no symbolic link is followed and nothing outside the directory is
//! reached. `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)` where the kernel
//! allows it, otherwise one `openat(O_NOFOLLOW)` per component.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, Result};

const NO_LINKS: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Opens `path` (relative, without `..`) below `root`; the empty path is `root`.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name: &[u8] = if path.is_empty() { b"." } else { path };
    match openat2(root, name, flags, Mode::empty(), NO_LINKS) {
        // Old kernels, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => by_component(root, name, flags),
        other => other,
    }
}

/// Opens a directory below `root`.
pub(crate) fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
}

fn by_component(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let mut parts = path
        .split(|b| *b == b'/')
        .filter(|p| !p.is_empty())
        .peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(part) = parts.next() {
        if part == b".." {
            return Err(Errno::XDEV);
        }
        let here = at.as_ref().map_or(root, AsFd::as_fd);
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let flags = if parts.peek().is_some() { step } else { flags };
        at = Some(openat(here, part, flags, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

/// A path for calls that have no `at` form (xattrs); `name` is not followed by
/// the `l` calls.
pub(crate) fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(OsStr::from_bytes(name));
    path
}

/// The last component, and the path before it.
pub(crate) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_parents_are_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("d")).unwrap();
        std::fs::write(root.join("d/f"), b"x").unwrap();
        std::fs::write(dir.path().join("secret"), b"x").unwrap();
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        std::os::unix::fs::symlink("d", root.join("l")).unwrap();
        let fd = std::fs::File::open(&root).unwrap();
        for opener in [open, by_component] {
            let open = |path: &[u8]| opener(fd.as_fd(), path, OFlags::RDONLY | OFlags::NOFOLLOW);
            assert!(open(b"d/f").is_ok());
            for bad in [
                &b"up/secret"[..],
                b"../secret",
                b"l/f",
                b"up",
                b"d/../../secret",
            ] {
                assert!(open(bad).is_err(), "{}", bad.escape_ascii());
            }
        }
    }
}
