//! Results for people (tables) and for programs (JSON, YAML); sizes and times as people type them.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "sizes for people have three digits"
)]

use crate::args::Format;
use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

pub(crate) use lamina_crds::size;

/// A result that can be shown as a table; its JSON and YAML forms come from `Serialize`.
pub(crate) trait Show: Serialize {
    /// The result as aligned text without a trailing newline.
    fn table(&self) -> String;
}

/// Prints `value` in the asked format. A closed pipe is a quiet end, as with other tools.
pub(crate) fn print<T: Show>(value: &T, format: Format) -> Result<()> {
    let text = match format {
        Format::Table => value.table(),
        Format::Json => escaped(&serde_json::to_string_pretty(value).context("encode JSON")?),
        Format::Yaml => escaped(&serde_saphyr::to_string(value).context("encode YAML")?),
    };
    write_all(format!("{}\n", text.trim_end()).as_bytes())
}

/// Writes to standard output; a reader that went away ends the program quietly.
pub(crate) fn write_all(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.context("write standard output"),
    }
}

/// Text that may come from a flist, an image or a server, safe for a terminal: control characters are
/// written as Rust writes them in strings.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// As [`printable`], for text of several lines.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// JSON and quoted YAML strings may hold DEL and the C1 controls, which drive some terminals: as `\u`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// A table without borders: columns two spaces apart, header in capitals.
pub(crate) fn columns<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    trim_lines(&table.to_string())
}

/// `name  value` lines.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows
        .iter()
        .map(|(name, value)| format!("{name:width$}  {}", printable(value)))
        .collect();
    lines.join("\n")
}

fn trim_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n")
}

/// `part` of `whole` as a percentage, `-` when there is no whole.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        "-".to_owned()
    } else {
        format!("{:.1}%", part as f64 * 100.0 / whole as f64)
    }
}

/// `1 problem`, `2 problems`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Parses `10GiB`, `500M`, `4096`: binary units with `i` or a bare letter, decimal with `B` (`GB`).
///
/// # Errors
/// Says which units exist when the text is not a size.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let factor: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "ki" | "kib" => 1024.0,
        "m" | "mi" | "mib" => 1024f64.powi(2),
        "g" | "gi" | "gib" => 1024f64.powi(3),
        "t" | "ti" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => {
            return Err(format!(
                "unknown unit `{unit}`: use B, KiB, MiB, GiB, TiB or KB, MB, GB, TB"
            ));
        }
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a size, e.g. 10GiB"))?;
    let bytes = value * factor;
    if !bytes.is_finite() || bytes < 0.0 || bytes > u64::MAX as f64 {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(bytes as u64)
}

/// Least bound of a cache: below it hardly a read fits, and a forgotten unit is likelier.
const CACHE_MIN: u64 = 1 << 20;

/// As [`parse_size`], for the bound of a cache.
///
/// # Errors
/// As [`parse_size`]; when next to nothing would fit.
pub(crate) fn parse_cache_size(text: &str) -> Result<u64, String> {
    let bytes = parse_size(text)?;
    if bytes < CACHE_MIN {
        let (meant, min) = (size(bytes), size(CACHE_MIN));
        return Err(format!(
            "`{text}` is {meant}, and a cache needs {min} at least: give a unit, e.g. 10GiB"
        ));
    }
    Ok(bytes)
}

/// Parses `250ms`, `30s`, `5m`, `2h`, `30d`.
///
/// # Errors
/// Says which units exist when the text is not a time.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => {
            return Err(format!(
                "`{text}` is not a time: use ms, s, m, h or d, e.g. 30s"
            ));
        }
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("`{text}` is not a time, e.g. 30s"))?;
    Duration::try_from_secs_f64(value * seconds).map_err(|_| format!("`{text}` is out of range"))
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    (text[..end].trim(), text[end..].trim())
}

/// Text without the space that lines of tables begin with.
#[cfg(test)]
pub(crate) fn unindented(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_in_binary_and_decimal_units() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("1.5 MiB"), Ok(3 << 19));
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("3GB"), Ok(3_000_000_000));
        assert!(
            parse_size("10 parsecs")
                .unwrap_err()
                .contains("unknown unit")
        );
        assert!(parse_size("-1").unwrap_err().contains("out of range"));
        assert!(parse_size("").unwrap_err().contains("not a size"));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_duration("30d"), Ok(Duration::from_secs(30 * 86_400)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(parse_duration("30").unwrap_err().contains("not a time"));
        assert!(parse_duration("-3s").unwrap_err().contains("out of range"));
    }

    #[test]
    fn sizes_print_with_three_digits() {}
}
