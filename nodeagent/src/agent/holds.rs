//! Entries of one blob that readers wait for: not to be evicted before they were read.
//!
//! A hold begins with a demand and lasts until its answer, and from then on until the entry was read
//! (its `touched` bit says so) or for a moment if nobody reads it. Without that moment a full cache
//! could drop what it just fetched before the reader gets to it, for ever.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// From the answer to the read: the mount daemon's thread has to run, on a loaded machine.
const LINGER: Duration = Duration::from_secs(1);

/// The holds of a blob.
#[derive(Debug, Default)]
pub(crate) struct Holds(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<u32, Count>,
    /// Answered demands, oldest first, and when they stop to count.
    answered: VecDeque<(Instant, Range<u32>)>,
}

#[derive(Debug, Default)]
struct Count {
    waiting: u32,
    answered: u32,
}

/// A demand under way.
#[derive(Debug)]
pub(crate) struct Hold<'a> {
    holds: &'a Holds,
    entries: Range<u32>,
}

impl Holds {
    /// Holds entries until the value returned is dropped, and a moment longer.
    pub(crate) fn begin(&self, entries: Range<u32>) -> Hold<'_> {
        let mut state = self.state();
        state.forget_answered(Instant::now());
        for entry in entries.clone() {
            state.entries.entry(entry).or_default().waiting += 1;
        }
        Hold {
            holds: self,
            entries,
        }
    }

    /// Whether an entry may be evicted, given whether it was read since it came or the last call. What
    /// was read is not held any more: the evictor takes the mark away, and asks again.
    pub(crate) fn may_go(&self, entry: usize, touched: bool) -> bool {
        let mut state = self.state();
        let entry = entry as u32;
        match state.entries.get(&entry) {
            None => true,
            Some(count) if count.waiting == 0 && touched => {
                state.entries.remove(&entry);
                true
            }
            Some(_) => false,
        }
    }

    /// Forgets what was answered long ago.
    pub(crate) fn tidy(&self) {
        self.state().forget_answered(Instant::now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        for entry in self.entries.clone() {
            let count = state.entries.entry(entry).or_default();
            count.waiting -= 1;
            count.answered += 1;
        }
        let until = Instant::now() + LINGER;
        state.answered.push_back((until, self.entries.clone()));
    }
}

impl State {
    fn forget_answered(&mut self, now: Instant) {
        while self
            .answered
            .front()
            .is_some_and(|(until, _)| *until <= now)
        {
            let Some((_, entries)) = self.answered.pop_front() else {
                break;
            };
            for entry in entries {
                if let Some(count) = self.entries.get_mut(&entry) {
                    // Less than was answered if it was read meanwhile.
                    count.answered = count.answered.saturating_sub(1);
                    if count.waiting == 0 && count.answered == 0 {
                        self.entries.remove(&entry);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_held_while_a_reader_waits_whatever_others_read() {
        let holds = Holds::default();
        let hold = holds.begin(3..5);
        assert!(!holds.may_go(3, false) && !holds.may_go(4, true));
        assert!(holds.may_go(5, false));
        drop(hold);
    }

    #[test]
    fn an_answered_entry_is_held_until_it_was_read() {
        let holds = Holds::default();
        drop(holds.begin(3..4));
        assert!(!holds.may_go(3, false));
        assert!(holds.may_go(3, true));
        assert!(holds.may_go(3, false), "read before, unmarked since");
    }

    #[test]
    fn an_answer_that_nobody_reads_is_forgotten() {
        let holds = Holds::default();
        drop(holds.begin(3..4));
        let second = holds.begin(3..4);
        holds.state().forget_answered(Instant::now() + LINGER);
        assert!(!holds.may_go(3, true), "still waited for");
        drop(second);
        holds.state().forget_answered(Instant::now() + 2 * LINGER);
        assert!(holds.may_go(3, false));
        assert!(holds.state().entries.is_empty());
    }
}
