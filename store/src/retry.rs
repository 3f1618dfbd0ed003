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
use crate::health::Health;
use crate::key::{ObjectKey, ObjectKind};
use crate::options::StoreOptions;

/// First pause; doubles each time. Short, because most failures are a connection that was closed.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause: a store that comes back is found within this.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Listings have no known size: all of their pages may take this long on a slow store. One that sends
/// nothing is noticed at its page, by the back ends.
const LIST_BYTES: u64 = 16 << 20;

/// Pauses between tries until the budget is spent.
///
/// The size of a transfer makes a try longer, not the waiting for a store that is down: time a try takes
/// beyond [`StoreOptions::attempt_timeout`] is not counted, the rest is.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    options: &'a StoreOptions,
    bytes: u64,
    pause: Duration,
    /// No try begins later.
    until: Instant,
    /// The same after a try that could not connect.
    connect_until: Instant,
    /// No try lasts longer.
    end: Instant,
}

impl<'a> Backoff<'a> {
    /// For an operation that begins now and moves about `bytes`.
    pub(crate) fn new(options: &'a StoreOptions, bytes: u64) -> Self {
        let now = Instant::now();
        Self {
            options,
            bytes,
            pause: PAUSE_FIRST,
            until: now + options.budget,
            connect_until: now + options.connect_budget.min(options.budget),
            end: now + StoreOptions::allow(options.budget, bytes),
        }
    }

    /// How long the next try may last.
    pub(crate) fn limit(&self) -> Duration {
        let left = self.end.saturating_duration_since(Instant::now());
        StoreOptions::allow(self.options.attempt_timeout, self.bytes).min(left)
    }

    /// A try that began then is over.
    pub(crate) fn tried(&mut self, began: Instant) {
        let size_took = began.elapsed().saturating_sub(self.options.attempt_timeout);
        self.until = (self.until + size_took).min(self.end);
    }

    /// Waits a random part of the pause; `false` when none of these errors is worth it, or the budget would
    /// be spent.
    pub(crate) async fn pause(&mut self, errors: impl IntoIterator<Item = &StoreError>) -> bool {
        let until = errors
            .into_iter()
            .map(|error| match error.is_unreachable() {
                // A last long pause would end a short budget early; asking again costs next to nothing.
                true => (self.connect_until, self.options.connect_budget / 4),
                false => (self.until, PAUSE_MAX),
            });
        let Some((until, pause_max)) = until.max() else {
            return false;
        };
        let share = u32::try_from(random() >> 32).unwrap_or(u32::MAX);
        let wait = self
            .pause
            .min(pause_max)
            .mul_f64(f64::from(share) / f64::from(u32::MAX));
        if Instant::now() + wait >= until {
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
    health: Arc<Health>,
}

impl Retry {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, options: StoreOptions) -> Self {
        let health = Arc::new(Health::new(options.quarantine));
        Self {
            inner,
            options,
            health,
        }
    }

    /// The same, knowing what others know about the store.
    pub(crate) fn sharing(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    async fn run<T, F>(
        &self,
        options: &StoreOptions,
        what: &'static str,
        key: Option<&ObjectKey>,
        bytes: u64,
        attempt: impl Fn() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let start = Instant::now();
        let mut backoff = Backoff::new(options, bytes);
        let mut before = None;
        loop {
            // Asked before: a try may outlast the memory.
            let given_up = self.health.is_given_up();
            let began = Instant::now();
            let error = match bounded(backoff.limit(), self.name(), what, key, attempt()).await {
                Ok(value) => {
                    self.health.answered();
                    return Ok(value);
                }
                Err(error) => error,
            };
            backoff.tried(began);
            if !error.kind().is_transient() {
                if error.is_not_found() {
                    self.health.answered();
                }
                return Err(error);
            }
            if given_up || self.health.is_given_up() || !backoff.pause([&error]).await {
                self.health.give_up();
                return Err(error.after(before.as_ref()));
            }
            self.health.tries_again(start, &error);
            if error.kind() != ErrorKind::Timeout {
                before = Some(error);
            }
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
        self.run(&self.options, "read", Some(key), len_max, || {
            self.inner.get(key, len_max)
        })
        .await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        self.run(&self.options, "read", Some(&pack.key()), len, || {
            self.inner.get_range(pack, range.clone())
        })
        .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        self.run(&self.options, "look up", Some(key), 0, || {
            self.inner.head(key)
        })
        .await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        self.run(
            &self.options,
            "write",
            Some(key),
            bytes.len() as u64,
            || self.inner.put(key, bytes.clone()),
        )
        .await
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        // What waiting for a page takes is no matter of size.
        let options = StoreOptions {
            attempt_timeout: self.options.page_timeout(),
            ..self.options.clone()
        };
        self.run(&options, "list", None, LIST_BYTES, || self.inner.list(kind))
            .await
    }

    async fn is_there(&self) -> Result<bool> {
        self.run(&self.options, "look for", None, 0, || self.inner.is_there())
            .await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.run(&self.options, "delete", Some(key), 0, || {
            self.inner.delete(key)
        })
        .await
    }
}
