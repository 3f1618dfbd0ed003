//! Places for sandboxes on this machine: a number each, which nobody else has meanwhile.
//!
//! ```text
//!   DIR/<number>/lock     held (flock) by the supervisor of the sandbox that has it
//!               /…        whatever it needs; left there by one that was killed, until the next sweep
//! ```
//!
//! The number gives a sandbox its user ids and its cgroup's name, so what a killed supervisor left can be found
//! and taken down by whoever comes next.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lamina_flist::ChunkId;
use rustix::fs::{FlockOperation, flock};

use crate::ids::{IdRange, SANDBOXES_MAX};

/// No place could be had.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// Too many sandboxes run.
    #[error("{SANDBOXES_MAX} sandboxes run already, no more can")]
    Full,
    /// The directory cannot be used.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> SlotError + 'a {
    move |source| SlotError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// A place; given back, without what is in it, when this is dropped.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    ids: IdRange,
    dir: PathBuf,
    _lock: File,
}

impl Slot {
    /// Its number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The user ids that go with it.
    pub fn ids(&self) -> IdRange {
        self.ids
    }

    /// What its cgroup is called: directories of slots may share a machine.
    pub fn cgroup_name(&self) -> String {
        let home = self.dir.parent().unwrap_or(&self.dir);
        let home = ChunkId::of(home.as_os_str().as_encoded_bytes()).to_string();
        format!("lamina-{}-{}", &home[..8], self.number)
    }

    /// A directory of its own.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Not what is below directories: a mount may have stayed there, and its files are not ours.
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name() != "lock") {
            let _ = std::fs::remove_dir(entry.path());
        }
        let _ = std::fs::remove_file(self.dir.join("lock"));
        // It stays, to be swept, if something is left in it.
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// Takes the first free place below `dir`.
///
/// # Errors
/// [`SlotError`].
pub fn take(dir: &Path) -> Result<Slot, SlotError> {
    make_dir(dir)?;
    for number in 0..SANDBOXES_MAX {
        if let Some(slot) = try_take(dir, number)? {
            return Ok(slot);
        }
    }
    Err(SlotError::Full)
}

/// Places whose supervisors are gone, to be taken down and dropped.
///
/// # Errors
/// When `dir` cannot be read.
pub fn abandoned(dir: &Path) -> Result<Vec<Slot>, SlotError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed("reading", dir))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.parse().ok());
    let mut found = Vec::new();
    for number in numbers {
        found.extend(try_take(dir, number)?);
    }
    Ok(found)
}

fn make_dir(dir: &Path) -> Result<(), SlotError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed("making", dir))
}

/// `None` when somebody has it.
fn try_take(home: &Path, number: u32) -> Result<Option<Slot>, SlotError> {
    let Some(ids) = IdRange::of_slot(number) else {
        return Ok(None);
    };
    let dir = home.join(number.to_string());
    make_dir(&dir)?;
    let path = dir.join("lock");
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let lock = match opened {
        // Given back at this moment; the next number will do.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("opening", &path))?,
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(failed("locking", &path)(errno.into())),
    }
    // A lock on a file that was removed meanwhile keeps nobody out.
    let there = std::fs::symlink_metadata(&path).is_ok_and(|there| {
        lock.metadata()
            .is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    });
    Ok(there.then_some(Slot {
        number,
        ids,
        dir,
        _lock: lock,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_had_by_one_at_a_time_and_given_back() {
        let home = tempfile::tempdir().unwrap();
        let first = take(home.path()).unwrap();
        let second = take(home.path()).unwrap();
        assert_eq!((first.number(), second.number()), (0, 1));
        assert!(abandoned(home.path()).unwrap().is_empty());
        drop(first);
        assert_eq!(take(home.path()).unwrap().number(), 0);
        drop(second);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_supervisor_left_is_found() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("7/lower")).unwrap();
        let left = abandoned(home.path()).unwrap();
        assert_eq!(left.iter().map(Slot::number).collect::<Vec<_>>(), [7]);
        drop(left);
        assert!(!home.path().join("7").exists());
    }
}
