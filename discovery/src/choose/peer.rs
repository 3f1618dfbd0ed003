//! What is known of one peer.

use std::time::Duration;

use super::{ChoiceConfig, Outcome};
use crate::random::Random;

/// How much of what was known a new answer leaves, in eighths.
const KEPT: u32 = 7;

/// One peer.
#[derive(Debug, Default)]
pub(super) struct Peer {
    in_flight: u32,
    /// Mean time of answers, newer ones counting more.
    mean: Option<Duration>,
    /// Failures since the last good answer.
    strikes: u32,
    /// Times in a row that it was busy.
    busy: u32,
    bad_until: Duration,
    busy_until: Duration,
    used: Duration,
}

impl Peer {
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    pub(super) fn used(&self) -> Duration {
        self.used
    }

    pub(super) fn is_bad(&self, now: Duration) -> bool {
        now < self.bad_until
    }

    pub(super) fn is_busy(&self, now: Duration) -> bool {
        now < self.busy_until
    }

    /// When an answer to one more request is expected; of a peer never asked, as from others.
    pub(super) fn expected(&self, typical: Duration) -> Duration {
        self.mean.unwrap_or(typical) * (self.in_flight + 1)
    }

    pub(super) fn started(&mut self, now: Duration) {
        self.in_flight += 1;
        self.used = now;
    }

    pub(super) fn finished(
        &mut self,
        outcome: Outcome,
        config: &ChoiceConfig,
        now: Duration,
        random: &mut Random,
    ) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.used = now;
        match outcome {
            Outcome::Good(took) => {
                let mean = self.mean.unwrap_or(took);
                self.mean = Some((mean * KEPT + took) / (KEPT + 1));
                (self.strikes, self.busy) = (0, 0);
            }
            Outcome::Busy => {
                let wait = config.busy.saturating_mul(1 << self.busy.min(5));
                self.busy += 1;
                self.busy_until = now + random.around(wait, 0.5);
            }
            // Requests that were under way together fail together: that is one failure.
            Outcome::Failed if self.is_bad(now) => {}
            Outcome::Failed => {
                let wait = config.penalty.saturating_mul(1 << self.strikes.min(16));
                self.strikes += 1;
                let wait = random.around(wait.min(config.penalty_max), 0.25);
                self.bad_until = self.bad_until.max(now + wait);
            }
            Outcome::Wrong => {
                self.strikes += 1;
                self.bad_until = self.bad_until.max(now + config.penalty_wrong);
            }
            Outcome::Dropped => {}
        }
    }
}
