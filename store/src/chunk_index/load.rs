//! Loads a [`ChunkIndex`] from the stores of a set.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{StreamExt as _, TryStreamExt as _};
use lamina_flist::{IndexId, PackId};

use super::ChunkIndex;
use super::cache::IndexCache;
use crate::api::Store;
use crate::error::{ErrorKind, Result, StoreError};
use crate::index::{self, IndexedPack};
use crate::key::{ObjectKey, ObjectKind};
use crate::pack;
use crate::set::StoreSet;

/// Index objects fetched at the same time from one store.
const PARALLEL: usize = 8;

/// How to load.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Folder for fetched index objects; `None` fetches them each time.
    pub cache: Option<PathBuf>,
    /// Packs without an index (from an interrupted run) to read and adopt, at most. Each is up to
    /// 8 MiB to read. A run writes an index at least every [`crate::sink::INDEX_EVERY`] packs, so more
    /// than twice that are not worth looking at.
    pub adopt_max: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            cache: super::default_index_cache(),
            adopt_max: 2 * crate::sink::INDEX_EVERY,
        }
    }
}

/// What one store holds.
pub(crate) struct Holdings {
    pub(crate) packs: HashMap<PackId, Arc<IndexedPack>>,
    pub(crate) indexes: Vec<(IndexId, Vec<Arc<IndexedPack>>)>,
    /// Index objects that cannot be read as such.
    pub(crate) damaged: Vec<IndexId>,
}

impl ChunkIndex {
    /// The snapshot of a set. Read-only stores cannot be listed and hold no index for this purpose, so
    /// packs owned by one are unknown.
    ///
    /// # Errors
    /// A store cannot be listed or read. Damaged objects are skipped, not errors.
    pub async fn load(set: &StoreSet, options: &LoadOptions) -> Result<Self> {
        let cache = IndexCache::new(options.cache.as_deref());
        let mut held: HashMap<PackId, (Arc<IndexedPack>, usize)> = HashMap::new();
        let mut adopted = HashSet::new();
        let mut ranges = Vec::new();
        for (range, store) in set.stores() {
            ranges.push(range);
            if !store.writable() {
                continue;
            }
            let mut holdings = load_holdings(store.as_ref(), &cache).await?.packs;
            for pack in adopt(store.as_ref(), &holdings, options.adopt_max).await? {
                adopted.insert(pack.record.id);
                holdings.insert(pack.record.id, Arc::new(pack));
            }
            for (id, pack) in holdings {
                if range.contains(id.as_bytes()[0]) {
                    held.entry(id).or_insert((pack, 0)).1 += 1;
                }
            }
        }
        let owners = |id: &PackId| {
            ranges
                .iter()
                .filter(|range| range.contains(id.as_bytes()[0]))
                .count()
        };
        let everywhere = held
            .into_iter()
            .filter(|(id, (_, count))| *count == owners(id));
        let packs = everywhere
            .map(|(_, (pack, _))| Arc::unwrap_or_clone(pack))
            .collect();
        let mut index = Self::from_packs(packs);
        index.adopted = adopted
            .into_iter()
            .filter(|id| index.by_pack.contains_key(id))
            .collect();
        index.adopted.sort_unstable();
        Ok(index)
    }
}

/// Every index object of one store.
pub(crate) async fn load_store(store: &dyn Store, cache: Option<PathBuf>) -> Result<Holdings> {
    load_holdings(store, &IndexCache::new(cache.as_deref())).await
}

async fn load_holdings(store: &dyn Store, cache: &IndexCache) -> Result<Holdings> {
    let listed = store.list(ObjectKind::Index).await?;
    let ids = listed.into_iter().filter_map(|found| match found.key {
        ObjectKey::Index(id) => Some(id),
        _ => None,
    });
    let fetched: Vec<(IndexId, Option<Bytes>)> = futures::stream::iter(ids)
        .map(|id| fetch(store, cache, id))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let mut holdings = Holdings {
        packs: HashMap::new(),
        indexes: Vec::new(),
        damaged: Vec::new(),
    };
    for (id, bytes) in fetched {
        let Some(packs) = bytes.and_then(|bytes| index::parse(&bytes).ok()) else {
            tracing::warn!(store = store.name(), index = %id, "index object is damaged; its packs are unknown");
            holdings.damaged.push(id);
            continue;
        };
        let packs: Vec<_> = packs.into_iter().map(Arc::new).collect();
        for pack in &packs {
            holdings
                .packs
                .entry(pack.record.id)
                .or_insert_with(|| Arc::clone(pack));
        }
        holdings.indexes.push((id, packs));
    }
    Ok(holdings)
}

/// `None`: damaged, or removed since it was listed (garbage collection replaced it).
async fn fetch(
    store: &dyn Store,
    cache: &IndexCache,
    id: IndexId,
) -> Result<(IndexId, Option<Bytes>)> {
    if let Some(bytes) = cache.get(&id) {
        return Ok((id, Some(bytes)));
    }
    let bytes = match store.get(&ObjectKey::Index(id), index::INDEX_LEN_MAX).await {
        Ok(bytes) => bytes,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok((id, None));
        }
        Err(e) => return Err(e),
    };
    if IndexId::of(&bytes) != id {
        return Ok((id, None));
    }
    cache.put(&id, &bytes);
    Ok((id, Some(bytes)))
}

/// Reads packs that no index lists, at most `max`; damaged ones are left alone.
async fn adopt(
    store: &dyn Store,
    known: &HashMap<PackId, Arc<IndexedPack>>,
    max: usize,
) -> Result<Vec<IndexedPack>> {
    if max == 0 {
        return Ok(Vec::new());
    }
    let listed = store.list(ObjectKind::Pack).await?;
    let mut orphans: Vec<PackId> = listed
        .into_iter()
        .filter_map(|found| match found.key {
            ObjectKey::Pack(id) if !known.contains_key(&id) => Some(id),
            _ => None,
        })
        .collect();
    orphans.sort_unstable();
    orphans.truncate(max);
    // Two at a time: whole packs pass through memory.
    let read = futures::stream::iter(orphans)
        .map(|id| read_whole_pack(store, id))
        .buffer_unordered(2);
    let packs: Vec<Option<IndexedPack>> = read
        .map(|result| result.map_or_else(tolerate, |p| Ok(Some(p))))
        .try_collect()
        .await?;
    Ok(packs.into_iter().flatten().collect())
}

fn tolerate(error: StoreError) -> Result<Option<IndexedPack>> {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Corrupt => {
            tracing::warn!(%error, "a pack without index is left alone");
            Ok(None)
        }
        _ => Err(error),
    }
}

/// A pack read, checked against its name, and its contents.
pub(crate) async fn read_whole_pack(store: &dyn Store, id: PackId) -> Result<IndexedPack> {
    let key = ObjectKey::Pack(id);
    let bytes = store.get(&key, pack::PACK_LEN_MAX).await?;
    let corrupt = || StoreError::new(ErrorKind::Corrupt, "read", store.name()).key(&key);
    let record = pack::record_of(&bytes);
    if record.id != id {
        return Err(corrupt().detail("its bytes do not match its name"));
    }
    let entries = pack::parse_entries(&bytes).map_err(|e| corrupt().source(e))?;
    Ok(IndexedPack { record, entries })
}
