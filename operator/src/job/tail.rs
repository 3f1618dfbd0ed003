//! The end of what a command writes, bounded, and harmless to the terminal of who reads it.

use lamina_crds::LOG_BYTES_MAX;

/// The last bytes of a log.
#[derive(Debug, Default)]
pub(crate) struct Tail(String);

impl Tail {
    pub(crate) fn push(&mut self, text: &str) {
        let shown = text
            .chars()
            .filter(|c| matches!(c, '\n' | '\t') || !c.is_control());
        self.0.extend(shown);
        if self.0.len() > 2 * LOG_BYTES_MAX {
            self.0 = last(&self.0, LOG_BYTES_MAX).to_owned();
        }
    }

    /// The last lines, of at most `LOG_BYTES_MAX` bytes.
    pub(crate) fn end(self) -> String {
        last(&self.0, LOG_BYTES_MAX).to_owned()
    }
}

/// The last whole lines of `text` that fit into `bytes_max`; of one long line its end.
pub(crate) fn last(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    let from = (text.len() - bytes_max..=text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    let end = &text[from..];
    match end.split_once('\n') {
        Some((_, lines)) if !lines.is_empty() => lines,
        _ => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_lines_stay() {
        assert_eq!(last("one\ntwo\nthree\n", 11), "two\nthree\n");
        assert_eq!(last("one\ntwo\nthree\n", 9), "three\n");
        assert_eq!(last("äöü", 3), "ü");
        assert_eq!(last("short", 9), "short");
    }

    #[test]
    fn however_much_is_written_little_is_kept() {
        let mut tail = Tail::default();
        for number in 0..100_000 {
            tail.push(&format!("line {number}\n"));
            assert!(tail.0.len() <= 2 * LOG_BYTES_MAX + 32);
        }
        let end = tail.end();
        assert!(end.len() <= LOG_BYTES_MAX && end.ends_with("line 99999\n"));
        assert!(end.starts_with("line "), "{}", &end[..20]);
    }

    #[test]
    fn terminals_are_told_nothing() {
        let mut tail = Tail::default();
        tail.push("\x1b]0;title\x07red\r\n\tend\0");
        assert_eq!(tail.end(), "]0;titlered\n\tend");
    }
}
