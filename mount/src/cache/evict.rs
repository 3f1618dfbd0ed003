//! Taking cold entries out of a blob that is in use, and keeping what the
//! kernel reads by itself.
//!
//! Which entries go is decided by CLOCK: a hand goes round the map; an entry
//! read since it last came by ([`super::touched`]) gets a second chance. How a
//! reader of another process is kept from holes: [`super::present`].

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::retry_on_intr;

use super::files;
use super::seal::Seal;
use super::{BlobFile, CacheError};

/// Bit of the data file's mode that says that the kernel may hold the file. On
/// the file itself, so that it goes with it and no crash loses it.
const PINNED_MODE: u32 = libc::S_ISVTX;
/// Entries taken out under one lock: fillers wait meanwhile.
const BATCH_ENTRIES: usize = 256;
/// What a hole must cover whole to free anything.
const BLOCK: u64 = 4096;

/// What one stretch of the hand's way brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Where to go on; the number of entries at the end of the map.
    pub next: usize,
    /// Bytes of disk freed.
    pub freed: u64,
    /// Entries evicted.
    pub evicted: usize,
    /// Entries that `may_go` kept: they may go later.
    pub kept: usize,
}

impl BlobFile {
    /// Says whether the blob is complete, and if so keeps it so: its data file
    /// may be given to the kernel, which reads holes as zeros. Nothing is evicted
    /// from the file until the next boot, for nobody can tell whether the kernel
    /// still holds it somewhere (an open file on a detached mount); removing the
    /// blob as a whole does not hurt such a holder.
    ///
    /// # Errors
    /// When the mark cannot be made; the blob must not be given away then.
    pub fn pin_if_complete(&self) -> Result<bool, CacheError> {
        let _alone = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        if !self.is_complete() {
            return Ok(false);
        }
        if !self.pinned.load(Ordering::Relaxed) {
            self.set_mode(0o600 | PINNED_MODE)?;
            self.pinned.store(true, Ordering::Relaxed);
        }
        Ok(true)
    }

    /// Whether nothing may be evicted from the blob.
    pub fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Evicts entries that were not read since the hand last passed, from entry
    /// `from` on, until about `wanted` bytes are free or the map ends. `may_go` is
    /// told an entry and whether it was read; it keeps what somebody waits for.
    ///
    /// # Errors
    /// When the file system punches no hole: what was chosen is absent then. If
    /// it never can, nothing more is evicted from the blob; else what was not
    /// freed is, with the next eviction.
    pub fn evict_cold(
        &self,
        from: usize,
        wanted: u64,
        may_go: impl Fn(usize, bool) -> bool,
    ) -> Result<Swept, CacheError> {
        let _alone = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let mut swept = Swept {
            next: self.map.len(),
            ..Swept::default()
        };
        if self.is_pinned() {
            return Ok(swept);
        }
        let chosen = self.choose(from, wanted, may_go, &mut swept);
        if chosen.is_empty() {
            return Ok(swept);
        }
        let before = self.allocated()?;
        self.withdraw(&chosen);
        self.present.raise_generation();
        self.free(&chosen)?;
        swept.evicted = chosen.len();
        swept.freed = before.saturating_sub(self.allocated()?);
        Ok(swept)
    }

    /// The first half of an eviction: a reader that misses what was taken finds
    /// the generation raised, too.
    pub(crate) fn withdraw(&self, entries: &[usize]) {
        self.present.raise_generation();
        for entry in entries {
            self.present.clear(*entry);
        }
    }

    /// The second half, with what the last one left.
    fn free(&self, entries: &[usize]) -> Result<(), CacheError> {
        if self.unfreed.swap(false, Ordering::Relaxed) {
            self.free_absent();
        }
        let runs = entries.chunk_by(|a, b| a + 1 == *b);
        let punched = runs.map(|run| self.punch(run[0], run[run.len() - 1]));
        // All of them, and then the first refusal.
        let refused = punched.fold(Ok(()), Result::and);
        if let Err(error) = &refused {
            let for_good = is_unsupported(error);
            self.pinned.fetch_or(for_good, Ordering::Relaxed);
            self.unfreed.fetch_or(!for_good, Ordering::Relaxed);
        }
        refused
    }

    /// Moves the hand.
    fn choose(
        &self,
        from: usize,
        wanted: u64,
        may_go: impl Fn(usize, bool) -> bool,
        swept: &mut Swept,
    ) -> Vec<usize> {
        let (mut chosen, mut bytes, mut at) = (Vec::new(), 0, from);
        while let Some(entry) = self.present.next_set(at) {
            if bytes >= wanted || chosen.len() == BATCH_ENTRIES {
                swept.next = entry;
                break;
            }
            at = entry + 1;
            let touched = self.touched.get(entry);
            if !may_go(entry, touched) {
                swept.kept += 1;
            } else if touched {
                self.touched.clear(entry);
            } else {
                bytes += u64::from(self.map.get(entry).len);
                chosen.push(entry);
            }
        }
        chosen
    }

    /// Bytes the data file takes on disk.
    fn allocated(&self) -> Result<u64, CacheError> {
        let meta = self.data.metadata();
        meta.map(|meta| meta.blocks() * 512)
            .map_err(|source| CacheError::io("stat", &self.data_path(), source))
    }

    /// Punches a hole for entries `first..=last`, which are absent. Chunks do not
    /// end on blocks: a block shared with a neighbour goes with whoever is the
    /// last to leave it.
    fn punch(&self, first: usize, last: usize) -> Result<(), CacheError> {
        let (mut start, mut end) = (self.map.get(first).offset, self.map.get(last).end());
        let absent = |bytes| self.map.overlapping(bytes).all(|e| !self.present.get(e));
        let (block_start, block_end) = (start / BLOCK * BLOCK, end.next_multiple_of(BLOCK));
        if absent(block_start..start) {
            start = block_start;
        }
        if absent(end..block_end) {
            end = block_end;
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        retry_on_intr(|| fallocate(&self.data, flags, start, end - start))
            .map_err(|errno| CacheError::io("punch a hole into", &self.data_path(), errno.into()))
    }

    /// Frees bytes without a bit: what a predecessor was killed over. Failing
    /// costs space only.
    pub(super) fn free_absent(&self) {
        if self.is_pinned() {
            return;
        }
        let mut first = 0;
        while first < self.map.len() {
            let end = self.present.next_set(first).unwrap_or(self.map.len());
            if first < end && self.has_data(first, end - 1) && self.punch(first, end - 1).is_err() {
                return;
            }
            first = end + 1;
        }
    }

    fn has_data(&self, first: usize, last: usize) -> bool {
        let (start, end) = (self.map.get(first).offset, self.map.get(last).end());
        seek(&self.data, SeekFrom::Data(start)).is_ok_and(|data| data < end)
    }

    /// The pin a predecessor made, unless the kernel that held the file is gone.
    pub(super) fn restore_pin(&mut self) -> Result<(), CacheError> {
        let meta = self.data.metadata();
        let meta = meta.map_err(|source| CacheError::io("stat", &self.data_path(), source))?;
        if meta.mode() & PINNED_MODE == 0 {
            return Ok(());
        }
        let seal = Seal::load(&self.dir.join(files::SEAL));
        let now = self.current_seal(true)?;
        let rebooted = seal.is_some_and(|seal| seal.boot_id != now.boot_id);
        if rebooted {
            self.set_mode(0o600)?;
        }
        *self.pinned.get_mut() = !rebooted;
        Ok(())
    }

    fn set_mode(&self, mode: u32) -> Result<(), CacheError> {
        let mode = std::fs::Permissions::from_mode(mode);
        self.data
            .set_permissions(mode)
            .map_err(|source| CacheError::io("mark", &self.data_path(), source))
    }
}

/// Whether the file system can never punch holes; a full one may, later.
fn is_unsupported(error: &CacheError) -> bool {
    let CacheError::Io { source, .. } = error else {
        return false;
    };
    matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

#[cfg(test)]
mod tests;
