//! Cold data of blobs in use: a hand that goes round all of them.
//!
//! CLOCK, or "second chance" (Corbató, 1968): an entry that was read since the hand last passed stays
//! and loses its mark, one that was not goes. It comes close to "least recently used" without any
//! work on reads. The hand stops where enough was freed and goes on from there.

use lamina_mount::cache::{CacheError, Swept};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Press {
    /// Not what a reader waits for.
    Gently,
    /// That, too: it will ask again. For readers that keep each other from going on, each holding a
    /// part of what it needs.
    Hard,
}

/// A blob in use whose entries may go one by one.
pub(crate) trait Cold: Send + Sync + Debug {
    /// Frees about `wanted` bytes from entry `from` on: see `BlobFile::evict_cold`.
    fn sweep(&self, from: usize, wanted: u64, press: Press) -> Result<Swept, CacheError>;

    /// How many entries there are.
    fn len(&self) -> usize;
}

/// The hand and what it goes round.
#[derive(Debug, Default)]
pub(super) struct Clock(Mutex<Hand>);

#[derive(Debug, Default)]
struct Hand {
    blobs: Vec<Weak<dyn Cold>>,
    blob: usize,
    entry: usize,
}

/// What an eviction brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) freed: u64,
    pub(super) entries: usize,
    /// Entries that stayed because somebody waits for them: they may go later.
    pub(super) kept: usize,
}

impl Clock {
    pub(super) fn add(&self, blob: &Arc<dyn Cold>) {
        self.hand().blobs.push(Arc::downgrade(blob));
    }

    /// Frees `wanted` bytes if at all possible: in two rounds every entry that may go has gone.
    pub(super) fn evict(&self, wanted: u64, press: Press) -> Evicted {
        let mut hand = self.hand();
        hand.forget_closed();
        let mut evicted = Evicted::default();
        let mut blobs_left = hand.blobs.len() * 2 + 1;
        while evicted.freed < wanted && blobs_left > 0 {
            let Some(blob) = hand.current() else { break };
            match blob.sweep(hand.entry, wanted - evicted.freed, press) {
                Ok(swept) => {
                    evicted.freed += swept.freed;
                    evicted.entries += swept.evicted;
                    evicted.kept += swept.kept;
                    hand.entry = swept.next;
                }
                Err(error) => {
                    tracing::warn!(error = crate::chain(&error), "evict cold data");
                    hand.entry = blob.len();
                }
            }
            if hand.entry >= blob.len() {
                hand.next_blob();
                blobs_left -= 1;
            }
        }
        evicted
    }

    fn hand(&self) -> std::sync::MutexGuard<'_, Hand> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand {
    fn forget_closed(&mut self) {
        let before = self.blobs.len();
        self.blobs.retain(|blob| blob.strong_count() > 0);
        if self.blobs.len() != before {
            self.blob = self.blob.min(self.blobs.len());
            self.entry = 0;
        }
    }

    /// The blob the hand is at, unless there is none.
    fn current(&mut self) -> Option<Arc<dyn Cold>> {
        for _ in 0..=self.blobs.len() {
            match self.blobs.get(self.blob).map(Weak::upgrade) {
                Some(Some(blob)) => return Some(blob),
                _ => self.next_blob(),
            }
        }
        None
    }

    fn next_blob(&mut self) {
        self.entry = 0;
        self.blob = if self.blob + 1 < self.blobs.len() {
            self.blob + 1
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Entries of one byte: present and touched or not.
    #[derive(Debug)]
    struct Fake(Mutex<Vec<(bool, bool)>>);

    impl Fake {
        fn blob(touched: &[bool]) -> Arc<dyn Cold> {
            let entries = touched.iter().map(|touched| (true, *touched)).collect();
            Arc::new(Self(Mutex::new(entries)))
        }
    }

    impl Cold for Fake {
        fn sweep(&self, from: usize, wanted: u64, _: Press) -> Result<Swept, CacheError> {
            let mut entries = self.0.lock().unwrap();
            let mut swept = Swept::default();
            for (at, (present, touched)) in entries.iter_mut().enumerate().skip(from) {
                if swept.freed == wanted {
                    swept.next = at;
                    return Ok(swept);
                }
                if !*present {
                    continue;
                }
                if !std::mem::take(touched) {
                    *present = false;
                    swept.freed += 1;
                    swept.evicted += 1;
                }
            }
            swept.next = entries.len();
            Ok(swept)
        }

        fn len(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    fn clock_of(blobs: &[Arc<dyn Cold>]) -> Clock {
        let clock = Clock::default();
        for blob in blobs {
            clock.add(blob);
        }
        clock
    }

    #[test]
    fn the_hand_goes_round_all_blobs_and_takes_the_untouched_first() {
        let blobs = [Fake::blob(&[true, false, true]), Fake::blob(&[false, true])];
        let clock = clock_of(&blobs);
        let freed = |wanted| clock.evict(wanted, Press::Gently).freed;
        assert_eq!(freed(2), 2, "the two untouched ones");
        assert_eq!(freed(1), 1);
        assert_eq!(freed(10), 2, "the rest, and then there is nothing");
        assert_eq!(freed(1), 0);
    }

    #[test]
    fn everything_goes_in_one_call_if_it_must() {
        let blobs = [Fake::blob(&[true; 100]), Fake::blob(&[true; 100])];
        let clock = clock_of(&blobs);
        clock.evict(50, Press::Gently);
        assert_eq!(clock.evict(1000, Press::Gently).freed, 150);
    }

    #[test]
    fn closed_blobs_are_forgotten() {
        let (kept, closed) = (Fake::blob(&[false; 3]), Fake::blob(&[false; 3]));
        let clock = Clock::default();
        clock.add(&closed);
        clock.add(&kept);
        clock.evict(1, Press::Gently);
        drop(closed);
        assert_eq!(clock.evict(10, Press::Gently).freed, 3);
        drop(kept);
        assert_eq!(clock.evict(1, Press::Gently), Evicted::default());
    }
}
