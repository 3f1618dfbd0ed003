//! The layerstore's disk: small files, whole or not there; how much of it is free.

use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{EnsureError, EnsureErrorKind};

/// Held by the process that uses a directory.
pub(super) const LOCK: &str = "lock";
/// Most bytes by default.
const DEFAULT_MAX: u64 = 1_000_000_000_000;

/// Most bytes where nobody says: 60 % of what is free or ours already, and 1 TB at most.
pub(super) fn default_max(free: u64, used: u64) -> u64 {
    (free.saturating_add(used) / 10)
        .saturating_mul(6)
        .min(DEFAULT_MAX)
}

/// Bytes that can be written to the disk of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes a directory only we may look into.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Bit of a layer file's mode that says that it was copied from another node. On the file itself, so that it goes with
/// it and no crash loses it.
const COPY_MODE: u32 = libc::S_ISVTX;

/// Notes on a file that is being written that it comes from another node.
pub(super) fn mark_copy(file: &File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600 | COPY_MODE))
}

/// Whether it was noted; a file that cannot be asked is taken for none.
pub(super) fn is_copy(file: &File) -> bool {
    file.metadata()
        .is_ok_and(|meta| meta.permissions().mode() & COPY_MODE != 0)
}

/// One process at a time.
pub(super) fn lock(dir: &Path) -> Result<File, EnsureError> {
    let path = dir.join(LOCK);
    let failed = |error| EnsureError::disk(format!("lock {}", path.display()), error);
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let what = format!(
                "the layers in {} are used by another process",
                dir.display()
            );
            Err(EnsureError::new(EnsureErrorKind::FailedPrecondition, what))
        }
        Err(error) => Err(failed(error.into())),
    }
}

/// Writes a file that only we may read, durable before it is visible.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (part, mut file) = part_of(path)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&part, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// A new file beside `path`, under a name that is cleared at the next start.
pub(super) fn part_of(path: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let part = path.with_file_name(format!(".part-{}-{number}", std::process::id()));
    let mut options = File::options();
    let options = options.write(true).read(true).create(true).truncate(true);
    let file = options.mode(0o600).open(&part)?;
    Ok((part, file))
}

/// Notes that a file was used.
pub(super) fn touch(path: &Path) {
    let touched = File::options().append(true).open(path);
    if let Err(error) = touched.and_then(|file| file.set_modified(SystemTime::now())) {
        tracing::debug!(path = %path.display(), %error, "note the use of a file");
    }
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what was being written, then the files written longest ago until `files_max` of `bytes_max` bytes are
/// left.
pub(super) fn prune(dir: &Path, files_max: usize, bytes_max: u64) -> io::Result<()> {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() && !entry.file_name().to_string_lossy().starts_with(".part-") {
            found.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    found.sort_unstable();
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

/// Removes what a killed process was writing.
pub(super) fn clear(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with('.') {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_share_of_the_disk_that_does_not_shrink_with_use() {
        assert_eq!(default_max(1000, 0), 600);
        assert_eq!(default_max(400, 600), 600);
        assert_eq!(default_max(u64::MAX, 5), DEFAULT_MAX);
    }

    #[test]
    fn the_files_written_longest_ago_go_first() {
        let dir = tempfile::tempdir().unwrap();
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            let path = dir.path().join(name);
            write(&path, &[0; 10]).unwrap();
            let when = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(n as u64);
            let file = File::options().append(true).open(&path).unwrap();
            file.set_modified(when).unwrap();
        }
        prune(dir.path(), 2, 100).unwrap();
        assert!(!dir.path().join("a").exists());
        prune(dir.path(), 2, 10).unwrap();
        assert!(!dir.path().join("b").exists() && dir.path().join("c").exists());
    }
}
