//! The layerstore's disk: small files, whole or not there; how much of it is free.

use std::error::Error as StdError;
use std::fs::{File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::{EnsureError, EnsureErrorKind};
use crate::files::drop_oldest;
pub(super) use crate::files::{make_dir, remove, touch};

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

/// What the disk or a limit of this process did to whoever read a file; `None` when the file is gone, or what is in it
/// is to blame.
pub(crate) fn failure(error: &(dyn StdError + 'static)) -> Option<io::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let errno = error.raw_os_error().map(io::Error::from_raw_os_error);
            return errno.filter(|error| error.kind() != io::ErrorKind::NotFound);
        }
        cause = error.source();
    }
    None
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

/// Removes the files written longest ago until `files_max` of `bytes_max` bytes are left; what is being written stays.
pub(super) fn prune(dir: &Path, files_max: usize, bytes_max: u64) -> io::Result<()> {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(".part-") {
            continue;
        }
        let meta = match entry.metadata() {
            // Another call removed it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            meta => meta?,
        };
        if meta.is_file() {
            found.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    drop_oldest(found, files_max, bytes_max)
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

    #[test]
    fn files_that_come_and_go_meanwhile_are_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for number in 0..200 {
                        write(&dir.join(format!("{thread}-{number}")), b"x").unwrap();
                        prune(dir, 3, u64::MAX).unwrap();
                    }
                });
            }
        });
    }
}
