//! How long a caller waits, as gRPC tells it: the header `grpc-timeout`, up to eight digits and a unit
//! (gRPC over HTTP/2, "Timeout").
//!
//! tonic writes the header and keeps its reader to itself; every server of Lamina reads it here.

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Most digits the specification allows.
const DIGITS_MAX: usize = 8;

/// What the caller of a request said; none when it said nothing, or nothing that can be read.
pub fn of(metadata: &MetadataMap) -> Option<Duration> {
    parse(metadata.get("grpc-timeout")?.to_str().ok()?)
}

fn parse(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    if digits.is_empty() || digits.len() > DIGITS_MAX || !is_number {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
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
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("S", None),
            ("", None),
            ("1x", None),
            ("-1S", None),
            ("+1S", None),
            ("10", None),
            ("ä", None),
            ("10ä", None),
        ] {
            assert_eq!(parse(header), want, "{header:?}");
        }
    }

    #[test]
    fn what_tonic_writes_is_read() {
        let mut request = tonic::Request::new(());
        assert_eq!(of(request.metadata()), None);
        request.set_timeout(Duration::from_millis(2500));
        assert_eq!(of(request.metadata()), Some(Duration::from_millis(2500)));
    }
}
