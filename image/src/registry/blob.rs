//! A layer blob as a blocking `Read`, fetched by a task that resumes.
//!
//! The task holds a bounded number of pieces; when the reader is slow the
//! transfer waits. A broken transfer goes on where it stopped with a range
//! request. Exactly `size` bytes come out, or an error.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::RegistryError;
use super::body::Body;
use super::http::{Failure, Fetcher, with_attempts};

/// Pieces between the transfer and the reader; a piece is what one read of the
/// socket gave, at most some hundred KiB.
const QUEUE: usize = 16;
/// Tries start over once this much came since the last failure.
const PROGRESS_BYTES: u64 = 1 << 20;

/// The reading end.
pub struct BlobReader {
    pieces: mpsc::Receiver<Result<Bytes, RegistryError>>,
    current: Bytes,
    failed: bool,
    task: tokio::task::AbortHandle,
}

impl BlobReader {
    /// The rest of an answer whose length nobody announced, up to `max` bytes.
    pub(super) fn of_body(body: Body, url: String, max: u64, handle: &Handle) -> Self {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let task = handle.spawn(pass_on(body, url, max, sender));
        Self {
            pieces,
            current: Bytes::new(),
            failed: false,
            task: task.abort_handle(),
        }
    }

    pub(super) fn start(fetcher: Arc<Fetcher>, url: String, size: u64, handle: &Handle) -> Self {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let transfer = Transfer {
            fetcher,
            url,
            size,
            have: 0,
            sender,
        };
        let task = handle.spawn(transfer.run()).abort_handle();
        Self {
            pieces,
            current: Bytes::new(),
            failed: false,
            task,
        }
    }
}

impl Drop for BlobReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Blocks: for threads, not for async tasks.
impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    self.failed = true;
                    return Err(io::Error::other(error));
                }
                None if self.failed => return Err(io::Error::other("the transfer failed before")),
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buf.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Sends an answer's pieces; a piece too many, or a broken transfer, is the last thing sent.
async fn pass_on(
    mut body: Body,
    url: String,
    max: u64,
    sender: mpsc::Sender<Result<Bytes, RegistryError>>,
) {
    let mut have = 0;
    loop {
        let piece = match body.piece(&url).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return,
            Err(Failure::Final(error) | Failure::Again(_, error)) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        have += piece.len() as u64;
        let sent = match have > max {
            true => Err(RegistryError::TooLong {
                url: url.clone(),
                max,
            }),
            false => Ok(piece),
        };
        let ends = sent.is_err();
        // A reader that is gone needs nothing.
        if sender.send(sent).await.is_err() || ends {
            return;
        }
    }
}

struct Transfer {
    fetcher: Arc<Fetcher>,
    url: String,
    size: u64,
    have: u64,
    sender: mpsc::Sender<Result<Bytes, RegistryError>>,
}

/// How a transfer ended.
enum Ended {
    Complete,
    ReaderGone,
}

impl Transfer {
    async fn run(mut self) {
        if let Err(error) = self.all().await {
            // A reader that is gone needs no error.
            let _ = self.sender.send(Err(error)).await;
        }
    }

    async fn all(&mut self) -> Result<(), RegistryError> {
        let (mut attempt, mut since) = (1, 0);
        loop {
            let failure = match self.part().await {
                Ok(Ended::Complete | Ended::ReaderGone) => return Ok(()),
                Err(failure) => failure,
            };
            if self.have - since >= PROGRESS_BYTES {
                attempt = 1;
                since = self.have;
            }
            match failure {
                Failure::Final(error) => return Err(error),
                Failure::Again(_, error) if attempt >= self.fetcher.options.attempts => {
                    return Err(with_attempts(error, attempt));
                }
                Failure::Again(wait, error) => {
                    tracing::debug!(%error, have = self.have, "resuming");
                    self.fetcher.pause(attempt, wait, error).await?;
                }
            }
            attempt += 1;
        }
    }

    /// One request from where we are to the end.
    async fn part(&mut self) -> Result<Ended, Failure> {
        let mut headers = Vec::new();
        if self.have > 0 {
            headers.push((RANGE, format!("bytes={}-", self.have)));
        }
        let response = self.fetcher.once(&Method::GET, &self.url, &headers).await?;
        let mut skip = self.start_of(&response)?;
        let mut body = Body::new(response, &self.fetcher.options);
        while let Some(mut piece) = body.piece(&self.url).await? {
            let skipped = skip.min(piece.len() as u64);
            let _ = piece.split_to(skipped as usize);
            skip -= skipped;
            if self.have + piece.len() as u64 > self.size {
                return Err(RegistryError::TooLong {
                    url: self.url.clone(),
                    max: self.size,
                }
                .into());
            }
            self.have += piece.len() as u64;
            if !piece.is_empty() && self.sender.send(Ok(piece)).await.is_err() {
                return Ok(Ended::ReaderGone);
            }
        }
        if self.have == self.size {
            return Ok(Ended::Complete);
        }
        let (have, size) = (self.have, self.size);
        let short = RegistryError::Short {
            url: self.url.clone(),
            have,
            size,
            attempts: self.fetcher.options.attempts,
        };
        Err(Failure::Again(None, short))
    }

    /// Bytes at the start of this answer that we already have.
    fn start_of(&self, response: &Response) -> Result<u64, Failure> {
        let protocol = |why| RegistryError::Protocol {
            url: self.url.clone(),
            why,
        };
        let announced = response.content_length();
        let skip = match response.status() {
            // No ranges here, or none asked for: from the start.
            StatusCode::OK => self.have,
            StatusCode::PARTIAL_CONTENT if self.have > 0 => {
                let range = response
                    .headers()
                    .get(CONTENT_RANGE)
                    .and_then(|v| v.to_str().ok());
                let start = range.and_then(range_start);
                if start != Some(self.have) {
                    return Err(protocol("it sent another range than asked for").into());
                }
                0
            }
            _ => return Err(protocol("it sent an unexpected success status").into()),
        };
        // A wrong length is known before a wrong digest.
        if announced.is_some_and(|n| n > self.size + skip - self.have) {
            return Err(RegistryError::TooLong {
                url: self.url.clone(),
                max: self.size,
            }
            .into());
        }
        Ok(skip)
    }
}

/// `bytes START-END/SIZE`
fn range_start(range: &str) -> Option<u64> {
    range
        .trim()
        .strip_prefix("bytes ")?
        .split_once('-')?
        .0
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("bytes 5-9/*"), Some(5));
        assert_eq!(range_start("bytes */10"), None);
        assert_eq!(range_start("items 5-9/10"), None);
    }
}
