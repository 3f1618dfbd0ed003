//! Taking down what an earlier life left mounted, once `lamina node` answers, and then what somebody wants to forget.
//!
//! Both are started together, so that the node does not answer at first is no news: it is said only when it lasts.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::error::{RunError, chain};
use crate::images::Images;

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks for what is to be forgotten; who deletes an object waits a minute for all that shows it.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a node may take to start: it looks through all that it mounted.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Between two warnings of the same.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Until it is done: nothing is mounted before.
pub(crate) async fn sweep(images: Images) {
    let mut warnings = Warnings::new(Instant::now());
    while let Err(error) = images.sweep().await {
        let why = chain(&error);
        if warnings.is_due(&error, Instant::now()) {
            tracing::warn!("take down images of an earlier life: {why}");
        } else {
            tracing::debug!("waiting for lamina node: {why}");
        }
        sleep(PAUSE).await;
    }
}

/// For as long as it is polled: what is kept warm and is to be forgotten is let go.
pub(crate) async fn let_go(images: Images) {
    loop {
        sleep(LOOK_EVERY).await;
        if let Err(error) = images.let_go().await {
            tracing::debug!("look for what is to be forgotten: {}", chain(&error));
        }
    }
}

/// When somebody should be told.
struct Warnings {
    /// A node that does not answer is no news before.
    patient_until: Instant,
    last: Option<Instant>,
}

impl Warnings {
    fn new(now: Instant) -> Self {
        Self {
            patient_until: now + START_PATIENCE,
            last: None,
        }
    }

    fn is_due(&mut self, error: &RunError, now: Instant) -> bool {
        let is_silent = matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded);
        let is_told = self.last.is_some_and(|last| now < last + WARN_EVERY);
        if is_told || (is_silent && now < self.patient_until) {
            return false;
        }
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_starts_is_waited_for_quietly_and_one_that_stays_away_is_told_of_each_minute() {
        let start = Instant::now();
        let mut warnings = Warnings::new(start);
        let silent = RunError::unavailable("nobody there");
        let told: Vec<u64> = (0..200)
            .filter(|second| warnings.is_due(&silent, start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(told, [60, 120, 180]);
    }

    #[test]
    fn what_a_node_says_is_told_at_once() {
        let start = Instant::now();
        let mut warnings = Warnings::new(start);
        let said = RunError::new(Code::Internal, "the disk is broken");
        assert!(warnings.is_due(&said, start));
        assert!(!warnings.is_due(&said, start + PAUSE));
        assert!(warnings.is_due(&said, start + WARN_EVERY));
    }
}
