//! What all operations of a set know about one store: whether it lately failed, and whether an operation
//! has already waited in vain for it to come back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{ErrorKind, StoreError};

/// Who waits longer than this is told why.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Shared by everything that speaks to one store.
#[derive(Debug)]
pub(crate) struct Health {
    quarantine: Duration,
    start: Instant,
    /// Milliseconds after `start` until which the store is asked last.
    bad_until: AtomicU64,
    /// The same until which nobody waits for it to come back.
    given_up_until: AtomicU64,
    /// A warning was logged since it last answered.
    told: AtomicBool,
}

impl Health {
    pub(crate) fn new(quarantine: Duration) -> Self {
        Self {
            quarantine,
            start: Instant::now(),
            bad_until: AtomicU64::new(0),
            given_up_until: AtomicU64::new(0),
            told: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        self.now() < self.bad_until.load(Ordering::Relaxed)
    }

    pub(crate) fn quarantine(&self) {
        self.bad_until.store(self.soon(), Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        self.bad_until.store(0, Ordering::Relaxed);
        self.answered();
    }

    /// An operation begun at `since` tries again: a wait that takes long is logged, once per outage.
    pub(crate) fn tries_again(&self, since: Instant, error: &StoreError) {
        if since.elapsed() > SILENCE_MAX && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "waiting for a store");
        } else {
            tracing::debug!(%error, "trying again");
        }
    }

    /// An operation has spent its budget on this store: the next ones ask once and do not wait.
    pub(crate) fn give_up(&self) {
        self.given_up_until.store(self.soon(), Ordering::Relaxed);
    }

    pub(crate) fn is_given_up(&self) -> bool {
        self.now() < self.given_up_until.load(Ordering::Relaxed)
    }

    /// It answered, whatever it said.
    pub(crate) fn answered(&self) {
        self.given_up_until.store(0, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
    }

    /// Remembers a failure that says something about the store as a whole, not only about one object.
    pub(crate) fn note(&self, error: &StoreError) {
        tracing::debug!(%error, "replica failed");
        match error.kind() {
            kind if kind.is_transient() => self.quarantine(),
            ErrorKind::Corrupt | ErrorKind::Denied => self.quarantine(),
            ErrorKind::NotFound => self.answered(),
            _ => {}
        }
    }

    fn soon(&self) -> u64 {
        self.now() + self.quarantine.as_millis() as u64
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}
