//! How often each caller is served: a token bucket for everyone, kept only while it is not full. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Callers with a bucket. A flood from more than that many addresses is refused as a whole until buckets are full again.
const BUCKETS_MAX: usize = 16_384;

/// Every caller's bucket.
#[derive(Debug)]
pub(super) struct Rations<K> {
    burst: u32,
    refill: Duration,
    /// Since when a bucket would be filled, had it been empty then.
    buckets: HashMap<K, Instant>,
}

impl<K: Hash + Eq> Rations<K> {
    /// `burst` at once, and one more every `refill`.
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self {
            burst,
            refill,
            buckets: HashMap::new(),
        }
    }

    /// Whether `key` is served now.
    pub(super) fn take(&mut self, key: K, now: Instant) -> bool {
        let whole = self.refill * self.burst;
        let is_full = |since: &Instant| now.saturating_duration_since(*since) >= whole;
        if self.buckets.len() >= BUCKETS_MAX && !self.buckets.contains_key(&key) {
            self.buckets.retain(|_, since| !is_full(since));
            if self.buckets.len() >= BUCKETS_MAX {
                return false;
            }
        }
        let full = now.checked_sub(whole).unwrap_or(now);
        let since = self.buckets.entry(key).or_insert(full);
        if is_full(since) {
            *since = full;
        }
        let may = now.saturating_duration_since(*since) >= self.refill;
        if may {
            *since += self.refill;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_has_a_burst_and_then_a_pace() {
        let mut rations = Rations::new(3, Duration::from_secs(10));
        let start = Instant::now() + Duration::from_secs(3600);
        let mut served = |key, seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..10).filter(|_| rations.take(key, now)).count()
        };
        assert_eq!(served("a", 0), 3);
        assert_eq!(served("a", 9), 0);
        assert_eq!(served("a", 10), 1);
        assert_eq!(served("b", 10), 3, "others are not concerned");
        assert_eq!(served("a", 1000), 3, "no more than a burst is saved up");
    }

    #[test]
    fn a_flood_of_callers_takes_no_more_memory() {
        let mut rations = Rations::new(1, Duration::from_secs(10));
        let start = Instant::now() + Duration::from_secs(3600);
        for caller in 0..BUCKETS_MAX {
            assert!(rations.take(caller, start));
        }
        assert!(!rations.take(BUCKETS_MAX, start));
        assert_eq!(rations.buckets.len(), BUCKETS_MAX);
        assert!(rations.take(BUCKETS_MAX, start + Duration::from_secs(10)));
        assert_eq!(rations.buckets.len(), 1);
    }
}
