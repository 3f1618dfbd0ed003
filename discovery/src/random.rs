//! Chance as something that is handed in: the same seed gives the same run.
//!
//! `SplitMix64` (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014): good enough to
//! spread load, and nothing secret depends on it.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// A source of numbers.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Always the same numbers for the same seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Others in every process and at every call.
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0x6c61_6d69_6e61_u64))
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        assert!(end > 0, "nothing to choose from");
        (self.next_u64() % end as u64) as usize
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        f64::from((self.next_u64() >> 40) as u32) / f64::from(1_u32 << 24)
    }

    /// `time`, up to `share` of it shorter or longer.
    pub fn around(&mut self, time: Duration, share: f64) -> Duration {
        time.mul_f64(1.0 + share * (2.0 * self.unit() - 1.0))
    }

    /// Between nothing and `time`.
    pub fn up_to(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.unit())
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}

/// Spreads every bit over all (the finalizer of `SplitMix64`).
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number for some bytes, the same on every machine (FNV-1a, mixed).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_the_bounds_hold() {
        let (mut a, mut b) = (Random::from_seed(7), Random::from_seed(7));
        for _ in 0..1000 {
            assert_eq!(a.next_u64(), b.next_u64());
            assert!(a.below(3) < 3);
            b.below(3);
            let second = Duration::from_secs(1);
            let (around, up_to) = (a.around(second, 0.1), a.up_to(second));
            assert!((Duration::from_millis(900)..=Duration::from_millis(1100)).contains(&around));
            assert!(up_to < second);
            assert_eq!(around, b.around(second, 0.1));
            assert_eq!(up_to, b.up_to(second));
        }
        assert_ne!(Random::new().next_u64(), Random::new().next_u64());
    }
}
