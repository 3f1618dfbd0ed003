//! One store of a set, and whether it lately failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::Store;
use crate::error::{ErrorKind, StoreError};
use crate::options::StoreOptions;
use crate::retry::Retry;
use crate::spec::ShardRange;

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) range: ShardRange,
    raw: Arc<dyn Store>,
    steady: Arc<dyn Store>,
    health: Arc<Health>,
}

#[derive(Debug)]
struct Health {
    quarantine: Duration,
    start: Instant,
    /// Milliseconds after `start` until which the store is asked last.
    bad_until: AtomicU64,
}

impl Member {
    pub(super) fn new(range: ShardRange, raw: Arc<dyn Store>, options: &StoreOptions) -> Self {
        let steady = Arc::new(Retry::new(Arc::clone(&raw), options.clone()));
        let health = Health {
            quarantine: options.quarantine,
            start: Instant::now(),
            bad_until: AtomicU64::new(0),
        };
        Self {
            range,
            raw,
            steady,
            health: Arc::new(health),
        }
    }

    /// The store itself: one try per call.
    pub(super) fn raw(&self) -> Arc<dyn Store> {
        Arc::clone(&self.raw)
    }

    /// The store with deadlines and retries.
    pub(super) fn steady(&self) -> Arc<dyn Store> {
        Arc::clone(&self.steady)
    }

    pub(super) fn is_quarantined(&self) -> bool {
        self.health.now() < self.health.bad_until.load(Ordering::Relaxed)
    }

    pub(super) fn quarantine(&self) {
        let until = self.health.now() + self.health.quarantine.as_millis() as u64;
        self.health.bad_until.store(until, Ordering::Relaxed);
    }

    pub(super) fn release(&self) {
        self.health.bad_until.store(0, Ordering::Relaxed);
    }

    /// Remembers a failure that says something about the store as a whole, not only about one object.
    pub(super) fn note(&self, error: &StoreError) {
        tracing::debug!(%error, "replica failed");
        if error.kind().is_transient()
            || matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Denied)
        {
            self.quarantine();
        }
    }
}

impl Health {
    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}
