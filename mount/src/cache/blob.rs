//! The writing side of a cached blob: open or make it, write verified entries,
//! seal it.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use lamina_flist::{BlobId, BlobMap, ChunkId};
use memmap2::Mmap;

use super::CacheError;
use super::files;
use super::opening::{open_map, open_pair, open_touched};
use super::present::Present;
use super::seal::{Seal, wait_for_next_tick};
use super::touched::Touched;

/// Whether bits set by a writer that did not close the blob are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Verify every entry unless the blob was closed cleanly.
    Closed,
    /// Also believe a writer that was killed in this boot: for blobs that are
    /// mounted right now, whose readers must not wait for a verification.
    ///
    /// No kill can leave a bit that is not true, so nothing is verified again
    /// later either:
    /// - bytes are hashed in memory, written to the page cache, then marked;
    ///   the page cache outlives the process, so a bit that is set has its
    ///   bytes wherever the kill fell;
    /// - eviction clears bits before it punches; a kill between the two leaves
    ///   bytes without a bit, which opening frees, and opening raises the
    ///   generation, so a reader that saw the old bits looks again;
    /// - only this boot's unclosed seal of the same file counts, and it is
    ///   written after whatever was found at opening was verified: a kill in
    ///   the middle of a verification leaves the old seal, which proves nothing;
    /// - the successor waits for the lock on `data`, which the kernel gives up
    ///   only after the last system call of the killed process ended.
    ///
    /// What this does not see is somebody else writing to the files while they
    /// are mounted, and a disk that loses pages it took (it says so in the
    /// kernel's log); both are found by the next opening with [`Trust::Closed`]
    /// after a reboot or a change of the file.
    SameBoot,
}

/// What opening found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// Files that were missing or wrong and were replaced.
    pub replaced: usize,
    /// Entries whose bytes were read and hashed again.
    pub verified: usize,
    /// Entries found bad, now absent.
    pub cleared: usize,
}

/// A blob opened for filling. One per blob and machine (locked).
#[derive(Debug)]
pub struct BlobFile {
    pub(super) id: BlobId,
    pub(super) dir: PathBuf,
    pub(super) map: BlobMap<Mmap>,
    pub(super) data: File,
    pub(super) present: Present,
    pub(super) touched: Touched,
    /// Nothing may be evicted: see [`BlobFile::pin_if_complete`].
    pub(super) pinned: AtomicBool,
    /// Some of what was evicted still takes space.
    pub(super) unfreed: AtomicBool,
    /// Shared by who fills or reads, exclusive for who evicts: a hole is never
    /// punched into what is being written.
    pub(super) turn: RwLock<()>,
    pub(super) report: OpenReport,
}

impl BlobFile {
    /// Opens the blob in `dir`, creating or repairing whatever is not right.
    /// `map_bytes` is asked for only if the map on disk is not the blob's.
    ///
    /// # Errors
    /// [`CacheError::Busy`] if another process has it open for writing,
    /// [`CacheError::WrongMap`] if the bytes offered are not the blob's map,
    /// [`CacheError::Full`] and other refusals of the file system.
    pub fn open(
        dir: &Path,
        id: &BlobId,
        map_bytes: impl FnOnce() -> Vec<u8>,
        trust: Trust,
    ) -> Result<Self, CacheError> {
        files::ensure_dir(dir)?;
        let mut report = OpenReport::default();
        let map = open_map(dir, id, map_bytes, &mut report)?;
        let (data, present, is_fresh) = open_pair(dir, id, &map, &mut report)?;
        let touched = open_touched(dir, map.len())?;
        let mut blob = Self {
            id: *id,
            dir: dir.to_owned(),
            map,
            data,
            present,
            touched,
            pinned: AtomicBool::new(false),
            unfreed: AtomicBool::new(false),
            turn: RwLock::default(),
            report,
        };
        // A predecessor may have been killed between clearing bits and saying so.
        blob.present.raise_generation();
        if !is_fresh {
            let trusted = blob.is_trusted(trust)?;
            blob.restore_pin()?;
            if !trusted {
                blob.verify_present()?;
            }
            blob.free_absent();
        }
        blob.note_opened()?;
        Ok(blob)
    }

    /// As [`BlobFile::open`]; waits up to `patience` for a process that has the blob open for writing.
    ///
    /// # Errors
    /// As there.
    pub fn open_waiting(
        dir: &Path,
        id: &BlobId,
        map_bytes: impl Fn() -> Vec<u8>,
        trust: Trust,
        patience: Duration,
    ) -> Result<Self, CacheError> {
        /// Long beside a look, short beside a mount.
        const RETRY: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + patience;
        loop {
            match Self::open(dir, id, &map_bytes, trust) {
                Err(CacheError::Busy(_)) if Instant::now() < deadline => std::thread::sleep(RETRY),
                opened => return opened,
            }
        }
    }

    /// The blob's id.
    pub fn id(&self) -> &BlobId {
        &self.id
    }

    /// The blob's map.
    pub fn map(&self) -> &BlobMap<Mmap> {
        &self.map
    }

    /// What opening found.
    pub fn report(&self) -> OpenReport {
        self.report
    }

    /// Whether every entry of the range is in the data file.
    pub fn is_present(&self, mut entries: Range<usize>) -> bool {
        entries.end <= self.map.len() && entries.all(|entry| self.present.get(entry))
    }

    /// The smallest range of `within` that holds every missing entry of it.
    pub fn missing(&self, within: Range<usize>) -> Option<Range<usize>> {
        self.present
            .missing(within.start..within.end.min(self.map.len()))
    }

    /// How many entries are in the data file.
    pub fn present_count(&self) -> usize {
        self.present.count()
    }

    /// Whether nothing is missing: the data file may be given to the kernel.
    pub fn is_complete(&self) -> bool {
        self.present.count() == self.map.len()
    }

    /// Whether an entry was read since the evictor last passed it.
    pub fn is_touched(&self, entry: usize) -> bool {
        self.touched.get(entry)
    }

    /// Verifies `plain` against entry `entry` of the map, writes it, then marks
    /// it present. Says whether it was new. Safe from several threads.
    ///
    /// # Errors
    /// [`CacheError::Length`], [`CacheError::Mismatch`], [`CacheError::Full`]:
    /// nothing is marked present then.
    pub fn write_entry(&self, entry: usize, plain: &[u8]) -> Result<bool, CacheError> {
        if entry >= self.map.len() {
            let blob = self.id;
            return Err(CacheError::NoEntry { blob, entry });
        }
        if self.present.get(entry) {
            return Ok(false);
        }
        let expected = self.map.get(entry);
        if plain.len() != expected.len as usize {
            return Err(CacheError::Length {
                blob: self.id,
                entry,
                expected: expected.len as usize,
                got: plain.len(),
            });
        }
        if ChunkId::of(plain) != expected.id {
            let blob = self.id;
            return Err(CacheError::Mismatch { blob, entry });
        }
        let _filling = self.shared();
        if self.present.get(entry) {
            return Ok(false);
        }
        self.data
            .write_all_at(plain, expected.offset)
            .map_err(|source| CacheError::io("write", &self.data_path(), source))?;
        self.present.set(entry);
        Ok(true)
    }

    /// Reads bytes that are present (gaps between entries are zeros).
    ///
    /// # Errors
    /// [`CacheError::Absent`] if an entry of the range is missing or the range
    /// ends past the blob.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), CacheError> {
        let end = offset.saturating_add(buffer.len() as u64);
        let _reading = self.shared();
        let whole = end <= self.map.blob_len();
        if !whole || !self.is_present(self.map.overlapping(offset..end)) {
            return Err(CacheError::Absent {
                blob: self.id,
                start: offset,
                end,
            });
        }
        self.data
            .read_exact_at(buffer, offset)
            .map_err(|source| CacheError::io("read", &self.data_path(), source))
    }

    /// Says that the blob is not written any more, so that the next opener believes the bitmap. What is
    /// written all the same breaks the seal.
    ///
    /// # Errors
    /// When the seal cannot be written; the blob is then verified on next use.
    pub fn seal(&self) -> Result<(), CacheError> {
        wait_for_next_tick(&self.data)
            .map_err(|source| CacheError::io("stat", &self.data_path(), source))?;
        self.write_seal(true)
    }

    pub(super) fn data_path(&self) -> PathBuf {
        self.dir.join(files::DATA)
    }

    /// A panic under this lock leaves nothing half done: bits and bytes are
    /// changed in an order that is right at every moment.
    fn shared(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current_seal(&self, closed: bool) -> Result<Seal, CacheError> {
        Seal::of(&self.data, closed)
            .map_err(|source| CacheError::io("stat", &self.data_path(), source))
    }

    fn write_seal(&self, closed: bool) -> Result<(), CacheError> {
        self.current_seal(closed)?
            .store(&self.dir.join(files::SEAL))
    }

    /// Says that the blob is open. On a full disk an older seal of this boot may stay: it proves nothing
    /// once something is written. One of another boot may not, for it says that no kernel has the file.
    fn note_opened(&self) -> Result<(), CacheError> {
        let noted = self.write_seal(false);
        let Err(CacheError::Full { .. }) = noted else {
            return noted;
        };
        let now = self.current_seal(false)?;
        let before = Seal::load(&self.dir.join(files::SEAL));
        match before.is_some_and(|seal| seal.boot_id == now.boot_id) {
            true => Ok(()),
            false => noted,
        }
    }

    fn is_trusted(&self, trust: Trust) -> Result<bool, CacheError> {
        let now = self.current_seal(true)?;
        let Some(seal) = Seal::load(&self.dir.join(files::SEAL)) else {
            return Ok(false);
        };
        let open_in_this_boot = trust == Trust::SameBoot && !seal.closed && seal.same_life(&now);
        Ok(seal.proves_untouched(&now) || open_in_this_boot)
    }
}
