//! The seal: how a file was left, so that the next opener knows whether what
//! was found out about it still holds: of a blob's data file, that its bitmap
//! can be believed; of a flist's copy, that it was checked.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::CacheError;
use super::files;

/// What is written to a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// `true`: nobody writes the file and it looks as below. `false`: it was
    /// opened for writing and not closed yet.
    pub(super) closed: bool,
    pub(super) boot_id: String,
    pub(super) ino: u64,
    pub(super) size: u64,
    pub(super) mtime_ns: i128,
    pub(super) ctime_ns: i128,
}

impl Seal {
    pub(super) fn of(data: &File, closed: bool) -> io::Result<Self> {
        let meta = data.metadata()?;
        Ok(Self {
            closed,
            boot_id: boot_id()?,
            ino: meta.ino(),
            size: meta.len(),
            mtime_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            ctime_ns: i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
        })
    }

    /// Of a file that nobody writes any more; it must be a regular one.
    ///
    /// # Errors
    /// When it is not, or cannot be looked at.
    pub fn of_closed(path: &Path) -> Result<Self, CacheError> {
        let file = files::open_regular(path, false)?;
        Self::of(&file, true).map_err(|source| CacheError::io("stat", path, source))
    }

    /// Reads a seal; anything unreadable is no seal.
    pub fn load(path: &Path) -> Option<Self> {
        use std::io::Read;
        let mut text = String::new();
        files::open_regular(path, false)
            .ok()?
            .take(4096)
            .read_to_string(&mut text)
            .ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Puts it in the place of whatever has this name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), CacheError> {
        let bytes = serde_json::to_vec(self).expect("a seal is plain data");
        files::replace_bytes(path, &bytes)
    }

    /// Left alone since a clean close in this boot.
    pub fn proves_untouched(&self, now: &Self) -> bool {
        self.closed
            && Self {
                closed: true,
                ..now.clone()
            } == *self
    }

    /// Same file, same boot: whatever our own writer did to it before it was
    /// killed is in the page cache, data before bits.
    pub(super) fn same_life(&self, now: &Self) -> bool {
        self.boot_id == now.boot_id && self.ino == now.ino && self.size == now.size
    }
}

/// Returns when any later change of the file must show in its times. They come from a clock that ticks
/// every few milliseconds (before Linux 6.13 for every file): what is changed within the tick of the
/// last change looks unchanged.
///
/// # Errors
/// What stat says.
pub fn wait_for_next_tick(file: &File) -> io::Result<()> {
    /// Longer than the longest tick, 10 ms at 100 Hz; a file from the future is not waited for.
    const PATIENCE: Duration = Duration::from_millis(50);
    let end = Instant::now() + PATIENCE;
    let meta = file.metadata()?;
    let changed = (meta.ctime(), meta.ctime_nsec());
    loop {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec) > changed || Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}
