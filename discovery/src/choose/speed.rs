//! How long answers take, and when a second request is worth it.
//!
//! After the p95 of recent answers a second peer is asked (Dean, Barroso: The Tail at Scale, 2013): by its meaning
//! that is one read in twenty. A budget keeps it so when everything is slow at once.

use std::collections::VecDeque;
use std::time::Duration;

/// Answers remembered.
const RECENT: usize = 128;
/// Fewer say nothing about a p95.
const RECENT_MIN: usize = 16;
/// Until then.
const AFTER_FIRST: Duration = Duration::from_millis(250);
/// Bounds of the wait: below, a second request costs more than it brings; above, a peer that only trickles has to
/// be replaced within 2 s.
const AFTER_MIN: Duration = Duration::from_millis(10);
const AFTER_MAX: Duration = Duration::from_secs(1);
/// Second requests per request, in hundredths, and how many may be saved up.
const SHARE: u32 = 10;
const SAVED_MAX: u32 = 1000;

/// Recent answers and the budget of second requests.
#[derive(Debug)]
pub struct Hedges {
    recent: VecDeque<Duration>,
    saved: u32,
}

impl Default for Hedges {
    fn default() -> Self {
        Self {
            recent: VecDeque::with_capacity(RECENT),
            saved: SAVED_MAX,
        }
    }
}

impl Hedges {
    /// How long a first answer may take.
    pub fn after(&self) -> Duration {
        if self.recent.len() < RECENT_MIN {
            return AFTER_FIRST;
        }
        self.share(95).clamp(AFTER_MIN, AFTER_MAX)
    }

    /// The median of recent answers.
    pub(super) fn typical(&self) -> Duration {
        match self.recent.is_empty() {
            true => AFTER_MIN,
            false => self.share(50),
        }
    }

    pub(super) fn took(&mut self, time: Duration) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(time);
    }

    /// A request was made.
    pub(super) fn earn(&mut self) {
        self.saved = (self.saved + SHARE).min(SAVED_MAX);
    }

    /// Whether there may be a second one.
    pub(super) fn take(&mut self) -> bool {
        let left = self.saved.checked_sub(100);
        self.saved = left.unwrap_or(self.saved);
        left.is_some()
    }

    /// The time that so many of a hundred recent answers took at most.
    fn share(&self, hundredths: usize) -> Duration {
        let mut sorted: Vec<Duration> = self.recent.iter().copied().collect();
        let at = (sorted.len() * hundredths / 100).min(sorted.len() - 1);
        *sorted.select_nth_unstable(at).1
    }
}
