//! Kubernetes amounts as bytes.

/// Bytes of an amount such as `20Gi`; none if it is not one.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 10] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let (number, unit) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1.0));
    let value: f64 = number.parse().ok()?;
    let total = value * unit;
    #[expect(clippy::cast_sign_loss, reason = "checked to be positive")]
    (total.is_finite() && total >= 0.0).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("20Gi", Some(21_474_836_480)),
            ("1.5Mi", Some(1_572_864)),
            ("1G", Some(1_000_000_000)),
            ("512", Some(512)),
            ("plenty", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }
}
