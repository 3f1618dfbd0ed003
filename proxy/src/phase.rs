//! Whether runs are taken, go on, or are cut off: a proxy's way to its end.

use tokio::sync::watch;
use tonic::Status;

/// Later is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Serving,
    Draining,
    CutOff,
}

/// Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Phase(watch::Sender<Step>);

impl Phase {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Step::Serving))
    }

    /// No more runs.
    pub(crate) fn drain(&self) {
        self.0.send_replace(Step::Draining);
    }

    /// Those that there are end.
    pub(crate) fn cut_off(&self) {
        self.0.send_replace(Step::CutOff);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.0.borrow() >= Step::Draining
    }

    /// Returns what to tell those that no afslet has accepted, once no more runs are taken.
    pub(crate) async fn drained(&self) -> Status {
        self.reached(Step::Draining).await;
        Status::unavailable("this proxy is ending; nothing ran: ask another one")
    }

    /// Returns what to tell those that are going on, once they are to end.
    pub(crate) async fn is_cut_off(&self) -> Status {
        self.reached(Step::CutOff).await;
        Status::unavailable("this proxy has ended before the run; the run was ended, too")
    }

    async fn reached(&self, step: Step) {
        // The sender lives in `self`.
        let _ = self.0.subscribe().wait_for(|now| *now >= step).await;
    }
}
