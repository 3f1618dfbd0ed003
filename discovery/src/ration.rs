//! How many callers are sent to the holders of one layer: no more than those can serve.
//!
//! When a layer appears that thousands of nodes wait for, its first holder would be dialled by all of them. Instead,
//! each holder is named to some callers a second; the others are told to ask again, and by then there are more holders:
//! their number grows by the same factor in every round. Small clusters never notice.
//!
//! Pure: a token bucket per layer, kept only while it is not full.

use std::collections::HashMap;
use std::time::Duration;

use lamina_flist::Sha256Digest;

/// Layers with a bucket: what is asked for more slowly than it refills has none.
const BUCKETS_MAX: usize = 65_536;
/// Holders that count: beyond, a layer is never short of them.
const HOLDERS_MAX: u32 = 4_096;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

/// Every bucket.
#[derive(Debug)]
pub struct Rations {
    per_second: f64,
    buckets: HashMap<Sha256Digest, Bucket>,
}

impl Rations {
    /// So many callers per second and holder; none of it is used up.
    pub fn new(per_second: u32) -> Self {
        Self {
            per_second: per_second.into(),
            buckets: HashMap::new(),
        }
    }

    /// Whether one more caller may be sent to the holders of a layer.
    pub fn take(&mut self, layer: &Sha256Digest, holders: usize, now: Duration) -> bool {
        let holders = u32::try_from(holders).map_or(HOLDERS_MAX, |few| few.min(HOLDERS_MAX));
        let full = self.per_second * f64::from(holders);
        if !self.buckets.contains_key(layer) && self.buckets.len() >= BUCKETS_MAX {
            self.sweep(now);
            if self.buckets.len() >= BUCKETS_MAX {
                return true;
            }
        }
        let bucket = self.buckets.entry(*layer).or_insert(Bucket {
            tokens: full,
            at: now,
        });
        let since = now.saturating_sub(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + since * full).min(full);
        bucket.at = now;
        let may = bucket.tokens >= 1.0;
        if may {
            bucket.tokens -= 1.0;
        }
        may
    }

    /// Forgets buckets that nobody took from for a second: they are full again.
    pub fn sweep(&mut self, now: Duration) {
        let second = Duration::from_secs(1);
        self.buckets.retain(|_, bucket| bucket.at + second > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_named_as_often_as_they_can_serve() {
        let mut rations = Rations::new(10);
        let layer = Sha256Digest::from_bytes([1; 32]);
        let other = Sha256Digest::from_bytes([2; 32]);
        let mut named = |layer, holders, ms| {
            let now = Duration::from_millis(ms);
            (0..1000)
                .filter(|_| rations.take(layer, holders, now))
                .count()
        };
        assert_eq!(named(&layer, 1, 0), 10);
        assert_eq!(named(&layer, 1, 500), 5);
        assert_eq!(named(&other, 3, 500), 30);
        assert_eq!(named(&layer, 4, 1000), 20, "more holders, more callers");
        assert_eq!(named(&layer, 100, 60_000), 1000);
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten() {
        let mut rations = Rations::new(10);
        for n in 0..100 {
            rations.take(&Sha256Digest::from_bytes([n; 32]), 1, Duration::ZERO);
        }
        rations.sweep(Duration::from_secs(2));
        assert!(rations.buckets.is_empty());
    }
}
