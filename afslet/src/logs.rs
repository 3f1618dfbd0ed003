//! What a command writes, as frames: read only as fast as the client takes it, and bounded.
//!
//! A pipe that nobody reads is full after 64 KiB, and then its writer waits: that is all that is held for a client that
//! does not read.

use std::sync::atomic::{AtomicU64, Ordering};

use lamina_proto::afsletpb::LogMessage;
use lamina_proto::afsletpb::execute_response::Payload;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

use crate::error::RunError;
use crate::outlet::Outlet;

/// Most bytes of one frame.
const FRAME_MAX: usize = 64 << 10;

/// How much a run may write, and what it has.
#[derive(Debug)]
pub(crate) struct LogBound {
    bytes_max: u64,
    bytes: AtomicU64,
    exceeded: Notify,
}

impl LogBound {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            bytes: AtomicU64::new(0),
            exceeded: Notify::new(),
        }
    }

    /// Bytes sent on.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed).min(self.bytes_max)
    }

    /// More was written than may be.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }

    /// Returns when more was written than may be.
    pub(crate) async fn exceeded(&self) {
        self.exceeded.notified().await;
    }

    /// Of so many bytes, how many may still be sent.
    fn take(&self, bytes: usize) -> usize {
        let before = self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let room = self.bytes_max.saturating_sub(before);
        if room < bytes as u64 {
            self.exceeded.notify_one();
        }
        usize::try_from(room).unwrap_or(usize::MAX).min(bytes)
    }
}

/// Sends on what comes out of a pipe until its end.
///
/// # Errors
/// When the client is gone or does not read.
pub(crate) async fn pump(
    source: &'static str,
    pipe: &Receiver,
    bound: &LogBound,
    outlet: &Outlet,
) -> Result<(), RunError> {
    let mut text = Text::default();
    loop {
        let failed = |error| RunError::internal("read the command's output", &error);
        pipe.readable().await.map_err(failed)?;
        // Only now: a command that says nothing costs no buffer.
        let mut bytes = Vec::with_capacity(FRAME_MAX);
        match pipe.try_read_buf(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(failed(error)),
        }
        let allowed = bound.take(bytes.len());
        let is_last = allowed < bytes.len();
        bytes.truncate(allowed);
        if let Some(frame) = text.take(source, bytes) {
            outlet.send(Payload::Log(frame)).await?;
        }
        if is_last {
            break;
        }
    }
    match text.rest(source) {
        Some(frame) => outlet.send(Payload::Log(frame)).await,
        None => Ok(()),
    }
}

/// Bytes to text; a character that is cut waits for its rest.
#[derive(Debug, Default)]
struct Text {
    kept: Vec<u8>,
}

impl Text {
    fn take(&mut self, source: &str, bytes: Vec<u8>) -> Option<LogMessage> {
        let mut all = std::mem::take(&mut self.kept);
        match all.is_empty() {
            true => all = bytes,
            false => all.extend_from_slice(&bytes),
        }
        let end = all.len() - cut_character(&all);
        self.kept = all.split_off(end);
        frame(source, all)
    }

    fn rest(self, source: &str) -> Option<LogMessage> {
        frame(source, self.kept)
    }
}

/// How many bytes at the end may be the beginning of a character.
fn cut_character(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let starts = |byte: &u8| *byte >= 0xc0;
    let Some(at) = tail.iter().rposition(starts) else {
        return 0;
    };
    match std::str::from_utf8(&tail[at..]) {
        Err(error) if error.error_len().is_none() => tail.len() - at,
        _ => 0,
    }
}

fn frame(source: &str, bytes: Vec<u8>) -> Option<LogMessage> {
    if bytes.is_empty() {
        return None;
    }
    let (message, raw) = match String::from_utf8(bytes) {
        Ok(message) => (message, Vec::new()),
        Err(error) => {
            let bytes = error.into_bytes();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        }
    };
    Some(LogMessage {
        source: source.to_owned(),
        message,
        raw,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Vec<(String, Vec<u8>)> {
        let mut text = Text::default();
        let mut found = Vec::new();
        for part in parts {
            found.extend(text.take("stdout", part.to_vec()));
        }
        found.extend(text.rest("stdout"));
        found
            .into_iter()
            .map(|frame| (frame.message, frame.raw))
            .collect()
    }

    #[test]
    fn characters_are_not_cut() {
        let text = "aé€𝄞z".as_bytes();
        for at in 0..=text.len() {
            let parts = frames(&[&text[..at], &text[at..]]);
            let whole: String = parts.iter().map(|(message, _)| message.as_str()).collect();
            assert_eq!(whole, "aé€𝄞z", "cut at {at}");
            assert!(parts.iter().all(|(_, raw)| raw.is_empty()), "cut at {at}");
        }
    }

    #[test]
    fn what_is_no_text_comes_as_it_was_written_too() {
        let parts = frames(&[b"a\xffb", b"ok"]);
        assert_eq!(parts[0], ("a\u{fffd}b".to_owned(), b"a\xffb".to_vec()));
        assert_eq!(parts[1], ("ok".to_owned(), Vec::new()));
        // The end of the stream ends waiting.
        let parts = frames(&[b"x\xe2\x82"]);
        assert_eq!(parts[1].1, b"\xe2\x82");
    }

    #[tokio::test]
    async fn more_than_may_be_is_said_once_and_not_sent() {
        let bound = LogBound::new(10);
        assert_eq!((bound.take(7), bound.take(3)), (7, 3));
        assert_eq!((bound.take(5), bound.take(5)), (0, 0));
        bound.exceeded().await;
        assert!(bound.is_exceeded());
        assert_eq!(bound.bytes(), 10);
    }
}
