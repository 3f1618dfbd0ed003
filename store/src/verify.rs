//! Reads everything back: each pack's bytes against its name, each chunk against its id, at each replica.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use lamina_flist::{ChunkRecord, PackId, PackRecord};

use crate::api::Store;
use crate::chunk_index::load_store;
use crate::codec;
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};
use crate::pack;
use crate::set::StoreSet;

/// Packs in memory at once.
const PARALLEL: usize = 3;
/// Problems kept in a report; more are only counted.
const PROBLEMS_MAX: usize = 10_000;

/// Something wrong at one store.
#[derive(Debug)]
pub struct Problem {
    /// What: the store, the object, the kind.
    pub error: StoreError,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// Copies of packs read.
    pub packs: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Copies of packs not read because their store was down; one problem tells of all those of a store.
    pub unread: u64,
    /// All problems found.
    pub problem_count: u64,
    /// The first of them.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    /// Gives up on a store that is down.
    fn leave(&mut self, store: &str, left: usize, total: usize) {
        self.unread += left as u64;
        let error = StoreError::new(ErrorKind::Unavailable, "verify", store);
        self.problem(error.detail(format!("{left} of its {total} packs were not read")));
    }

    fn problem(&mut self, error: StoreError) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { error });
        }
    }
}

/// What one pack should hold besides what it says itself.
type Wanted<'a> = HashMap<PackId, (&'a PackRecord, Vec<&'a ChunkRecord>)>;

/// Verifies what a flist needs: every pack in its table at every owner, every chunk where the flist says
/// it is. `progress` is told the bytes read.
pub async fn verify_flist(
    set: &StoreSet,
    chunks: &[ChunkRecord],
    packs: &[PackRecord],
    progress: &(dyn Fn(u64) + Sync),
) -> VerifyReport {
    let mut wanted: Wanted<'_> = packs
        .iter()
        .map(|pack| (pack.id, (pack, Vec::new())))
        .collect();
    let mut report = VerifyReport::default();
    for chunk in chunks {
        match packs
            .get(chunk.pack as usize)
            .and_then(|pack| wanted.get_mut(&pack.id))
        {
            Some((_, chunks)) => chunks.push(chunk),
            None => report.problem(
                StoreError::new(ErrorKind::Invalid, "verify", "the flist")
                    .detail(format!("chunk {} names no pack", chunk.id)),
            ),
        }
    }
    for (range, store) in set.stores() {
        let ids: Vec<PackId> = wanted
            .keys()
            .filter(|id| range.contains(id.as_bytes()[0]))
            .copied()
            .collect();
        verify_packs(&store, ids, &wanted, progress, &mut report).await;
    }
    report
}

/// Verifies all that the stores hold: every pack, every index object, every published flist. Fails only
/// where a store cannot be listed.
///
/// # Errors
/// A store cannot be listed, or its indexes not be read.
pub async fn verify_stores(
    set: &StoreSet,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    for (_, store) in set.stores() {
        let mut ids = Vec::new();
        for found in store.list(ObjectKind::Pack).await? {
            if let ObjectKey::Pack(id) = found.key {
                ids.push(id);
            }
        }
        verify_packs(&store, ids.clone(), &HashMap::new(), progress, &mut report).await;
        let held: std::collections::HashSet<_> = ids.into_iter().collect();
        let holdings = load_store(store.as_ref(), None).await?;
        let wrong = |key: ObjectKey, what: &str| {
            StoreError::new(ErrorKind::Corrupt, "verify", store.name())
                .key(&key)
                .detail(what)
        };
        for id in holdings.damaged {
            report.problem(wrong(ObjectKey::Index(id), "not a readable index"));
        }
        for id in holdings.packs.keys().filter(|id| !held.contains(id)) {
            report.problem(wrong(
                ObjectKey::Pack(*id),
                "listed in an index but not there",
            ));
        }
        for found in store.list(ObjectKind::Flist).await? {
            if let ObjectKey::Flist(digest) = found.key
                && let Err(error) = crate::flists::packs_of(store.as_ref(), digest).await
            {
                report.problem(error);
            }
        }
    }
    Ok(report)
}

async fn verify_packs(
    store: &Arc<dyn Store>,
    ids: Vec<PackId>,
    wanted: &Wanted<'_>,
    progress: &(dyn Fn(u64) + Sync),
    report: &mut VerifyReport,
) {
    let total = ids.len();
    let mut waiting = ids.into_iter();
    let mut under_way = FuturesUnordered::new();
    let mut ended = 0;
    loop {
        let free = PARALLEL - under_way.len();
        under_way.extend((waiting.by_ref().take(free)).map(|id| verify_pack(store, id, wanted)));
        let Some(result) = under_way.next().await else {
            return;
        };
        ended += 1;
        match result {
            Ok((chunks, len)) => {
                progress(len);
                report.packs += 1;
                report.chunks += chunks;
                report.bytes += len;
            }
            Err(error) => {
                // Retrying has not helped: this pack alone, or all of them?
                let down = error.kind().is_transient()
                    && is_down(store, waiting.as_slice().first().copied()).await;
                report.problem(error);
                if down {
                    return report.leave(store.name(), total - ended, total);
                }
            }
        }
    }
}

/// Whether a store that just failed fails for another pack too, the next in line.
async fn is_down(store: &Arc<dyn Store>, next: Option<PackId>) -> bool {
    match next {
        Some(id) => {
            let answer = store.head(&ObjectKey::Pack(id)).await;
            answer.is_err_and(|error| error.kind().is_transient())
        }
        None => false,
    }
}

/// How many chunks are in a pack, and its length; all of it is right.
async fn verify_pack(
    store: &Arc<dyn Store>,
    id: PackId,
    wanted: &Wanted<'_>,
) -> Result<(u64, u64)> {
    let key = ObjectKey::Pack(id);
    let (record, also) = match wanted.get(&id) {
        Some((record, chunks)) => (Some(**record), chunks.iter().map(|c| **c).collect()),
        None => (None, Vec::new()),
    };
    // A length that is known also bounds how long a store that hangs is waited for.
    let len_max = record.map_or(pack::PACK_LEN_MAX, |r| r.len.min(pack::PACK_LEN_MAX));
    let bytes = store.get(&key, len_max).await?;
    let len = bytes.len() as u64;
    // Hashing megabytes does not belong on an async thread.
    let checked = tokio::task::spawn_blocking(move || check_pack(id, &bytes, record, &also)).await;
    let checked = checked.unwrap_or_else(|join| Err(join.to_string()));
    let wrong = |what| {
        StoreError::new(ErrorKind::Corrupt, "verify", store.name())
            .key(&key)
            .detail(what)
    };
    Ok((checked.map_err(wrong)?, len))
}

/// How many chunks the pack holds, or the first thing wrong with it.
fn check_pack(
    id: PackId,
    bytes: &Bytes,
    record: Option<PackRecord>,
    also: &[ChunkRecord],
) -> Result<u64, String> {
    let found = pack::record_of(bytes);
    if found.id != id {
        return Err("its bytes do not match its name".into());
    }
    if record.is_some_and(|r| r.len != found.len || r.sha256 != found.sha256) {
        return Err("its length or sha256 is not what the flist says".into());
    }
    let entries = pack::parse_entries(bytes).map_err(|e| e.to_string())?;
    for entry in &entries {
        check_chunk(
            bytes,
            &entry.id,
            entry.offset,
            entry.stored_len,
            entry.len,
            entry.codec,
        )?;
    }
    let listed: HashMap<_, _> = entries
        .iter()
        .map(|e| ((e.id, e.offset), (e.stored_len, e.len, e.codec)))
        .collect();
    for chunk in also {
        // One that is listed as the flist says was just checked.
        if listed.get(&(chunk.id, chunk.offset))
            != Some(&(chunk.stored_len, chunk.len, chunk.codec))
        {
            check_chunk(
                bytes,
                &chunk.id,
                chunk.offset,
                chunk.stored_len,
                chunk.len,
                chunk.codec,
            )?;
        }
    }
    Ok(entries.len() as u64)
}

fn check_chunk(
    pack: &Bytes,
    id: &lamina_flist::ChunkId,
    offset: u32,
    stored_len: u32,
    len: u32,
    codec: lamina_flist::Codec,
) -> Result<(), String> {
    let end = offset as usize + stored_len as usize;
    if end > pack.len() {
        return Err(format!("chunk {id} lies past its end"));
    }
    let stored = pack.slice(offset as usize..end);
    codec::decode(id, codec, &stored, len)
        .map(|_| ())
        .map_err(|e| format!("chunk {id} {e}"))
}

#[cfg(test)]
mod tests;
