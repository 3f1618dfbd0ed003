//! The bodies of answers: bounded in bytes and, however little is sent at a time, in time.
//!
//! The client's own timeout is for one read, and a byte now and then is enough for it. Hence every body is read
//! through [`Body`], which wants a lowest speed, and small documents are wanted whole after a while.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;

use super::http::{Failure, transport, unanswered};
use super::{RegistryError, RegistryOptions};

/// A server that sends less, all through [`RegistryOptions::slow_after`], is as good as none. Sixty transfers that
/// share a line of 1 Mbit/s get as much, five times as many as one node begins.
const BYTES_PER_S_MIN: u64 = 2 << 10;

/// A body that comes, but not so that anything could be done with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TooSlow {
    /// Pieces come, and would for ever.
    #[error("it sent {bytes} bytes in {took:.1?}")]
    Trickle { bytes: u64, took: Duration },
    /// A small document is not complete by now.
    #[error("it did not send all of a small document in {0:.1?}")]
    Late(Duration),
}

/// What came since when; only the time counts in which we waited for the server, so that a reader of ours may be slow.
#[derive(Debug, Default)]
struct Pace {
    bytes: u64,
    took: Duration,
}

impl Pace {
    /// Counts a piece that took so long to come. Measures anew every `slow_after`: what came fast long ago is no excuse.
    fn add(&mut self, bytes: u64, took: Duration, slow_after: Duration) -> Result<(), TooSlow> {
        self.bytes += bytes;
        self.took += took;
        if self.took < slow_after {
            return Ok(());
        }
        let Self { bytes, took } = std::mem::take(self);
        if u128::from(bytes) * 1000 < u128::from(BYTES_PER_S_MIN) * took.as_millis() {
            return Err(TooSlow::Trickle { bytes, took });
        }
        Ok(())
    }
}

/// A body on its way.
pub(super) struct Body {
    response: Response,
    pace: Pace,
    slow_after: Duration,
}

impl Body {
    pub(super) fn new(response: Response, options: &RegistryOptions) -> Self {
        Self {
            response,
            pace: Pace::default(),
            slow_after: options.slow_after,
        }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn piece(&mut self, url: &str) -> Result<Option<Bytes>, Failure> {
        let asked = Instant::now();
        let piece = self.response.chunk().await.map_err(|e| transport(url, e))?;
        if let Some(piece) = &piece {
            self.pace
                .add(piece.len() as u64, asked.elapsed(), self.slow_after)
                .map_err(|slow| unanswered(url, slow))?;
        }
        Ok(piece)
    }
}

/// All of a small document, at most `max` bytes.
pub(super) async fn read_document(
    response: Response,
    url: &str,
    max: u64,
    options: &RegistryOptions,
) -> Result<Vec<u8>, Failure> {
    let timeout = options.document_timeout;
    let whole = tokio::time::timeout(timeout, read_whole(response, url, max, options)).await;
    whole.unwrap_or_else(|_| Err(unanswered(url, TooSlow::Late(timeout))))
}

async fn read_whole(
    response: Response,
    url: &str,
    max: u64,
    options: &RegistryOptions,
) -> Result<Vec<u8>, Failure> {
    let too_long = || RegistryError::TooLong {
        url: url.to_owned(),
        max,
    };
    if response.content_length().is_some_and(|n| n > max) {
        return Err(too_long().into());
    }
    let (mut body, mut all) = (Body::new(response, options), Vec::new());
    while let Some(piece) = body.piece(url).await? {
        if (all.len() + piece.len()) as u64 > max {
            return Err(too_long().into());
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// How many pieces of `bytes`, each after `seconds`, are taken; at most 10,000.
    fn taken(pace: &mut Pace, bytes: u64, seconds: u64) -> usize {
        let took = Duration::from_secs(seconds);
        let all = 0..10_000;
        all.take_while(|_| pace.add(bytes, took, MINUTE).is_ok())
            .count()
    }

    #[test]
    fn a_body_that_trickles_is_given_up_and_a_slow_one_is_not() {
        let new = Pace::default;
        // A byte every 25 s, which no read timeout of 30 s notices.
        assert_eq!(taken(&mut new(), 1, 25), 2);
        // One of thirty that share a line of 1 Mbit/s, one that has it alone, and one that pauses.
        assert_eq!(taken(&mut new(), 4096, 1), 10_000);
        assert_eq!(taken(&mut new(), 125_000, 1), 10_000);
        assert_eq!(taken(&mut new(), 125_000, 29), 10_000);
    }

    #[test]
    fn what_came_fast_does_not_pay_for_a_trickle_afterwards() {
        let mut pace = Pace::default();
        assert!(pace.add(1 << 40, MINUTE, MINUTE).is_ok());
        assert_eq!(taken(&mut pace, 1, 25), 2);
    }

    #[test]
    fn a_reader_that_takes_its_time_is_not_held_against_the_server() {
        // A piece that was there already took no time to come.
        assert_eq!(taken(&mut Pace::default(), 1, 0), 10_000);
    }
}
