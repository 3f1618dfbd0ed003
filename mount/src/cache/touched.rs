//! Which entries were read lately: one bit per entry, set by readers and taken
//! back by the evictor (CLOCK, "second chance").
//!
//! It approximates "recently used" twice: a bit is a yes or no since the hand
//! last passed, and a read that the kernel answers from its page cache never
//! gets here. Both err towards evicting what can be fetched again; nothing but
//! speed depends on these bits, so whoever may read may write them.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::present::mask;
use crate::sys::shared_map::SharedWords;

/// The bits; bit `i % 64` of word `i / 64` belongs to entry `i`.
#[derive(Debug)]
pub(super) struct Touched(SharedWords);

impl Touched {
    /// Length of the file for that many entries. Never 0: an empty file cannot
    /// be mapped.
    pub(super) fn file_len(entries: usize) -> u64 {
        entries.div_ceil(64).max(1) as u64 * 8
    }

    pub(super) fn open(file: &File, entries: usize) -> io::Result<Self> {
        SharedWords::writable(file, entries.div_ceil(64).max(1)).map(Self)
    }

    pub(super) fn get(&self, entry: usize) -> bool {
        self.0.words()[entry / 64].load(Ordering::Relaxed) & mask(entry) != 0
    }

    /// Marks entries as read.
    pub(super) fn set(&self, entries: Range<usize>) {
        for entry in entries {
            // Mostly set already, and a load leaves the line shared between CPUs.
            if !self.get(entry) {
                self.0.words()[entry / 64].fetch_or(mask(entry), Ordering::Relaxed);
            }
        }
    }

    pub(super) fn clear(&self, entry: usize) {
        self.0.words()[entry / 64].fetch_and(!mask(entry), Ordering::Relaxed);
    }
}
