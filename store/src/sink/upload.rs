//! Sealed packs to their target: uploads in the background with their index objects, or one local file.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::{StreamExt as _, TryStreamExt as _};
use lamina_flist::{IndexId, PackRecord};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::gate::Gate;
use super::{INDEX_EVERY, SinkError};
use crate::chunk_index::ChunkIndex;
use crate::error::Result as StoreResult;
use crate::index::{self, IndexedPack};
use crate::key::ObjectKey;
use crate::pack::PackBuilder;
use crate::set::{StoreSet, put_once};

/// Packs in upload at once: enough to hide a round trip, few enough for memory.
const UPLOADS: usize = 3;
/// On a slow line an index is written this often although few packs are done.
const INDEX_INTERVAL: Duration = Duration::from_secs(30);
/// Look-ups of referenced packs at the end.
const LOOKUPS: usize = 16;

/// Uploads in the background.
pub(super) struct Uploads {
    state: Arc<State>,
    handle: Handle,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

struct State {
    set: StoreSet,
    gate: Arc<Gate>,
    inner: Mutex<Inner>,
}

struct Inner {
    done: Vec<(u32, PackRecord)>,
    unlisted: Vec<IndexedPack>,
    last_index: Instant,
    error: Option<SinkError>,
}

impl Uploads {
    pub(super) fn new(set: StoreSet, index: &ChunkIndex, gate: Arc<Gate>, handle: Handle) -> Self {
        let unlisted = index.adopted().cloned().collect();
        let inner = Inner {
            done: Vec::new(),
            unlisted,
            last_index: Instant::now(),
            error: None,
        };
        let state = Arc::new(State {
            set,
            gate,
            inner: Mutex::new(inner),
        });
        Self {
            state,
            handle,
            permits: Arc::new(Semaphore::new(UPLOADS)),
            tasks: JoinSet::new(),
        }
    }

    /// Hands a pack over; waits while too many are under way (each ends within the stores' budget).
    pub(super) fn start(&mut self, slot: u32, pack: PackBuilder) -> Result<(), SinkError> {
        let permits = Arc::clone(&self.permits);
        let permit = self
            .handle
            .block_on(permits.acquire_owned())
            .map_err(|_| SinkError::Aborted)?;
        if self.state.gate.failed() {
            return Err(self.failure());
        }
        while self.tasks.try_join_next().is_some() {} // forget those that ended
        let state = Arc::clone(&self.state);
        let task = async move {
            if let Err(error) = state.upload(slot, pack).await {
                state.lock().error.get_or_insert(error);
                state.gate.fail();
            }
            drop(permit);
        };
        self.tasks.spawn_on(task, &self.handle);
        Ok(())
    }

    /// What failed first.
    pub(super) fn failure(&self) -> SinkError {
        self.state.lock().error.take().unwrap_or(SinkError::Aborted)
    }

    /// Waits for all uploads, lists what is not listed, and looks whether the packs that were only
    /// referred to are still there.
    pub(super) fn finish(
        mut self,
        referenced: &[PackRecord],
    ) -> Result<Vec<(u32, PackRecord)>, SinkError> {
        let handle = self.handle.clone();
        handle.block_on(async {
            while let Some(ended) = self.tasks.join_next().await {
                if ended.is_err() {
                    return Err(SinkError::Aborted); // it panicked
                }
            }
            if self.state.gate.failed() {
                return Err(self.failure());
            }
            self.state.list_done(true).await?;
            still_there(&self.state.set, referenced).await?;
            Ok(std::mem::take(&mut self.state.lock().done))
        })
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn upload(&self, slot: u32, pack: PackBuilder) -> Result<(), SinkError> {
        // Naming a pack hashes 8 MiB twice: not on an async thread.
        let sealed = tokio::task::spawn_blocking(move || pack.seal())
            .await
            .map_err(|_| SinkError::Aborted)?;
        self.set
            .put(&ObjectKey::Pack(sealed.record.id), sealed.bytes)
            .await?;
        {
            let mut inner = self.lock();
            inner.done.push((slot, sealed.record));
            inner.unlisted.push(IndexedPack {
                record: sealed.record,
                entries: sealed.entries,
            });
        }
        self.list_done(false).await
    }

    /// Writes an index of what is durable, if it is time or `now`.
    async fn list_done(&self, now: bool) -> Result<(), SinkError> {
        let packs = {
            let mut inner = self.lock();
            let due =
                inner.unlisted.len() >= INDEX_EVERY || inner.last_index.elapsed() >= INDEX_INTERVAL;
            if inner.unlisted.is_empty() || !(due || now) {
                return Ok(());
            }
            inner.last_index = Instant::now();
            std::mem::take(&mut inner.unlisted)
        };
        Ok(publish_index(&self.set, &packs).await?)
    }
}

/// Lists packs, durable at all their owners, in each owner's own index.
pub(crate) async fn publish_index(set: &StoreSet, packs: &[IndexedPack]) -> StoreResult<()> {
    for (range, store) in set.stores() {
        let owned: Vec<IndexedPack> = packs
            .iter()
            .filter(|pack| range.contains(pack.record.id.as_bytes()[0]))
            .cloned()
            .collect();
        if !owned.is_empty() {
            let bytes = index::encode(&owned);
            put_once(
                store.as_ref(),
                &ObjectKey::Index(IndexId::of(&bytes)),
                bytes,
            )
            .await?;
        }
    }
    Ok(())
}

async fn still_there(set: &StoreSet, packs: &[PackRecord]) -> Result<(), SinkError> {
    let lookups = packs.iter().map(|pack| async move {
        match set.has(&ObjectKey::Pack(pack.id), pack.len).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(SinkError::Vanished(pack.id)),
            Err(error) => Err(error.into()),
        }
    });
    futures::stream::iter(lookups)
        .buffer_unordered(LOOKUPS)
        .try_collect()
        .await
}

/// Packs one after the other in a local file.
pub(super) struct EmbeddedWriter {
    file: Box<dyn Write + Send>,
    at: u64,
    done: Vec<(u32, PackRecord)>,
}

impl EmbeddedWriter {
    pub(super) fn new(file: Box<dyn Write + Send>) -> Self {
        Self {
            file,
            at: 0,
            done: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, slot: u32, pack: PackBuilder) -> Result<(), SinkError> {
        let sealed = pack.seal();
        self.file.write_all(&sealed.bytes)?;
        self.done.push((
            slot,
            PackRecord {
                embedded_at: Some(self.at),
                ..sealed.record
            },
        ));
        self.at += sealed.record.len;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<(u32, PackRecord)>, SinkError> {
        self.file.flush()?;
        Ok(self.done)
    }
}
