//! Opening the files of a blob so that a link, a FIFO or a short file in their
//! place is noticed, and replacing what is not right.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{Errno, retry_on_intr};

use super::CacheError;

pub(super) const MAP: &str = "map";
pub(super) const DATA: &str = "data";
pub(super) const PRESENT: &str = "present";
pub(super) const SEAL: &str = "seal";
pub(super) const TOUCHED: &str = "touched";

/// Opens an existing regular file. `O_NONBLOCK` so that a FIFO put in its place
/// cannot make us wait for a peer.
pub(super) fn open_regular(path: &Path, write: bool) -> Result<File, CacheError> {
    let file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ELOOP | libc::ENXIO | libc::EISDIR | libc::ENOTDIR) => {
                CacheError::damaged(path, source.to_string())
            }
            _ => CacheError::io("open", path, source),
        })?;
    let meta = file
        .metadata()
        .map_err(|source| CacheError::io("stat", path, source))?;
    if !meta.is_file() {
        return Err(CacheError::damaged(path, "not a regular file"));
    }
    Ok(file)
}

/// Like [`open_regular`], and the file must be `len` bytes long.
pub(super) fn open_sized(path: &Path, write: bool, len: u64) -> Result<File, CacheError> {
    let file = open_regular(path, write)?;
    let found = file
        .metadata()
        .map_err(|source| CacheError::io("stat", path, source))?
        .len();
    if found == len {
        Ok(file)
    } else {
        let what = format!("{found} bytes long, must be {len}");
        Err(CacheError::damaged(path, what))
    }
}

/// Puts a fresh file of `len` zero bytes (a hole) in the place of whatever has
/// this name.
pub(super) fn replace_sized(path: &Path, len: u64) -> Result<File, CacheError> {
    let (file, staged) = stage(path)?;
    file.set_len(len)
        .map_err(|source| CacheError::io("extend", &staged, source))?;
    settle(&staged, path)?;
    Ok(file)
}

/// Gives a file that is to be mapped and written all its blocks: on a full disk, touching a hole through
/// a mapping would kill the process (SIGBUS).
pub(super) fn allocate(file: &File, path: &Path) -> Result<(), CacheError> {
    let len = file
        .metadata()
        .map_err(|source| CacheError::io("stat", path, source))?
        .len();
    let allocated = retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, len));
    match allocated {
        // Such a file system has no way to ask; most of them have no holes either.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(CacheError::io("allocate", path, errno.into())),
    }
}

/// Puts a file with these bytes in the place of whatever has this name.
pub(super) fn replace_bytes(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let (mut file, staged) = stage(path)?;
    if let Err(source) = file.write_all(bytes) {
        let _ = std::fs::remove_file(&staged);
        return Err(CacheError::io("write", &staged, source));
    }
    settle(&staged, path)
}

fn stage(path: &Path) -> Result<(File, PathBuf), CacheError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    remove_any(&staged)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&staged)
        .map_err(|source| CacheError::io("create", &staged, source))?;
    Ok((file, staged))
}

/// Renames the staged file over the final name; a directory there (which
/// rename cannot replace) is removed first.
fn settle(staged: &Path, path: &Path) -> Result<(), CacheError> {
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        remove_any(path)?;
    }
    std::fs::rename(staged, path).map_err(|source| CacheError::io("rename", staged, source))
}

/// Makes the blob's directory; something else of that name is removed.
pub(super) fn ensure_dir(dir: &Path) -> Result<(), CacheError> {
    let make = || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| CacheError::io("create", dir, source))
    };
    match std::fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => remove_any(dir).and_then(|()| make()),
        Err(_) => make(),
    }
}

fn remove_any(path: &Path) -> Result<(), CacheError> {
    let result = match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    result.map_err(|source| CacheError::io("remove", path, source))
}
