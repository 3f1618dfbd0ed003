//! What the layerstore's and the library's small files have in common.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Makes a directory only we may look into.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Notes that a file was used.
pub(crate) fn touch(path: &Path) {
    let touched = File::options().append(true).open(path);
    if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
        tracing::debug!(path = %path.display(), %error, "note the use of a file");
    }
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files written longest ago until `files_max` of `bytes_max` bytes are left. Of each file: when it was
/// written, its bytes, where it is.
pub(crate) fn drop_oldest(
    mut found: Vec<(SystemTime, u64, PathBuf)>,
    files_max: usize,
    bytes_max: u64,
) -> io::Result<()> {
    found.sort();
    let mut bytes: u64 = found.iter().map(|(_, len, _)| len).sum();
    let mut left = found.len();
    for (_, len, path) in found {
        if left <= files_max && bytes <= bytes_max {
            break;
        }
        remove(&path)?;
        left -= 1;
        bytes -= len;
    }
    Ok(())
}
