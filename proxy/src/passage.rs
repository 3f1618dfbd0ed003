//! A run that an afslet has accepted: its answers on their way to the client, until either side ends.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use lamina_discovery::reason;
use tonic::{CancellationHandle, Status, Streaming};

use crate::afslet::Reserved;
use crate::metrics::{Metrics, Outcome};
use crate::phase::Phase;
use crate::source::Source;

/// Ends a call at its afslet when dropped: without it the afslet would wait for more frames.
pub(crate) struct Call(Option<CancellationHandle>);

impl Call {
    pub(crate) fn new(handle: CancellationHandle) -> Self {
        Self(Some(handle))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(handle) = self.0.take() {
            handle.cancel();
        }
    }
}

/// A run that goes on.
pub(crate) struct Passage {
    /// What the afslet said first.
    pub(crate) first: Bytes,
    pub(crate) answers: Streaming<Bytes>,
    pub(crate) source: Source,
    pub(crate) call: Call,
    pub(crate) reserved: Reserved,
}

struct Passing {
    first: Option<Bytes>,
    answers: Streaming<Bytes>,
    source: Source,
    phase: Phase,
    counted: Counted,
    /// Let go of with the answers.
    held: (Call, Reserved),
}

/// Counts how a run ended: by its client going away, when nobody says anything else.
struct Counted {
    metrics: Arc<Metrics>,
    outcome: Outcome,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.ended(self.outcome);
    }
}

impl Passage {
    /// The answers. `held` lives as long as they do.
    pub(crate) fn into_answers<T: Send + 'static>(
        self,
        phase: Phase,
        metrics: Arc<Metrics>,
        held: T,
    ) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
        let passing = Passing {
            first: Some(self.first),
            answers: self.answers,
            source: self.source,
            phase,
            counted: Counted {
                metrics,
                outcome: Outcome::Abandoned,
            },
            held: (self.call, self.reserved),
        };
        unfold(Some((passing, held)), |state| async {
            let (mut passing, held) = state?;
            match passing.next().await? {
                Ok(answer) => Some((Ok(answer), Some((passing, held)))),
                // Nothing comes after a failure; the afslet's call ends with it.
                Err(status) => Some((Err(status), None)),
            }
        })
    }
}

impl Passing {
    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let (outcome, next) = tokio::select! {
            biased;
            status = self.phase.is_cut_off() => (Outcome::CutOff, Some(Err(status))),
            answer = self.answers.message() => match answer {
                Ok(Some(answer)) => return Some(Ok(answer)),
                Ok(None) => (Outcome::Done, None),
                Err(status) => {
                    let (_, reserved) = &self.held;
                    (Outcome::Failed, Some(Err(told(status, reserved.at()))))
                }
            },
            status = self.source.failed() => (Outcome::BadFrames, Some(Err(status))),
        };
        self.counted.outcome = outcome;
        next
    }
}

/// What the client is told of a failure: the afslet's own words, if it had any.
fn told(status: Status, at: SocketAddr) -> Status {
    if status.source().is_none() {
        return status;
    }
    Status::unavailable(format!(
        "the afslet at {at} is gone, and with it this run, which it had accepted and which is not tried again: {}",
        reason(&status)
    ))
}
