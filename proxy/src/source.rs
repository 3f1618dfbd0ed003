//! A client's frames on their way to an afslet: the first one to as many as it takes, the others to the one that has
//! answered.
//!
//! ```text
//!  start (kept) ──> afslet, another one, ...        until one has answered
//!  files ─────────> the one that has                from then on; until then they wait in the client
//! ```
//! Always: while no afslet has answered, no more than the first frame was passed on, nor the end of the frames, so that
//! no command can have begun. A client that fails or goes away in the middle never looks like one that has finished.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures::Stream;
use lamina_proto::broken::Broken;
use tonic::{Code, Status, Streaming};

/// Bytes of first frames that are kept for all runs together.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    used: Arc<AtomicUsize>,
    max: usize,
}

/// A part of it; given back when dropped.
struct Part {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(max: usize) -> Self {
        let used = Arc::default();
        Self { used, max }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<Part, Status> {
        let part = Part {
            budget: self.clone(),
            bytes,
        };
        // Given back with the part if it is too much.
        match self.used.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max {
            true => Ok(part),
            false => Err(Status::resource_exhausted(format!(
                "this proxy keeps {} bytes of runs that wait, which is all it takes: ask another one, or later",
                self.max
            ))),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A client's frames; clones are the same ones.
#[derive(Clone)]
pub(crate) struct Source(Arc<Mutex<Inner>>);

struct Inner {
    client: Streaming<Bytes>,
    broken: Broken,
    first: Option<(Bytes, Part)>,
    is_answered: bool,
    /// Which of the streams made of this one counts.
    attempt: u64,
    failed: Option<Status>,
    /// Of who waits for frames.
    waiting: Option<Waker>,
    /// Of who waits for a failure.
    watching: Option<Waker>,
}

/// The frames from the first on, for one afslet.
pub(crate) struct Attempt {
    source: Source,
    number: u64,
    first: Option<Bytes>,
}

impl Source {
    /// Frames of which the first was read already.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when no more can be kept.
    pub(crate) fn new(
        first: Bytes,
        client: Streaming<Bytes>,
        broken: Broken,
        budget: &Budget,
    ) -> Result<Self, Status> {
        let part = budget.take(first.len())?;
        Ok(Self(Arc::new(Mutex::new(Inner {
            client,
            broken,
            first: Some((first, part)),
            is_answered: false,
            attempt: 0,
            failed: None,
            waiting: None,
            watching: None,
        }))))
    }

    /// The frames for the next afslet; those of the one before end nowhere.
    pub(crate) fn attempt(&self) -> Attempt {
        let mut inner = self.inner();
        inner.attempt += 1;
        Attempt {
            number: inner.attempt,
            first: inner.first.as_ref().map(|(first, _)| first.clone()),
            source: self.clone(),
        }
    }

    /// The afslet of the last attempt has answered: there is no other one.
    pub(crate) fn answered(&self) {
        let waiting = {
            let mut inner = self.inner();
            inner.is_answered = true;
            inner.first = None;
            inner.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// Returns when the client's frames cannot be read to their end, with what to tell it.
    pub(crate) async fn failed(&self) -> Status {
        std::future::poll_fn(|cx| {
            let mut inner = self.inner();
            if let Some(status) = &inner.failed {
                return Poll::Ready(status.clone());
            }
            inner.watching = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The client's next frame or its end; never returns after a failure, which is kept.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.failed.is_some() {
            return Poll::Pending;
        }
        let failed = match ready!(Pin::new(&mut self.client).poll_next(cx)) {
            Some(Ok(frame)) => return Poll::Ready(Some(frame)),
            None if !self.broken.is_set() => return Poll::Ready(None),
            None => Status::cancelled("the client went away"),
            Some(Err(status)) => told(&status),
        };
        self.failed = Some(failed);
        if let Some(waker) = self.watching.take() {
            waker.wake();
        }
        Poll::Pending
    }
}

impl Stream for Attempt {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(first));
        }
        let mut inner = this.source.inner();
        match inner.is_answered {
            // A call that was given up gets nothing more.
            _ if inner.attempt != this.number => Poll::Pending,
            true => inner.read(cx),
            false => {
                inner.waiting = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// What a client is told whose frames cannot be read.
pub(crate) fn told(status: &Status) -> Status {
    let why = status.message();
    match status.code() {
        Code::OutOfRange => Status::invalid_argument(format!("a frame is too large: {why}")),
        Code::Internal => Status::invalid_argument(format!("a frame cannot be read: {why}")),
        _ => status.clone(),
    }
}
