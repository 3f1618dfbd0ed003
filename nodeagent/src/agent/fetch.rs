//! Bringing missing blob entries: one fetch per entry however many ask, demand before prefetch.
//!
//! ```text
//!  mount daemon ──fill──> ensure(Demand) ─┐
//!  profile, `lamina prefetch` ─> ensure(Ahead) ─┴─> claim ──> ChunkReader ──> BlobFile ──> wake all
//! ```
//!
//! An entry is claimed by the first who wants it; everybody else waits for the same flight. Flights
//! run in tasks of their own: a caller that goes away does not stop them. What is fetched ahead
//! pauses while anybody waits on demand.

use crate::agent::sources::{Provider, Source};
use futures::StreamExt;
use lamina_flist::BlobId;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// Who asks for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A reader waits.
    Demand,
    /// Nobody waits yet.
    Ahead,
}

/// Why an entry could not be brought. Shared by everybody who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("fetch data of blob {blob}")]
    Store {
        blob: BlobId,
        source: Arc<lamina_store::ReadError>,
    },
    #[error("write data of blob {blob} into the cache")]
    Cache {
        blob: BlobId,
        source: Arc<lamina_mount::cache::CacheError>,
    },
    #[error(
        "the cache is full and everything in it is in use: raise --cache-size or unmount something"
    )]
    Full,
    #[error("the fetch of blob {blob} ended without a result")]
    Lost { blob: BlobId },
}

type Outcome = Option<Result<(), FetchError>>;
type Flights = HashMap<(BlobId, u32), watch::Receiver<Outcome>>;

/// Entries of one blob fetched by one task at most: 4 MiB of plain data at the average chunk size.
const BATCH_ENTRIES: usize = 64;
/// Batches under way at once: enough to fill a fast link at 10 ms, few enough to bound memory.
const BATCHES_MAX: usize = 16;
/// Of them for data nobody waits for: what is in flight ahead delays a demand read by its length.
const BATCHES_AHEAD_MAX: usize = 6;

/// Counts of one source, since it was opened.
#[derive(Debug, Default)]
pub(crate) struct FetchCounts {
    /// Plain bytes brought.
    pub(crate) bytes: AtomicU64,
    /// Stored bytes they travelled as.
    pub(crate) stored_bytes: AtomicU64,
    /// Entries brought while a reader waited.
    pub(crate) demanded: AtomicU64,
    /// Entries brought before anybody asked.
    pub(crate) ahead: AtomicU64,
}

/// Brings entries.
pub(crate) struct Fetcher {
    flights: Mutex<Flights>,
    slots: Semaphore,
    slots_ahead: Semaphore,
    waiting: watch::Sender<u64>,
    space: Arc<crate::agent::space::Space>,
}

impl Fetcher {
    pub(crate) fn new(space: Arc<crate::agent::space::Space>) -> Arc<Self> {
        Arc::new(Self {
            flights: Mutex::default(),
            slots: Semaphore::new(BATCHES_MAX),
            slots_ahead: Semaphore::new(BATCHES_AHEAD_MAX),
            waiting: watch::Sender::new(0),
            space,
        })
    }

    /// Returns when every entry of the range is local, or with the first failure.
    ///
    /// There is no deadline here: the caller has one, and dropping the future is safe.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: Range<u32>,
        urgency: Urgency,
    ) -> Result<(), FetchError> {
        // Before the claim: a demand that joins a flight must find it flying, not queued.
        let _ahead = match urgency {
            Urgency::Ahead => self.slots_ahead.acquire().await.ok(),
            Urgency::Demand => None,
        };
        let _demand = (urgency == Urgency::Demand).then(|| Waiting::begin(&self.waiting));
        let mut pending = self.claim(source, entries, urgency);
        for flight in &mut pending {
            let outcome = flight.wait_for(Option::is_some).await;
            outcome
                .ok()
                .and_then(|outcome| outcome.clone())
                .unwrap_or(Err(FetchError::Lost { blob: source.id }))?;
        }
        Ok(())
    }

    /// Waits until no reader waits on demand: the gate of everything fetched ahead.
    pub(crate) async fn quiet(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self
            .waiting
            .subscribe()
            .wait_for(|waiting| *waiting == 0)
            .await;
    }

    /// Joins flights under way and starts flights for what nobody fetches yet.
    fn claim(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: Range<u32>,
        urgency: Urgency,
    ) -> Vec<watch::Receiver<Outcome>> {
        let mut pending = Vec::new();
        let mut mine = Vec::new();
        let mut flights = self.flights.lock().expect("no panic while claiming");
        for entry in entries {
            if source.file.is_present(entry as usize..entry as usize + 1) {
                continue;
            }
            let key = (source.id, entry);
            if let Some(flight) = flights.get(&key) {
                pending.push(flight.clone());
                continue;
            }
            let (sender, receiver) = watch::channel(None);
            flights.insert(key, receiver.clone());
            pending.push(receiver);
            mine.push((entry, sender));
        }
        drop(flights);
        while !mine.is_empty() {
            let rest = mine.split_off(mine.len().min(BATCH_ENTRIES));
            let batch = std::mem::replace(&mut mine, rest);
            tokio::spawn(Arc::clone(self).fly(Arc::clone(source), batch, urgency));
        }
        pending
    }

    async fn fly(
        self: Arc<Self>,
        source: Arc<Source>,
        batch: Vec<(u32, watch::Sender<Outcome>)>,
        urgency: Urgency,
    ) {
        let mut landing = Landing {
            fetcher: &self,
            blob: source.id,
            open: batch.into_iter().collect(),
        };
        let _slot = self.slots.acquire().await.ok();
        let entries: Vec<u32> = landing.open.keys().copied().collect();
        let wanted: u64 = entries.iter().map(|&entry| source.entry_len(entry)).sum();
        let Some(_reserved) = self.space.reserve(wanted) else {
            landing.all(&FetchError::Full);
            return;
        };
        self.bring(&source, &mut landing, entries, urgency).await;
    }

    /// Fetches entries until each has landed: from the stores of one flist that holds the blob, and
    /// what those cannot give from the next one's.
    async fn bring(
        &self,
        source: &Arc<Source>,
        landing: &mut Landing<'_>,
        mut entries: Vec<u32>,
        urgency: Urgency,
    ) {
        let mut failures = BTreeMap::new();
        for provider in source.providers() {
            failures = self
                .bring_from(&provider, source, landing, entries, urgency)
                .await;
            if failures.is_empty() {
                return;
            }
            entries = failures.keys().copied().collect();
        }
        for (entry, error) in failures {
            landing.one(entry, Err(error));
        }
    }

    /// One provider's try; gives what it could not bring. A failed request says which chunk could
    /// not be had; the others of the batch are asked for again without it.
    async fn bring_from(
        &self,
        provider: &Provider,
        source: &Arc<Source>,
        landing: &mut Landing<'_>,
        mut entries: Vec<u32>,
        urgency: Urgency,
    ) -> BTreeMap<u32, FetchError> {
        let mut failures = BTreeMap::new();
        while !entries.is_empty() {
            let located: Option<Vec<_>> = entries
                .iter()
                .map(|&entry| provider.locate(entry))
                .collect();
            let Some(wanted) = located else {
                let lost = FetchError::Lost { blob: source.id };
                failures.extend(entries.into_iter().map(|entry| (entry, lost.clone())));
                return failures;
            };
            let Some(error) = self
                .stream(provider, source, landing, &entries, &wanted, urgency)
                .await
            else {
                return failures;
            };
            let chunk = error.chunk;
            tracing::warn!(blob = %source.id, %chunk, error = crate::chain(&error), "fetch");
            let error = FetchError::Store {
                blob: source.id,
                source: Arc::new(error),
            };
            for (&entry, wanted) in entries.iter().zip(&wanted) {
                if wanted.chunk.id == chunk {
                    failures.insert(entry, error.clone());
                }
            }
            entries
                .retain(|entry| landing.open.contains_key(entry) && !failures.contains_key(entry));
        }
        failures
    }

    /// Lands entries as their chunks arrive, until all did or a request failed.
    async fn stream(
        &self,
        provider: &Provider,
        source: &Arc<Source>,
        landing: &mut Landing<'_>,
        entries: &[u32],
        wanted: &[lamina_store::ChunkSource],
        urgency: Urgency,
    ) -> Option<lamina_store::ReadError> {
        let mut arriving = std::pin::pin!(provider.reader.stream(wanted));
        while let Some(result) = arriving.next().await {
            match result {
                Ok((at, plain)) => {
                    let stored = wanted[at].chunk.stored_len;
                    let kept = source.keep(entries[at], plain, stored, urgency).await;
                    landing.one(entries[at], kept);
                }
                Err(error) => return Some(error),
            }
        }
        None
    }
}

/// Flights of one batch; whatever is left when it drops has failed, so that nobody waits for ever.
struct Landing<'a> {
    fetcher: &'a Fetcher,
    blob: BlobId,
    open: BTreeMap<u32, watch::Sender<Outcome>>,
}

impl Landing<'_> {
    fn one(&mut self, entry: u32, outcome: Result<(), FetchError>) {
        if let Some(sender) = self.open.remove(&entry) {
            self.fetcher
                .flights
                .lock()
                .expect("no panic while landing")
                .remove(&(self.blob, entry));
            sender.send_replace(Some(outcome));
        }
    }

    fn all(&mut self, error: &FetchError) {
        for entry in self.open.keys().copied().collect::<Vec<_>>() {
            self.one(entry, Err(error.clone()));
        }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.all(&FetchError::Lost { blob: self.blob });
    }
}

/// One reader waiting on demand.
struct Waiting<'a>(&'a watch::Sender<u64>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a watch::Sender<u64>) -> Self {
        count.send_modify(|waiting| *waiting += 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl FetchCounts {
    /// Adds these figures to a mount's.
    pub(crate) fn add_to(&self, info: &mut crate::api::MountInfo) {
        info.bytes_fetched += self.bytes.load(Ordering::Relaxed);
        info.bytes_transferred += self.stored_bytes.load(Ordering::Relaxed);
        info.chunks_demanded += self.demanded.load(Ordering::Relaxed);
        info.chunks_prefetched += self.ahead.load(Ordering::Relaxed);
    }

    /// Counts one entry that arrived.
    pub(crate) fn count(&self, len: u64, stored_len: u64, urgency: Urgency) {
        self.bytes.fetch_add(len, Ordering::Relaxed);
        self.stored_bytes.fetch_add(stored_len, Ordering::Relaxed);
        let by = if urgency == Urgency::Demand {
            &self.demanded
        } else {
            &self.ahead
        };
        by.fetch_add(1, Ordering::Relaxed);
    }
}
