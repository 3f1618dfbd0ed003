//! One store of a set: plain, with retries, and what is known of its health.

use std::sync::Arc;

use crate::api::Store;
use crate::health::Health;
use crate::options::StoreOptions;
use crate::retry::Retry;
use crate::spec::ShardRange;

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) range: ShardRange,
    raw: Arc<dyn Store>,
    steady: Arc<dyn Store>,
    pub(super) health: Arc<Health>,
}

impl Member {
    pub(super) fn new(range: ShardRange, raw: Arc<dyn Store>, options: &StoreOptions) -> Self {
        let health = Arc::new(Health::new(options.quarantine));
        let steady = Retry::new(Arc::clone(&raw), options.clone()).sharing(Arc::clone(&health));
        Self {
            range,
            raw,
            steady: Arc::new(steady),
            health,
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
}
