//! A store that misbehaves on purpose, for tests of everything above it.

mod memory;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use memory::MemoryStore;

use crate::api::{Listed, PackRef, Store};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};

/// How it misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    None,
    /// Says it cannot serve now.
    Down,
    /// Refuses connections.
    Refused,
    /// Never answers.
    Hang,
    /// Answers after this long.
    Slow(Duration),
    /// Says yes and sends fewer bytes.
    Short,
    /// Sends the right number of zeros.
    Zeros,
    /// Flips one bit somewhere.
    Flip,
    /// Has no space: reads work, writes do not.
    Full,
    /// Refuses credentials.
    Denied,
    /// Every second request fails.
    Flaky,
    /// Does this many more changes (puts and deletes), then fails all of them: a kill at that point.
    StopAfterChanges(u64),
}

/// Wraps a store with a fault that can be changed at any time.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn Store>,
    fault: Arc<Mutex<Fault>>,
    reads: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
}

impl FaultStore {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Store>, fault: Fault) -> Self {
        Self {
            inner,
            fault: Arc::new(Mutex::new(fault)),
            reads: Arc::default(),
            requests: Arc::default(),
        }
    }

    /// From now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// Requests of every kind so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Reads asked of it so far.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn fail<T>(&self, kind: ErrorKind, operation: &'static str) -> Result<T> {
        Err(StoreError::new(kind, operation, self.inner.name()).detail("injected fault"))
    }

    async fn before(&self, operation: &'static str, changes: bool) -> Result<Fault> {
        let nth = self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = {
            let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            let now = *fault;
            if let (Fault::StopAfterChanges(left), true) = (now, changes) {
                *fault = Fault::StopAfterChanges(left.saturating_sub(1));
            }
            now
        };
        match fault {
            Fault::Down => self.fail(ErrorKind::Unavailable, operation),
            Fault::Refused => self
                .fail(ErrorKind::Unavailable, operation)
                .map_err(StoreError::unreachable),
            Fault::Denied => self.fail(ErrorKind::Denied, operation),
            Fault::Flaky if nth.is_multiple_of(2) => self.fail(ErrorKind::Unavailable, operation),
            Fault::Full if operation == "write" => self.fail(ErrorKind::Full, operation),
            Fault::StopAfterChanges(0) if changes => self.fail(ErrorKind::Invalid, operation),
            Fault::Hang => std::future::pending().await,
            Fault::Slow(delay) => {
                tokio::time::sleep(delay).await;
                Ok(fault)
            }
            _ => Ok(fault),
        }
    }
}

fn spoil(fault: Fault, bytes: Bytes) -> Bytes {
    match fault {
        Fault::Short => bytes.slice(..bytes.len() / 2),
        Fault::Zeros => vec![0; bytes.len()].into(),
        Fault::Flip => {
            let mut bytes = bytes.to_vec();
            let at = bytes.len() / 2;
            bytes[at] ^= 4;
            bytes.into()
        }
        _ => bytes,
    }
}

#[async_trait]
impl Store for FaultStore {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn writable(&self) -> bool {
        self.inner.writable()
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let fault = self.before("read", false).await?;
        Ok(spoil(fault, self.inner.get(key, len_max).await?))
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let fault = self.before("read", false).await?;
        Ok(spoil(fault, self.inner.get_range(pack, range).await?))
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        self.before("look up", false).await?;
        self.inner.head(key).await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        self.before("write", true).await?;
        self.inner.put(key, bytes).await
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        self.before("list", false).await?;
        self.inner.list(kind).await
    }

    async fn is_there(&self) -> Result<bool> {
        self.before("look for", false).await?;
        self.inner.is_there().await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.before("delete", true).await?;
        self.inner.delete(key).await
    }
}
