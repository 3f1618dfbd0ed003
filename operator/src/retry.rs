//! How long to wait before trying again: doubling from 2 s to 5 min, with jitter, per object.
//!
//! What failed rests for so long also when it is looked at earlier: to write down why it failed is a change of the object,
//! and that calls for a look.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use kube::Resource;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(300);
/// Objects whose failures are known: those that went while they failed are forgotten when there are more.
const KNOWN_MAX: usize = 10_000;

/// Failures in a row, by object.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<String, Failed>>);

#[derive(Debug)]
struct Failed {
    times: u32,
    what: What,
    until: Instant,
}

/// What failed: when it is something else, it does not rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct What {
    generation: Option<i64>,
    is_deleted: bool,
}

impl What {
    pub(crate) fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            generation: meta.generation,
            is_deleted: meta.deletion_timestamp.is_some(),
        }
    }
}

impl Attempts {
    /// One more failure of the object: how long to wait now.
    pub(crate) fn failed(&self, uid: &str, what: What) -> Duration {
        let mut all = self.known();
        let now = Instant::now();
        if all.len() >= KNOWN_MAX && !all.contains_key(uid) {
            make_room(&mut all, now);
        }
        let times = all.get(uid).map_or(0, |failed| failed.times);
        let pause = pause(times, noise());
        let failed = Failed {
            times: times.saturating_add(1),
            what,
            until: now + pause,
        };
        all.insert(uid.to_owned(), failed);
        pause
    }

    /// How long the object still rests.
    pub(crate) fn rest(&self, uid: &str, what: What) -> Option<Duration> {
        let all = self.known();
        let failed = all.get(uid).filter(|failed| failed.what == what)?;
        let rest = failed.until.saturating_duration_since(Instant::now());
        Some(rest).filter(|rest| !rest.is_zero())
    }

    /// Something changed on which any of them may have waited: none rests any more.
    pub(crate) fn wake(&self) {
        let now = Instant::now();
        for failed in self.known().values_mut() {
            failed.until = now;
        }
    }

    /// It went well, or the object is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.known().remove(uid);
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Failed>> {
        self.0.lock().expect("no holder panics")
    }
}

/// Forgets those that were not tried again long after they might have been; if there are none, the first to be tried.
fn make_room(all: &mut HashMap<String, Failed>, now: Instant) {
    all.retain(|_, failed| failed.until + LAST * 2 > now);
    if all.len() >= KNOWN_MAX {
        let first = all.iter().min_by_key(|(_, failed)| failed.until);
        if let Some(uid) = first.map(|(uid, _)| uid.clone()) {
            all.remove(&uid);
        }
    }
}

/// Pause after `failures` earlier ones; `noise` spreads it over the upper half.
fn pause(failures: u32, noise: u64) -> Duration {
    let full = FIRST.saturating_mul(1 << failures.min(16)).min(LAST);
    let half = full / 2;
    half + half * thousandths(noise, 1000) / 1000
}

/// `period` with up to a tenth more.
pub(crate) fn about(period: Duration) -> Duration {
    period + period * thousandths(noise(), 100) / 1000
}

/// Below `most`, whatever `noise` is.
fn thousandths(noise: u64, most: u16) -> u32 {
    u32::try_from(noise % u64::from(most)).unwrap_or(0)
}

fn noise() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit() {
        assert_eq!(pause(0, 0), Duration::from_secs(1));
        assert_eq!(pause(3, 0), Duration::from_secs(8));
        assert!(pause(3, 999) > Duration::from_secs(15));
        assert_eq!(pause(200, 0), LAST / 2);
    }

    #[test]
    fn success_starts_over() {
        let attempts = Attempts::default();
        for _ in 0..5 {
            attempts.failed("a", What::default());
        }
        assert!(attempts.failed("a", What::default()) > Duration::from_secs(30));
        attempts.forget("a");
        assert!(attempts.failed("a", What::default()) <= FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_rests_until_its_time_has_come_or_something_changed() {
        let attempts = Attempts::default();
        let what = What {
            generation: Some(1),
            is_deleted: false,
        };
        let pause = attempts.failed("a", what);
        assert_eq!(attempts.rest("a", what), Some(pause));
        assert_eq!(attempts.rest("b", what), None);
        for other in [
            What {
                generation: Some(2),
                ..what
            },
            What {
                is_deleted: true,
                ..what
            },
        ] {
            assert_eq!(attempts.rest("a", other), None);
        }
        tokio::time::advance(pause).await;
        assert_eq!(attempts.rest("a", what), None);
        attempts.failed("a", what);
        attempts.wake();
        assert_eq!(attempts.rest("a", what), None);
        assert!(attempts.failed("a", what) > FIRST, "it still counts");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_objects_are_known_than_there_is_room_for() {
        let attempts = Attempts::default();
        for number in 0..=KNOWN_MAX {
            attempts.failed(&number.to_string(), What::default());
        }
        assert_eq!(attempts.known().len(), KNOWN_MAX);
        tokio::time::advance(LAST * 3).await;
        attempts.failed("new", What::default());
        assert_eq!(attempts.known().len(), 1, "nobody tried the others again");
    }
}
