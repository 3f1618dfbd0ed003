//! How long a caller waits, and how much of it may be passed on.

use std::time::{Duration, Instant};

use lamina_proto::timeout;
use tonic::metadata::MetadataMap;

/// Time for callers that set no deadline: kubelet's own for a mount.
const DEFAULT: Duration = Duration::from_secs(120);
/// Longest time anything is waited for.
const MAX: Duration = Duration::from_secs(600);

/// When a caller stops waiting.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// Reads the deadline of a call.
    pub fn of(metadata: &MetadataMap) -> Self {
        Self::after(timeout::of(metadata).unwrap_or(DEFAULT))
    }

    /// A deadline so far from now.
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time.min(MAX))
    }

    /// What is left for others, so that their answer can still be passed on: a twentieth less, at least
    /// 20 ms and at most a second.
    pub fn rest(self) -> Duration {
        let left = self.0.saturating_duration_since(Instant::now());
        left.saturating_sub(margin(left))
    }
}

fn margin(left: Duration) -> Duration {
    (left / 20).clamp(Duration::from_millis(20), Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_kept_back() {
        for (left, kept) in [(10, 500), (120, 1000), (0, 20)] {
            assert_eq!(
                margin(Duration::from_secs(left)),
                Duration::from_millis(kept)
            );
        }
    }
}
