//! What every reconciler holds.

use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::Semaphore;

use crate::job::Runs;
use crate::metrics::Metrics;
use crate::nodes::Dial;
use crate::retry::Attempts;

/// Streams of conversions open at once, over all nodes.
const ENSURES_MAX: usize = 32;

/// Port of the proxy.
const PROXY_PORT: u16 = 7180;

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
    /// `HOST:PORT` of the proxy that finds nodes for runs.
    pub(crate) proxy: String,
    /// Runs of jobs that are watched.
    pub(crate) runs: Runs,
    /// Whether jobs of queues wait for Kueue to admit them.
    pub(crate) kueue: bool,
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
            proxy: format!("lamina-proxy.{namespace}.svc:{PROXY_PORT}"),
            runs: Runs::default(),
            kueue: false,
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
