//! The end of an afslet: first no new runs, then those that are left are killed.

use tokio::sync::watch;

use crate::error::RunError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Over,
}

/// Where an afslet is on its way to its end; clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Drain {
    phase: watch::Sender<Phase>,
    runs: watch::Sender<usize>,
}

/// A run that is under way.
#[derive(Debug)]
pub(crate) struct Counted(watch::Sender<usize>);

impl Drain {
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::channel(Phase::Serving).0,
            runs: watch::channel(0).0,
        }
    }

    /// Counts a run for as long as the answer lives.
    pub(crate) fn count(&self) -> Counted {
        self.runs.send_modify(|runs| *runs += 1);
        Counted(self.runs.clone())
    }

    /// Takes no more runs.
    pub(crate) fn begin(&self) {
        self.phase
            .send_modify(|phase| *phase = (*phase).max(Phase::Draining));
    }

    /// Has those that are left killed.
    pub(crate) fn finish(&self) {
        self.phase.send_replace(Phase::Over);
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
    }

    /// Whether runs are taken.
    ///
    /// # Errors
    /// `UNAVAILABLE` when they are not.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match self.is_draining() {
            true => Err(Self::refusal()),
            false => Ok(()),
        }
    }

    pub(crate) fn refusal() -> RunError {
        RunError::unavailable("this afslet is ending and takes no more runs")
    }

    /// Returns when runs that are left are to be killed.
    pub(crate) async fn over(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is ours.
        let _ = phase.wait_for(|phase| *phase == Phase::Over).await;
    }

    /// Returns when no run is under way.
    pub(crate) async fn idle(&self) {
        let mut runs = self.runs.subscribe();
        let _ = runs.wait_for(|runs| *runs == 0).await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|runs| *runs -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn first_nobody_new_then_the_rest_is_killed() {
        let drain = Drain::new();
        let run = drain.count();
        drain.check().unwrap();
        drain.begin();
        let refused = drain.check().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        assert!(drain.over().now_or_never().is_none());
        assert!(drain.idle().now_or_never().is_none());
        drain.finish();
        drain.over().await;
        drain.begin();
        drain.over().await;
        drop(run);
        drain.idle().await;
    }
}
