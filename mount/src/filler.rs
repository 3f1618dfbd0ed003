//! How missing bytes of a blob are asked for: one interface, whoever fills.
//!
//! A filler is asked for a range of map entries and answers, once they are
//! present in the cached blob, by calling back. It never hands over bytes: the
//! bitmap and the data file are how bytes travel.

use std::ops::Range;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use lamina_flist::BlobId;

/// Why a range could not be filled. To a reader all of them are EIO.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// Nobody answered in time; asking again later may work.
    #[error("not filled within {0:?}")]
    Deadline(Duration),
    /// Too many requests wait already.
    #[error("too many fills are waiting")]
    Overloaded,
    /// Whoever fills tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The filler said "done" and the bytes are not there.
    #[error("the filler reported entries {0:?} filled, but they are not present")]
    NotFilled(Range<usize>),
}

/// Called exactly once with the outcome. It must not block: it runs on the
/// filler's own thread.
pub type FillDone = Box<dyn FnOnce(Result<(), FillError>) + Send>;

/// Fills ranges of blobs.
pub trait Filler: Send + Sync + 'static {
    /// Begins filling `entries` of `blob`; calls `done` at the latest at
    /// `deadline`. Returns at once.
    fn start(&self, blob: &BlobId, entries: Range<usize>, deadline: Instant, done: FillDone);

    /// As [`Filler::start`], waiting for the outcome.
    ///
    /// # Errors
    /// What the filler answered.
    fn fill(
        &self,
        blob: &BlobId,
        entries: Range<usize>,
        deadline: Instant,
    ) -> Result<(), FillError> {
        let (tell, told) = mpsc::sync_channel(1);
        self.start(
            blob,
            entries,
            deadline,
            Box::new(move |outcome| {
                // The receiver waits until we tell or the deadline passes.
                let _ = tell.send(outcome);
            }),
        );
        // A little longer than the filler's own deadline: its answer is better.
        let wait = deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1);
        told.recv_timeout(wait)
            .unwrap_or(Err(FillError::Deadline(wait)))
    }
}
