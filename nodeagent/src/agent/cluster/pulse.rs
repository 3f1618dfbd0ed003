//! What a node sends, whichever request it is for.
//!
//! Many requests share its cable: each of them may be silent for long although the node does what it can. It is slow, or
//! silent, only when all of them together are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// What came from one node; shared by everybody who waits for it.
#[derive(Debug)]
pub(super) struct Pulse {
    began: Instant,
    last_ms: AtomicU64,
    bytes: AtomicU64,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            last_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// So many bytes came.
    pub(super) fn beat(&self, bytes: u32) {
        let since = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.fetch_max(since, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(bytes), Ordering::Relaxed);
    }

    /// When something came last.
    pub(super) fn last(&self) -> Instant {
        self.began + Duration::from_millis(self.last_ms.load(Ordering::Relaxed))
    }

    /// How much has come.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
