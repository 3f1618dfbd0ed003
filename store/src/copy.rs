//! Copies packs from one set of stores to another, so that a flist can be read from there.
//!
//! A pack that is already at every owner is not sent again, so an interrupted copy goes on where it
//! stopped. Every pack is verified on the way; at the destination it is listed in an index, so later
//! packing finds its chunks.

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use lamina_flist::PackRecord;

use crate::api::PackRef;
use crate::chunk_index::{ChunkIndex, LoadOptions};
use crate::error::{ErrorKind, Result, StoreError};
use crate::index::IndexedPack;
use crate::key::ObjectKey;
use crate::pack;
use crate::set::StoreSet;
use crate::sink::{INDEX_EVERY, publish_index};

/// Packs in memory at once.
const PARALLEL: usize = 3;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Packs sent.
    pub copied: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were there.
    pub skipped: u64,
}

/// Makes `packs` available at every owner in `to`. `progress` is told the bytes done.
///
/// # Errors
/// A pack cannot be read from any source, or not be written to an owner; what was copied before stays,
/// listed.
pub async fn copy_packs(
    from: &StoreSet,
    to: &StoreSet,
    packs: &[PackRecord],
    load: &LoadOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<CopyReport> {
    to.check_writable()?;
    let index = ChunkIndex::load(to, load).await?;
    let mut report = CopyReport::default();
    let mut unlisted: Vec<IndexedPack> = index.adopted().cloned().collect();
    let mut ended = stream::iter(packs)
        .map(|pack| {
            let listed = index.pack(&pack.id).is_some();
            async move {
                let done = copy_one(from, to, pack, listed).await;
                progress(pack.len);
                done
            }
        })
        .buffer_unordered(PARALLEL);
    let mut failure = None;
    while let Some(result) = ended.next().await {
        match result {
            Ok(Done::Skipped) => report.skipped += 1,
            Ok(Done::Copied(pack)) => {
                report.copied += 1;
                report.bytes += pack.record.len;
                unlisted.push(pack);
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
        if unlisted.len() >= INDEX_EVERY {
            publish_index(to, &std::mem::take(&mut unlisted)).await?;
        }
    }
    drop(ended);
    // What arrived is listed even if something else failed: the next run need not send it again.
    publish_index(to, &unlisted).await?;
    failure.map_or(Ok(report), Err)
}

enum Done {
    Skipped,
    Copied(IndexedPack),
}

async fn copy_one(from: &StoreSet, to: &StoreSet, pack: &PackRecord, listed: bool) -> Result<Done> {
    let key = ObjectKey::Pack(pack.id);
    if listed && to.has(&key, pack.len).await? {
        return Ok(Done::Skipped);
    }
    let (expected, pack_ref) = (*pack, PackRef::from(pack));
    let verified = |bytes: Bytes| {
        let found = pack::record_of(&bytes);
        if (found.id, found.sha256) == (expected.id, expected.sha256) {
            Ok(bytes)
        } else {
            Err("its bytes do not match its name".to_owned())
        }
    };
    let bytes = from.read(&pack_ref, 0..pack.len, verified).await?;
    let entries = pack::parse_entries(&bytes).map_err(|e| {
        StoreError::new(ErrorKind::Corrupt, "copy", "the source")
            .key(&key)
            .source(e)
    })?;
    to.put(&key, bytes).await?;
    Ok(Done::Copied(IndexedPack {
        record: PackRecord {
            embedded_at: None,
            ..*pack
        },
        entries,
    }))
}
