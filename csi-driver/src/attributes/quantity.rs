//! Kubernetes quantities as bytes: `512Mi`, `1G`, `1.5Gi`, `1e9`.

/// Parses a quantity; fractions of a byte are rounded up, as Kubernetes does.
///
/// Returns `None` for what is no quantity, is negative or has no place in 63 bits.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, factor) = split(text)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.len() <= 19 && s.bytes().all(|b| b.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let parse = |s: &str| {
        if s.is_empty() {
            Some(0)
        } else {
            s.parse::<u128>().ok()
        }
    };
    let scale = 10_u128.pow(fraction.len() as u32);
    let units = parse(whole)?.checked_mul(scale)? + parse(fraction)?;
    let (times, over) = factor;
    let bytes = units.checked_mul(times)?.div_ceil(scale * over);
    u64::try_from(bytes)
        .ok()
        .filter(|n| i64::try_from(*n).is_ok())
}

/// The number, and what it is to be multiplied with and divided by.
fn split(text: &str) -> Option<(&str, (u128, u128))> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let factor = match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1000_u128.pow(2), 1),
        "G" => (1000_u128.pow(3), 1),
        "T" => (1000_u128.pow(4), 1),
        "P" => (1000_u128.pow(5), 1),
        "E" => (1000_u128.pow(6), 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            (10_u128.checked_pow(power).filter(|_| power <= 18)?, 1)
        }
    };
    Some((number, factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_bytes() {
        for (text, want) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("512Mi", Some(512 << 20)),
            ("1G", Some(1_000_000_000)),
            ("1.5Gi", Some(3 << 29)),
            (".5Ki", Some(512)),
            ("1e3", Some(1000)),
            ("1E3", Some(1000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            ("1500m", Some(2)),
            ("7Ei", Some(7 << 60)),
            ("8Ei", None),
            ("", None),
            (".", None),
            ("-1", None),
            ("1 Gi", None),
            ("1gi", None),
            ("1GiB", None),
            ("1e99", None),
            ("1..2", None),
            ("99999999999999999999", None),
            ("0x10", None),
            ("\u{0661}", None),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }
}
