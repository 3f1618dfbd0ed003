//! Which 32-byte slots of a tree are used: one bit each.

use std::ops::Range;

use crate::erofs::SLOT;

/// A set of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    words: Vec<u64>,
}

impl Slots {
    /// For a tree of `bytes` bytes; 1/256 of its size.
    pub(crate) fn new(bytes: usize) -> Self {
        let slots = bytes.div_ceil(SLOT as usize);
        Self {
            words: vec![0; slots.div_ceil(64)],
        }
    }

    pub(crate) fn contains(&self, slot: u64) -> bool {
        let word = self.words.get((slot / 64) as usize);
        word.is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Adds one slot; false if it was there (or is outside).
    pub(crate) fn insert(&mut self, slot: u64) -> bool {
        let Some(word) = self.words.get_mut((slot / 64) as usize) else {
            return false;
        };
        let bit = 1 << (slot % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Adds the slots of a byte range; the offset of the first one that was
    /// there already, if any.
    pub(crate) fn claim(&mut self, range: Range<u64>) -> Result<(), u64> {
        let slots = range.start / SLOT..range.end.div_ceil(SLOT);
        for slot in slots {
            if !self.insert(slot) {
                return Err(slot * SLOT);
            }
        }
        Ok(())
    }
}
