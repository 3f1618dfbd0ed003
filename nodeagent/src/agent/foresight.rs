//! What of a blob was fetched on a guess, and whether somebody read it then.
//!
//! The guess is good when the entry is read before it is evicted: its `touched` bit says so, as the mount daemon sets it.
//! What the kernel keeps in memory is read there once before. Best effort: these are figures, nothing depends on them.

use super::fetch::Urgency;
use std::sync::atomic::{AtomicU64, Ordering};

/// Entries fetched on a guess that nobody was seen to read yet, and sums of what was.
#[derive(Debug)]
pub(crate) struct Foresight {
    /// A bit per entry.
    open: Box<[AtomicU64]>,
    brought: AtomicU64,
    used: AtomicU64,
}

impl Foresight {
    /// Of a blob of so many entries.
    pub(crate) fn new(entries: usize) -> Self {
        Self {
            open: (0..entries.div_ceil(64)).map(|_| 0.into()).collect(),
            brought: 0.into(),
            used: 0.into(),
        }
    }

    /// An entry of so many bytes arrived.
    pub(crate) fn arrived(&self, entry: u32, len: u64, urgency: Urgency) {
        let (word, bit) = self.place(entry);
        match urgency {
            Urgency::Ahead | Urgency::Follow | Urgency::Others => {
                word.fetch_or(bit, Ordering::Relaxed);
                self.brought.fetch_add(len, Ordering::Relaxed);
            }
            // What a guess brought before is gone unread.
            Urgency::Demand | Urgency::Asked => {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    /// An entry of so many bytes was read.
    pub(crate) fn was_read(&self, entry: u32, len: u64) {
        let (word, bit) = self.place(entry);
        let before = word.fetch_and(!bit, Ordering::Relaxed);
        if before & bit != 0 {
            self.used.fetch_add(len, Ordering::Relaxed);
        }
    }

    /// Entries whose reading was not seen yet.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> + '_ {
        self.open.iter().zip(0_u32..).flat_map(|(word, at)| {
            let word = word.load(Ordering::Relaxed);
            let set = move |bit: &u32| word & (1 << bit) != 0;
            (0..64).filter(set).map(move |bit| at * 64 + bit)
        })
    }

    /// Bytes brought on a guess, and of them those that were read.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (get(&self.brought), get(&self.used))
    }

    fn place(&self, entry: u32) -> (&AtomicU64, u64) {
        (&self.open[entry as usize / 64], 1 << (entry % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_guess_brought_counts_as_used_and_once() {
        let foresight = Foresight::new(130);
        foresight.arrived(3, 10, Urgency::Ahead);
        foresight.arrived(129, 20, Urgency::Follow);
        foresight.arrived(64, 40, Urgency::Demand);
        foresight.arrived(65, 80, Urgency::Asked);
        assert_eq!(foresight.open().collect::<Vec<_>>(), [3, 129]);
        for entry in [129, 129, 64, 65] {
            foresight.was_read(entry, 20);
        }
        assert_eq!(foresight.bytes(), (30, 20));
        assert_eq!(foresight.open().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_was_evicted_unread_is_no_success_when_it_is_read_later() {
        let foresight = Foresight::new(1);
        foresight.arrived(0, 10, Urgency::Ahead);
        foresight.arrived(0, 10, Urgency::Demand);
        foresight.was_read(0, 10);
        assert_eq!(foresight.bytes(), (10, 0));
    }
}
