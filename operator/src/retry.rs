//! How long to wait before trying again: doubling from 2 s to 5 min, with jitter, per object.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::time::Duration;

const FIRST: Duration = Duration::from_secs(2);
const LAST: Duration = Duration::from_secs(300);

/// Failures in a row, by object.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<String, u32>>);

impl Attempts {
    /// One more failure of the object: how long to wait now.
    pub(crate) fn failed(&self, uid: &str) -> Duration {
        let mut all = self.0.lock().expect("no holder panics");
        let count = all.entry(uid.to_owned()).or_insert(0);
        let pause = pause(*count, noise());
        *count = count.saturating_add(1);
        pause
    }

    /// It went well, or the object is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.0.lock().expect("no holder panics").remove(uid);
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
            attempts.failed("a");
        }
        assert!(attempts.failed("a") > Duration::from_secs(30));
        attempts.forget("a");
        assert!(attempts.failed("a") <= FIRST);
    }
}
