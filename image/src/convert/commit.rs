//! A flist and what was changed over it -> the flist of both. No data of the flist below is read or copied.
//!
//! ```text
//! changes (a layer's tar) ──> chunks ── the base has it? ──yes──> its place there
//!                               │ no
//!                               ▼
//!                             packs ──> stores
//! base's tree <── merge ── changes' tree      base's blobs, chunks, packs stay as they are; one blob is added
//! ```
//! The layers it was made of are still named in it, so that whoever reads those from elsewhere than stores goes on.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use lamina_flist::blob::PlaceError;
use lamina_flist::{
    BlobId, BlobLayout, BuildError, ChunkId, ChunkRecord, Flist, FlistBuilder, FlistDigest,
    FlistError, FlistMeta, LayerOrigin, PackId, PackRecord, Provenance,
};
use lamina_store::{PackOptions, PackSink, PackStats, PackTarget, Packed, SinkError};
use tokio::runtime::Handle;

use super::PackPlace;
use super::stream::{Expected, LayerStream, Seen, StreamError};
use crate::layer::{
    BoxError, ChunkSink, LayerDraft, LayerError, LayerStats, place_content, read_layer,
};
use crate::limits::Limits;
use crate::stack::{StackError, stack_layers};

/// How to put changes over a flist.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// What the changes may cost.
    pub limits: Limits,
    /// How to pack.
    pub pack: PackOptions,
    /// The stores as the new flist shall name them: those of the base's data, too.
    pub store_urls: Vec<String>,
    /// Where the base's image is pulled from, if the base does not say.
    pub source: Option<String>,
    /// Free tags of the new flist.
    pub tags: std::collections::BTreeMap<String, String>,
}

/// A flist with changes over it.
#[derive(Debug)]
pub struct Committed {
    /// The flist's bytes.
    pub flist: Vec<u8>,
    /// Its digest.
    pub digest: FlistDigest,
    /// What the changes held.
    pub stats: LayerStats,
    /// What was packed; the base's chunks count as known.
    pub packed: PackStats,
}

/// Why changes were not put over a flist.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The base is damaged.
    #[error("read the flist below the changes")]
    Base(#[from] FlistError),
    /// The base is a single layer.
    #[error("what is below the changes is one layer of an image, not a file system")]
    BaseIsLayer,
    /// No store to pack into.
    #[error("no store given")]
    NoTarget,
    /// The changes are no layer.
    #[error("read the changes")]
    Layer(#[from] LayerError),
    /// The changes cannot be read.
    #[error("read the changes")]
    Stream(#[from] StreamError),
    /// Their content cannot be stored.
    #[error("pack the changes")]
    Sink(#[from] SinkError),
    /// More chunks than a flist can number.
    #[error(
        "the flist below and its changes have more than 2^32 chunks, or more than 65,535 layers"
    )]
    TooMany,
    /// Their files cannot be laid out.
    #[error("lay out the changed files")]
    Place(#[from] PlaceError),
    /// They do not fit on the base.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The flist cannot be built.
    #[error("build the flist")]
    Build(#[from] BuildError),
}

/// Packs `changes`, the tar of a layer, and puts them over `base`. Blocks: call it from a thread of its own or with
/// `spawn_blocking`; `handle` runs the uploads.
///
/// # Errors
/// When the changes are no layer, nothing can be stored, or the base is not sound.
pub fn commit(
    base: &Flist,
    changes: Box<dyn Read + Send>,
    place: &PackPlace,
    options: &CommitOptions,
    handle: &Handle,
) -> Result<Committed, CommitError> {
    if base.is_layer() {
        return Err(CommitError::BaseIsLayer);
    }
    base.verify_metadata()?;
    let below = base.to_tree()?;
    let mut tables = Tables::of(base)?;
    let packed = pack(&tables, changes, place, options, handle)?;
    let LayerDraft {
        mut tree,
        files,
        chunk_lens,
        stats,
        ..
    } = packed.draft;
    let chunk_of = tables.add(packed.places, packed.packed)?;
    let blob = place_content(&mut tree, files, &chunk_lens, &chunk_of)?;
    let number = u16::try_from(tables.blobs.len()).map_err(|_| CommitError::TooMany)?;
    tree.map_blobs(|_| number);
    let meta = meta(base, &tables.chunks, &blob, packed.seen, options);
    tables.blobs.push(blob);
    let builder = FlistBuilder {
        blobs: tables.blobs,
        chunks: tables.chunks,
        packs: tables.packs,
        meta,
        // They speak of the base's blobs, which are all there, under their numbers.
        profile: base.profile(),
        hints: base.hints().map(|hints| hints.to_table()),
        ..FlistBuilder::new(stack_layers([below, tree])?)
    };
    let head = builder.build()?;
    Ok(Committed {
        flist: head.bytes,
        digest: head.digest,
        stats,
        packed: packed.stats,
    })
}

fn meta(
    base: &Flist,
    chunks: &[ChunkRecord],
    blob: &BlobLayout,
    seen: Seen,
    options: &CommitOptions,
) -> FlistMeta {
    let below = base.meta();
    let map = (blob.len > 0).then(|| blob.map_bytes(chunks)).flatten();
    let mut provenance = Provenance {
        source: options
            .source
            .clone()
            .or_else(|| below.provenance.source.clone()),
        ..below.provenance.clone()
    };
    provenance.layers.push(LayerOrigin {
        digest: seen.diff_id,
        diff_id: Some(seen.diff_id),
        blob: map.map(|bytes| BlobId::of(&bytes)),
    });
    FlistMeta {
        stores: options.store_urls.clone(),
        tags: options.tags.clone(),
        image: below.image.clone(),
        provenance,
        ..FlistMeta::default()
    }
}

/// Changes in packs.
struct PackedChanges {
    draft: LayerDraft,
    places: Vec<Place>,
    packed: Packed,
    stats: PackStats,
    seen: Seen,
}

fn pack(
    tables: &Tables,
    changes: Box<dyn Read + Send>,
    place: &PackPlace,
    options: &CommitOptions,
    handle: &Handle,
) -> Result<PackedChanges, CommitError> {
    let stores = place.stores.clone().ok_or(CommitError::NoTarget)?;
    let expected = Expected {
        size: None,
        size_max: options.limits.unpacked_bytes_max,
        digest: None,
        diff_id: None,
    };
    let mut stream = LayerStream::open(changes, expected, &options.limits, |_| {})?;
    let target = PackTarget::Stores(stores);
    let index = Arc::clone(&place.index);
    let mut over = OverBase {
        base: tables,
        sink: PackSink::new(target, index, &options.pack, handle.clone())?,
        places: Vec::new(),
        found: HashSet::new(),
        stats: PackStats::default(),
    };
    let draft = match read_layer(&mut stream, &options.limits.tar, &mut over, |_| {}) {
        Ok(draft) => draft,
        // A sink that takes no more knows why.
        Err(LayerError::Sink(error)) => {
            over.sink.finish()?;
            return Err(LayerError::Sink(error).into());
        }
        Err(error) => return Err(error.into()),
    };
    let seen = stream.finish()?;
    let packed = over.sink.finish()?;
    let (of_base, stored) = (over.stats, packed.stats);
    Ok(PackedChanges {
        draft,
        places: over.places,
        stats: PackStats {
            chunks: of_base.chunks + stored.chunks,
            bytes: of_base.bytes + stored.bytes,
            known_bytes: of_base.known_bytes + stored.known_bytes,
            ..stored
        },
        packed,
        seen,
    })
}

/// Where a pushed chunk is.
enum Place {
    /// In the base: its number there.
    Base(u32),
    /// In the packs: how many were put there before it.
    Packed(usize),
}

/// Packs what the base does not have.
struct OverBase<'a> {
    base: &'a Tables,
    sink: PackSink,
    places: Vec<Place>,
    /// Chunks of the base that came up.
    found: HashSet<u32>,
    /// Of these alone.
    stats: PackStats,
}

impl ChunkSink for OverBase<'_> {
    fn push(&mut self, chunk: Vec<u8>) -> Result<(), BoxError> {
        let id = ChunkId::of(&chunk);
        let known = self.base.chunk_of.get(&id);
        if let Some(number) = known.filter(|number| self.base.len(**number) == chunk.len()) {
            let len = chunk.len() as u64;
            self.stats.chunks += 1;
            self.stats.bytes += len;
            if self.found.insert(*number) {
                self.stats.known_bytes += len;
            }
            self.places.push(Place::Base(*number));
            return Ok(());
        }
        let number = self.sink.push(chunk)?;
        self.places.push(Place::Packed(number as usize));
        Ok(())
    }
}

/// The base's tables, and what is added.
struct Tables {
    blobs: Vec<BlobLayout>,
    chunks: Vec<ChunkRecord>,
    packs: Vec<PackRecord>,
    chunk_of: HashMap<ChunkId, u32>,
}

impl Tables {
    fn of(base: &Flist) -> Result<Self, FlistError> {
        let blob = |index: usize| {
            let bad = FlistError::BadBlob(index as u32);
            let info = base.blob(index).ok_or(bad.clone())?;
            let entries = base.blob_entries(index).ok_or(bad)?.collect();
            Ok(BlobLayout {
                entries,
                len: info.len,
            })
        };
        let chunks: Vec<ChunkRecord> = base.chunks().collect();
        Ok(Self {
            blobs: (0..base.blob_count())
                .map(blob)
                .collect::<Result<_, FlistError>>()?,
            chunk_of: (0..)
                .zip(&chunks)
                .map(|(at, chunk)| (chunk.id, at))
                .collect(),
            chunks,
            packs: base.packs().collect(),
        })
    }

    fn len(&self, chunk: u32) -> usize {
        self.chunks[chunk as usize].len as usize
    }

    /// Adds what was packed; the numbers of all chunks that were pushed.
    fn add(&mut self, places: Vec<Place>, packed: Packed) -> Result<Vec<u32>, CommitError> {
        let number = |at: usize| u32::try_from(at).map_err(|_| CommitError::TooMany);
        let mut pack_of: HashMap<PackId, u32> = HashMap::new();
        for (at, pack) in self.packs.iter().enumerate() {
            pack_of.insert(pack.id, number(at)?);
        }
        let first = self.chunks.len();
        for chunk in packed.chunks {
            let pack = packed.packs[chunk.pack as usize];
            let at = if let Some(at) = pack_of.get(&pack.id) {
                *at
            } else {
                let at = number(self.packs.len())?;
                self.packs.push(pack);
                pack_of.insert(pack.id, at);
                at
            };
            self.chunks.push(ChunkRecord { pack: at, ..chunk });
        }
        number(self.chunks.len())?;
        let place = |place| match place {
            Place::Base(chunk) => Ok(chunk),
            Place::Packed(seq) => number(first + packed.seq_to_chunk[seq] as usize),
        };
        places.into_iter().map(place).collect()
    }
}
