//! How long a caller waits, and how much of it may be passed on.

use std::time::{Duration, Instant};

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
        let header = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok());
        Self::after(header.and_then(parse).unwrap_or(DEFAULT))
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

/// The gRPC header: at most eight digits and a unit.
fn parse(header: &str) -> Option<Duration> {
    let unit = header.chars().last().filter(char::is_ascii)?;
    let digits = &header[..header.len() - 1];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(n * 3600)),
        'M' => Some(Duration::from_secs(n * 60)),
        'S' => Some(Duration::from_secs(n)),
        'm' => Some(Duration::from_millis(n)),
        'u' => Some(Duration::from_micros(n)),
        'n' => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_by_table() {
        for (header, want) in [
            ("10S", Some(Duration::from_secs(10))),
            ("2M", Some(Duration::from_secs(120))),
            ("1H", Some(Duration::from_secs(3600))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("10", None),
            ("10ä", None),
        ] {
            assert_eq!(parse(header), want, "{header:?}");
        }
    }

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
