//! Which entries of a blob are in its data file: a bitmap shared between the
//! process that fills and evicts and the one that serves.
//!
//! ```text
//! word 0   "LAMPRES2"
//! word 1   generation: grows twice with every eviction
//! word 2.. one bit per entry; whole 64-bit little-endian words
//! ```
//!
//! Eviction and reading go without a lock between processes, as in a seqlock.
//! The evictor clears bits, *then* raises the generation, *then* punches holes.
//! A reader takes the generation, *then* looks at the bits, *then* reads, *then*
//! looks at the generation again. If a read met a hole, the punch came before
//! the end of the read, so the second look sees the generation raised. If both
//! looks agree, then the first one came after that raise, too, and so after the
//! bits were cleared: bits seen set after that were set by a refill, which wrote
//! its bytes after the punch (the evictor keeps fillers out meanwhile).
//!
//! The generation is raised before bits are cleared, too: who sees a bit missing
//! and *then* the generation as it was before the bit was set knows that it was
//! never set, not that it was taken again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::sys::shared_map::SharedWords;

/// First word of the file. An older file is shorter, so it is replaced anyway.
const MAGIC: u64 = u64::from_le_bytes(*b"LAMPRES2");
/// Words before the bits.
const HEADER_WORDS: usize = 2;
const GENERATION: usize = 1;

/// The bitmap. Bit `i % 64` of the word `i / 64` after the header belongs to
/// entry `i`.
#[derive(Debug)]
pub(super) struct Present {
    words: SharedWords,
    entries: usize,
}

impl Present {
    /// Length of the file for that many entries.
    pub(super) fn file_len(entries: usize) -> u64 {
        Self::words_for(entries) as u64 * 8
    }

    fn words_for(entries: usize) -> usize {
        HEADER_WORDS + entries.div_ceil(64)
    }

    /// Maps the file for reading; `None` if it is no bitmap of this version.
    pub(super) fn open(file: &File, entries: usize) -> io::Result<Option<Self>> {
        let words = SharedWords::read_only(file, Self::words_for(entries))?;
        let found = Self { words, entries };
        Ok((found.header(0).load(Ordering::Relaxed) == MAGIC.to_le()).then_some(found))
    }

    /// Maps the file for reading and writing. A fresh file (zeros) becomes an
    /// empty bitmap; `None` if it is neither that nor one of this version.
    pub(super) fn open_writable(file: &File, entries: usize) -> io::Result<Option<Self>> {
        let words = SharedWords::writable(file, Self::words_for(entries))?;
        let found = Self { words, entries };
        let magic = found.header(0).load(Ordering::Relaxed);
        if magic == 0 && found.count() == 0 {
            found.header(0).store(MAGIC.to_le(), Ordering::Release);
        } else if magic != MAGIC.to_le() {
            return Ok(None);
        }
        Ok(Some(found))
    }

    fn header(&self, word: usize) -> &AtomicU64 {
        &self.words.words()[word]
    }

    fn bits(&self) -> &[AtomicU64] {
        &self.words.words()[HEADER_WORDS..]
    }

    /// Acquire: whoever sees the bit sees the bytes written before it was set.
    pub(super) fn get(&self, entry: usize) -> bool {
        let word = self.bits()[entry / 64].load(Ordering::Acquire);
        word & mask(entry) != 0
    }

    /// Release: see [`Present::get`]. Only on a bitmap opened for writing.
    pub(super) fn set(&self, entry: usize) {
        self.bits()[entry / 64].fetch_or(mask(entry), Ordering::Release);
    }

    pub(super) fn clear(&self, entry: usize) {
        self.bits()[entry / 64].fetch_and(!mask(entry), Ordering::AcqRel);
    }

    /// Clears the bits that belong to no entry (a damaged file may have some).
    pub(super) fn clear_padding(&self) {
        for bit in self.entries..self.bits().len() * 64 {
            self.clear(bit);
        }
    }

    /// The generation, to be taken before the bits are looked at.
    pub(super) fn generation(&self) -> u64 {
        self.header(GENERATION).load(Ordering::SeqCst)
    }

    /// The generation, to be compared after bytes were read.
    pub(super) fn generation_after_read(&self) -> u64 {
        // Loads before the fence (the bytes read) stay before the one after it.
        fence(Ordering::SeqCst);
        self.generation()
    }

    /// Raises the generation: before bits are cleared, and between that and the
    /// punching of holes.
    pub(super) fn raise_generation(&self) {
        self.header(GENERATION).fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    pub(super) fn count(&self) -> usize {
        self.bits()
            .iter()
            .map(|word| word.load(Ordering::Acquire).count_ones() as usize)
            .sum()
    }

    /// The first present entry at or after `from`.
    pub(super) fn next_set(&self, from: usize) -> Option<usize> {
        let mut entry = from;
        while entry < self.entries {
            let word = u64::from_le(self.bits()[entry / 64].load(Ordering::Acquire));
            let rest = word >> (entry % 64);
            if rest != 0 {
                let found = entry + rest.trailing_zeros() as usize;
                return (found < self.entries).then_some(found);
            }
            entry = (entry / 64 + 1) * 64;
        }
        None
    }

    /// The smallest range of `within` that holds every missing entry of it.
    pub(super) fn missing(&self, within: Range<usize>) -> Option<Range<usize>> {
        let first = within.clone().find(|entry| !self.get(*entry))?;
        let last = within.rev().find(|entry| !self.get(*entry))?;
        // `last` may have been filled since `first` was seen missing.
        Some(first..last.max(first) + 1)
    }
}

/// The bit of an entry in its word. The file is little-endian whatever the
/// machine is.
pub(super) fn mask(entry: usize) -> u64 {
    (1u64 << (entry % 64)).to_le()
}
