//! Retries with a deadline per try, exponential back-off with full jitter, and a budget for all of it.
//!
//! Only transient failures are tried again; a wrong answer, a refusal or a full disk is not.

use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::api::{Listed, PackRef, Store};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::options::StoreOptions;

/// First pause; doubles each time. Short, because most failures are a connection that was closed.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: a store that comes back is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Listings have no known size: one page at a time still needs this long on a slow store.
const LIST_BYTES: u64 = 16 << 20;

/// Pauses between tries until the budget is spent.
#[derive(Debug)]
pub(crate) struct Backoff {
    pause: Duration,
    until: Instant,
}

impl Backoff {
    pub(crate) fn new(budget: Duration) -> Self {
        Self {
            pause: PAUSE_FIRST,
            until: Instant::now() + budget,
        }
    }

    /// Time left for everything.
    pub(crate) fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Waits a random part of the pause; `false` when the budget would be spent.
    pub(crate) async fn pause(&mut self) -> bool {
        let share = u32::try_from(random() >> 32).unwrap_or(u32::MAX);
        let wait = self.pause.mul_f64(f64::from(share) / f64::from(u32::MAX));
        if wait >= self.left() {
            return false;
        }
        tokio::time::sleep(wait).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// A random number good enough to spread load and name temporary files.
pub(crate) fn random() -> u64 {
    // Every RandomState has its own random keys.
    std::hash::RandomState::new().build_hasher().finish()
}

/// A store whose every operation is bounded in time, and retried while that can help.
#[derive(Debug, Clone)]
pub struct Retry {
    inner: Arc<dyn Store>,
    options: StoreOptions,
}

impl Retry {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, options: StoreOptions) -> Self {
        Self { inner, options }
    }

    async fn run<T, F>(
        &self,
        what: &'static str,
        key: Option<&ObjectKey>,
        bytes: u64,
        attempt: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut backoff = Backoff::new(StoreOptions::allow(self.options.budget, bytes));
        loop {
            let limit =
                StoreOptions::allow(self.options.attempt_timeout, bytes).min(backoff.left());
            let error = match bounded(limit, self.name(), what, key, attempt()).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !error.kind().is_transient() || !backoff.pause().await {
                return Err(error);
            }
            tracing::debug!(%error, "trying again");
        }
    }
}

/// `attempt`, or `Timeout` after `limit`.
pub(crate) async fn bounded<T>(
    limit: Duration,
    store: &str,
    what: &'static str,
    key: Option<&ObjectKey>,
    attempt: impl Future<Output = Result<T>>,
) -> Result<T> {
    if let Ok(result) = tokio::time::timeout(limit, attempt).await {
        return result;
    }
    let error = StoreError::new(ErrorKind::Timeout, what, store);
    let error = error.detail(format!("no answer within {:.1} s", limit.as_secs_f64()));
    Err(match key {
        Some(key) => error.key(key),
        None => error,
    })
}

#[async_trait]
impl Store for Retry {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn writable(&self) -> bool {
        self.inner.writable()
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        self.run("read", Some(key), len_max, || self.inner.get(key, len_max))
            .await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        self.run("read", Some(&pack.key()), len, || {
            self.inner.get_range(pack, range.clone())
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        self.run("look up", Some(key), 0, || self.inner.head(key))
            .await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        self.run("write", Some(key), bytes.len() as u64, || {
            self.inner.put(key, bytes.clone())
        })
        .await
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        self.run("list", None, LIST_BYTES, || self.inner.list(kind))
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.run("delete", Some(key), 0, || self.inner.delete(key))
            .await
    }
}
