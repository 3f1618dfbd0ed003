//! One agent per cache: the lock `<cache>/lock`.
//!
//! An instance is named by its run directory and its cache, so two run directories can mean the same
//! cache. Two agents would evict what the other one's mounts read. The kernel gives the lock up when
//! its holder has died; the file says who that is.

use crate::rundir::{self, RunDirError};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const NAME: &str = "lock";
/// Between two looks at a lock that another instance holds.
const RETRY: Duration = Duration::from_millis(20);

/// A cache cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheLockError {
    /// Another instance uses it.
    #[error(
        "the cache {} is in use by the instance {}: unmount what it has mounted (`lamina mounts --run-dir` lists it), use its run directory, or use another --cache",
        .cache.display(), .by.display()
    )]
    InUse {
        /// The cache directory.
        cache: PathBuf,
        /// The instance's directory.
        by: PathBuf,
    },
    /// The lock cannot be taken.
    #[error("lock the cache {}", .cache.display())]
    Lock {
        /// The cache directory.
        cache: PathBuf,
        /// Why.
        source: RunDirError,
    },
    /// The system refused.
    #[error("prepare the cache {}", .cache.display())]
    Io {
        /// The cache directory.
        cache: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Takes the lock for the agent of `instance`, for as long as the file returned lives; waits for a
/// holder that is ending or was killed.
///
/// # Errors
/// [`CacheLockError::InUse`] when the wait is over; the system's refusals.
pub fn take(cache: &Path, instance: &Path, patience: Duration) -> Result<File, CacheLockError> {
    let failed = |source| CacheLockError::Io {
        cache: cache.to_owned(),
        source,
    };
    std::fs::create_dir_all(cache).map_err(failed)?;
    let mut file = match rundir::lock(cache, NAME, patience) {
        Ok(file) => file,
        Err(RunDirError::Locked { path }) => {
            return Err(match owner(cache) {
                Some(by) => in_use(cache, by),
                None => CacheLockError::Lock {
                    cache: cache.to_owned(),
                    source: RunDirError::Locked { path },
                },
            });
        }
        Err(source) => {
            return Err(CacheLockError::Lock {
                cache: cache.to_owned(),
                source,
            });
        }
    };
    file.set_len(0)
        .and_then(|()| file.write_all(instance.as_os_str().as_bytes()))
        .map_err(failed)?;
    Ok(file)
}

/// Waits until no other instance than `instance` uses the cache: before one is started for it.
///
/// # Errors
/// [`CacheLockError::InUse`] when the wait is over.
pub fn check(cache: &Path, instance: &Path, patience: Duration) -> Result<(), CacheLockError> {
    let deadline = Instant::now() + patience;
    loop {
        match held(cache).then(|| owner(cache)).flatten() {
            Some(by) if by != instance => {
                if Instant::now() >= deadline {
                    return Err(in_use(cache, by));
                }
            }
            _ => return Ok(()),
        }
        std::thread::sleep(RETRY);
    }
}

fn in_use(cache: &Path, by: PathBuf) -> CacheLockError {
    let cache = cache.to_owned();
    CacheLockError::InUse { cache, by }
}

fn open(cache: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(cache.join(NAME))
}

/// Whether somebody has the lock. Trying it for a moment is harmless: who wants it tries again.
fn held(cache: &Path) -> bool {
    let tried = open(cache).map(|file| flock(&file, FlockOperation::NonBlockingLockShared));
    matches!(tried, Ok(Err(rustix::io::Errno::WOULDBLOCK)))
}

/// Who took the lock last.
fn owner(cache: &Path) -> Option<PathBuf> {
    /// Longer than any path.
    const LEN_MAX: u64 = 8192;
    let mut name = Vec::new();
    open(cache)
        .ok()?
        .take(LEN_MAX)
        .read_to_end(&mut name)
        .ok()?;
    (!name.is_empty()).then(|| std::ffi::OsString::from_vec(name).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_instance_is_told_who_uses_the_cache() {
        let cache = tempfile::tempdir().unwrap();
        let [first, second] = ["/run/first", "/run/second"].map(Path::new);
        let lock = take(cache.path(), first, Duration::ZERO).unwrap();
        let said = take(cache.path(), second, Duration::ZERO).unwrap_err();
        assert!(matches!(&said, CacheLockError::InUse { by, .. } if by == first));
        assert!(said.to_string().contains(cache.path().to_str().unwrap()));
        check(cache.path(), first, Duration::ZERO).expect("its own");
        let said = check(cache.path(), second, Duration::ZERO).unwrap_err();
        assert!(matches!(said, CacheLockError::InUse { .. }));
        drop(lock);
        check(cache.path(), second, Duration::ZERO).expect("free");
        let _lock = take(cache.path(), second, Duration::ZERO).unwrap();
        assert_eq!(owner(cache.path()).unwrap(), second);
    }

    #[test]
    fn a_lock_that_is_being_given_up_is_waited_for() {
        let cache = tempfile::tempdir().unwrap();
        let instance = Path::new("/run/instance");
        let lock = take(cache.path(), instance, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let patient = || take(cache.path(), instance, Duration::from_mins(1));
            let waiting = scope.spawn(patient);
            drop(lock);
            waiting.join().unwrap().unwrap();
        });
    }
}
