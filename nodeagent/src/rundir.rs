//! The run directory of an instance: sockets, locks and state of its daemons.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// The run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// The system refused.
    #[error("prepare {path}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns the directory: what is in it cannot be trusted.
    #[error("{path} belongs to uid {uid}, not to this user")]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// Whoever started this process died while it waited for the lock: its successor starts another.
    #[error("the process that started this one is gone; not taking over {path}")]
    Orphan {
        /// The lock file.
        path: PathBuf,
    },
    /// Another process holds the lock.
    #[error("{path} is held by another process")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// As [`lock`], for a process that somebody keeps running: after its starter's death it would take
/// over from a predecessor although nobody would end it, or start it again.
///
/// # Errors
/// As [`lock`]; [`RunDirError::Orphan`].
pub fn lock_as_child(dir: &Path, name: &str, patience: Duration) -> Result<File, RunDirError> {
    let starter = rustix::process::getppid();
    let lock = lock(dir, name, patience)?;
    if rustix::process::getppid() == starter {
        return Ok(lock);
    }
    Err(RunDirError::Orphan {
        path: dir.join(name),
    })
}

/// Makes the directory, for its owner only.
///
/// # Errors
/// See [`RunDirError`].
pub fn ensure(dir: &Path) -> Result<(), RunDirError> {
    let failed = |source| RunDirError::Io {
        path: dir.to_owned(),
        source,
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(failed)?;
    let meta = std::fs::metadata(dir).map_err(failed)?;
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(RunDirError::Owner {
            path: dir.to_owned(),
            uid: meta.uid(),
        });
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Takes a lock for as long as the file returned lives, waiting for whoever
/// has it. The kernel gives it up only when every thread of a killed owner has
/// stopped running: who gets the lock is alone.
///
/// # Errors
/// [`RunDirError::Locked`] when the wait is over.
pub fn lock(dir: &Path, name: &str, patience: Duration) -> Result<File, RunDirError> {
    /// The wait is for a process that is exiting; it is short or very long.
    const RETRY: Duration = Duration::from_millis(2);
    let path = dir.join(name);
    let failed = |source| RunDirError::Io {
        path: path.clone(),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(&path)
        .map_err(failed)?;
    let end = Instant::now() + patience;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < end => {
                std::thread::sleep(RETRY);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(RunDirError::Locked { path }),
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Replaces a small private file: whole or not at all, also after a power cut. For one writer at a time.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)
}
