//! Which entries of a blob are in its data file: a bitmap shared between the
//! process that fills and the one that serves.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::sys::shared_map::SharedWords;

/// The bitmap. Bit `i % 64` of word `i / 64` belongs to entry `i`.
#[derive(Debug)]
pub(super) struct Present {
    words: SharedWords,
    entries: usize,
}

impl Present {
    /// Length of the file for that many entries. Never 0: an empty file cannot
    /// be mapped.
    pub(super) fn file_len(entries: usize) -> u64 {
        entries.div_ceil(64).max(1) as u64 * 8
    }

    pub(super) fn open(file: &File, entries: usize, write: bool) -> io::Result<Self> {
        let words = entries.div_ceil(64).max(1);
        let words = if write {
            SharedWords::writable(file, words)?
        } else {
            SharedWords::read_only(file, words)?
        };
        Ok(Self { words, entries })
    }

    /// Acquire: whoever sees the bit sees the bytes written before it was set.
    pub(super) fn get(&self, entry: usize) -> bool {
        let word = self.words.words()[entry / 64].load(Ordering::Acquire);
        word & mask(entry) != 0
    }

    /// Release: see [`Present::get`]. Only on a bitmap opened for writing.
    pub(super) fn set(&self, entry: usize) {
        self.words.words()[entry / 64].fetch_or(mask(entry), Ordering::Release);
    }

    pub(super) fn clear(&self, entry: usize) {
        self.words.words()[entry / 64].fetch_and(!mask(entry), Ordering::AcqRel);
    }

    /// Clears the bits that belong to no entry (a damaged file may have some).
    pub(super) fn clear_padding(&self) {
        for bit in self.entries..self.words.words().len() * 64 {
            self.clear(bit);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.words
            .words()
            .iter()
            .map(|word| word.load(Ordering::Acquire).count_ones() as usize)
            .sum()
    }

    /// The smallest range of `within` that holds every missing entry of it.
    pub(super) fn missing(&self, within: Range<usize>) -> Option<Range<usize>> {
        let first = within.clone().find(|entry| !self.get(*entry))?;
        let last = within.rev().find(|entry| !self.get(*entry))?;
        // `last` may have been filled since `first` was seen missing.
        Some(first..last.max(first) + 1)
    }
}

fn mask(entry: usize) -> u64 {
    // The file is little-endian whatever the machine is.
    (1u64 << (entry % 64)).to_le()
}
