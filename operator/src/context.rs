//! What every reconciler holds.

use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use crate::nodes::Dial;
use crate::retry::Attempts;

/// Streams of conversions open at once, over all nodes.
const ENSURES_MAX: usize = 32;

/// What every reconciler holds.
pub(crate) struct Ctx {
    pub(crate) client: kube::Client,
    /// Lamina's namespace.
    pub(crate) namespace: String,
    pub(crate) dial: Dial,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) attempts: Attempts,
    pub(crate) ensures: Semaphore,
}

impl Ctx {
    pub(crate) fn new(
        client: kube::Client,
        namespace: String,
        identity: String,
        dial: Dial,
        metrics: Metrics,
    ) -> Self {
        let reporter = Reporter {
            controller: crate::MANAGER.to_owned(),
            instance: Some(identity),
        };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            namespace,
            dial,
            metrics,
            attempts: Attempts::default(),
            ensures: Semaphore::new(ENSURES_MAX),
        }
    }
}
