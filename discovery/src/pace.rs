//! When a node sends its next heartbeat: regularly, soon after a change, and later after failures.
//!
//! Pure. One per node and replica. Always: a change is told within [`Tempo::coalesce`] unless the last heartbeat is
//! younger than [`Tempo::gap`], and changes in between travel together; nodes that start, change or lose a replica
//! at the same moment do not come at the same moment.

use std::time::Duration;

use crate::random::Random;

/// The times.
#[derive(Debug, Clone)]
pub struct Tempo {
    /// Between heartbeats, until a replica says how long it remembers.
    pub interval: Duration,
    /// Of that time, how many heartbeats are sent in it: two may be lost.
    pub beats_per_ttl: u32,
    /// How long changes are collected before they are told.
    pub coalesce: Duration,
    /// Least time between two heartbeats to the same replica.
    pub gap: Duration,
    /// After the first failure; doubles from there.
    pub backoff: Duration,
    /// Longest time between tries: a replica that is back is told soon.
    pub backoff_max: Duration,
}

impl Default for Tempo {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            beats_per_ttl: 3,
            coalesce: Duration::from_millis(200),
            gap: Duration::from_secs(1),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// How far times are spread around their mean.
const SPREAD: f64 = 0.15;

/// The pace towards one replica.
#[derive(Debug)]
pub struct Pace {
    tempo: Tempo,
    interval: Duration,
    due: Duration,
    not_before: Duration,
    failures: u32,
}

impl Pace {
    /// The first heartbeat is due within [`Tempo::coalesce`].
    pub fn new(tempo: Tempo, now: Duration, random: &mut Random) -> Self {
        Self {
            interval: tempo.interval,
            due: now + random.up_to(tempo.coalesce),
            not_before: now,
            failures: 0,
            tempo,
        }
    }

    /// When the next one is due.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// What the node holds has changed.
    pub fn changed(&mut self, now: Duration, random: &mut Random) {
        if self.failures > 0 {
            // The next try tells it; a replica that fails is not asked more often.
            return;
        }
        let soon = now + self.tempo.coalesce.mul_f64(0.5) + random.up_to(self.tempo.coalesce / 2);
        self.due = self.due.min(soon.max(self.not_before));
    }

    /// A heartbeat was taken by a replica that remembers it for `ttl`.
    pub fn succeeded(&mut self, now: Duration, ttl: Duration, random: &mut Random) {
        let told = ttl / self.tempo.beats_per_ttl.max(1);
        if !told.is_zero() {
            self.interval = told.max(self.tempo.gap);
        }
        self.failures = 0;
        self.not_before = now + random.around(self.tempo.gap, SPREAD);
        self.due = now + random.around(self.interval, SPREAD);
    }

    /// A heartbeat failed.
    pub fn failed(&mut self, now: Duration, random: &mut Random) {
        let doubled = self
            .tempo
            .backoff
            .saturating_mul(1 << self.failures.min(16));
        let wait = doubled.min(self.tempo.backoff_max);
        self.failures = self.failures.saturating_add(1);
        // Half of it is certain, half by chance.
        self.due = now + wait / 2 + random.up_to(wait / 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TTL: Duration = Duration::from_secs(30);

    #[test]
    fn a_change_is_told_soon_and_many_changes_travel_together() {
        let mut random = Random::from_seed(1);
        let tempo = Tempo::default();
        let mut pace = Pace::new(tempo.clone(), Duration::ZERO, &mut random);
        assert!(pace.due() <= tempo.coalesce);
        pace.succeeded(SECOND, TTL, &mut random);
        let regular = pace.due();
        assert!((9 * SECOND..13 * SECOND).contains(&regular), "{regular:?}");
        let mut first = None;
        for ms in 0..100 {
            let now = 5 * SECOND + Duration::from_millis(ms);
            pace.changed(now, &mut random);
            first.get_or_insert(pace.due());
            assert!(pace.due() <= first.unwrap(), "a change is never put off");
            assert!(pace.due() >= now.min(first.unwrap()));
        }
        assert!(pace.due() <= 5 * SECOND + tempo.coalesce);
    }

    #[test]
    fn changes_without_end_do_not_become_heartbeats_without_end() {
        let mut random = Random::from_seed(2);
        let mut pace = Pace::new(Tempo::default(), Duration::ZERO, &mut random);
        let mut sent = 0;
        for ms in 0..60_000 {
            let now = Duration::from_millis(ms);
            pace.changed(now, &mut random);
            if pace.due() <= now {
                pace.succeeded(now, TTL, &mut random);
                sent += 1;
            }
        }
        assert!((45..=75).contains(&sent), "{sent} in a minute");
    }

    #[test]
    fn a_replica_that_fails_is_tried_less_often_and_never_given_up() {
        let mut random = Random::from_seed(3);
        let tempo = Tempo::default();
        let mut pace = Pace::new(tempo.clone(), Duration::ZERO, &mut random);
        let mut now = Duration::ZERO;
        let mut tries = 0;
        while now < 60 * SECOND {
            pace.failed(now, &mut random);
            pace.changed(now, &mut random);
            let wait = pace.due().saturating_sub(now);
            assert!(
                wait >= tempo.backoff / 2 && wait <= tempo.backoff_max,
                "{wait:?}"
            );
            now = pace.due();
            tries += 1;
        }
        assert!((12..=30).contains(&tries), "{tries}");
        pace.succeeded(now, TTL, &mut random);
        assert!(pace.due() > now + 8 * SECOND);
    }

    #[test]
    fn nodes_that_start_together_do_not_stay_together() {
        let mut random = Random::from_seed(4);
        let mut slots = [0_u32; 20];
        for _ in 0..10_000 {
            let mut pace = Pace::new(Tempo::default(), Duration::ZERO, &mut random);
            pace.succeeded(pace.due(), TTL, &mut random);
            pace.succeeded(pace.due(), TTL, &mut random);
            pace.succeeded(pace.due(), TTL, &mut random);
            let into = pace.due().saturating_sub(25 * SECOND).as_millis();
            slots[usize::try_from(into / 500).unwrap().min(19)] += 1;
        }
        assert!(slots.iter().all(|count| *count < 1_500), "{slots:?}");
    }
}
