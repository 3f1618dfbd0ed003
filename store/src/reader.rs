//! Chunks out of packs: neighbouring chunks in one request, several requests at once, every byte verified.
//!
//! A chunk is handed out only if its plain bytes hash to its id. Where an answer does not, the next
//! replica is asked; where a request of many chunks fails as wrong on all replicas, each chunk is asked
//! for alone, so two replicas damaged in different places still serve everything.

mod plan;

use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt as _, TryStreamExt as _};
use lamina_flist::{BlobEntry, ChunkId, ChunkRecord, Flist, PackId, PackRecord};
use tokio::task::JoinSet;

use crate::api::PackRef;
use crate::codec;
use crate::error::{ErrorKind, StoreError};
use crate::pack::{PackEntry, entry_fits};
use crate::set::StoreSet;
use plan::{Limits, Span};

/// A chunk and the pack it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSource {
    /// The chunk.
    pub chunk: ChunkRecord,
    /// Its pack: entry [`ChunkRecord::pack`] of the pack table.
    pub pack: PackRecord,
}

impl ChunkSource {
    /// Entry `index` of a flist's chunk table; `None` if its tables do not say where that is.
    pub fn of(flist: &Flist, index: u32) -> Option<Self> {
        let chunk = flist.chunk(index)?;
        let pack = flist.pack(chunk.pack)?;
        Some(Self { chunk, pack })
    }
}

/// The entries of a flist's blob that have a part of `range`, in order. What lies between them reads as zeros.
pub fn entries_within(flist: &Flist, blob: u16, range: &Range<u64>) -> Vec<BlobEntry> {
    flist
        .blob_entries(usize::from(blob))
        .into_iter()
        .flatten()
        .skip_while(|entry| entry.offset + u64::from(entry.len) <= range.start)
        .take_while(|entry| entry.offset < range.end)
        .collect()
}

/// Which of a chunk's `len` plain bytes lie in `range` of its blob; the chunk is one of
/// [`entries_within`] it.
pub fn part_within(entry: &BlobEntry, len: usize, range: &Range<u64>) -> Range<usize> {
    let from = range.start.saturating_sub(entry.offset) as usize;
    let to = (range.end - entry.offset).min(len as u64) as usize;
    from..to
}

/// How to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Requests at once.
    pub parallel: usize,
    /// Chunks closer than this in a pack are fetched in one request: 32 KiB cost less than a round trip.
    pub gap_max: u32,
    /// Longest request. A request holds up to this much stored and twice this much plain data, so that
    /// with `parallel` memory is bounded however well the chunks were compressed.
    pub span_max: u32,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            parallel: 8,
            gap_max: 32 << 10,
            span_max: 2 << 20,
        }
    }
}

/// A chunk could not be read from any replica.
#[derive(Debug, thiserror::Error)]
#[error("read chunk {chunk} from pack {pack}")]
pub struct ReadError {
    /// The chunk (the first, if a request was for several).
    pub chunk: ChunkId,
    /// Its pack.
    pub pack: PackId,
    /// Which store failed how; its kind says what can be done.
    #[source]
    pub source: StoreError,
}

impl ReadError {
    /// What can be done about it.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }
}

/// Reads chunks from a set of stores. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChunkReader {
    set: StoreSet,
    options: ReadOptions,
}

impl ChunkReader {
    /// A reader of `set`.
    pub fn new(set: StoreSet, options: ReadOptions) -> Self {
        Self { set, options }
    }

    /// The stores it reads from.
    pub fn stores(&self) -> &StoreSet {
        &self.set
    }

    /// The plain bytes of these chunks, in this order. All of them are in memory at the end: for much
    /// data use [`ChunkReader::stream`].
    ///
    /// # Errors
    /// The first chunk that no replica could deliver.
    pub async fn fetch(&self, wanted: &[ChunkSource]) -> Result<Vec<Bytes>, ReadError> {
        let mut plain = vec![Bytes::new(); wanted.len()];
        let mut arriving = Box::pin(self.stream(wanted));
        while let Some((at, bytes)) = arriving.try_next().await? {
            plain[at] = bytes;
        }
        Ok(plain)
    }

    /// Each chunk's position in `wanted` and its plain bytes, as they arrive. At most
    /// [`ReadOptions::parallel`] requests are under way or waiting to be taken.
    pub fn stream<'a>(
        &'a self,
        wanted: &'a [ChunkSource],
    ) -> impl Stream<Item = Result<(usize, Bytes), ReadError>> + Send + 'a {
        let limits = Limits {
            gap: self.options.gap_max,
            stored: self.options.span_max,
            plain: self.options.span_max.saturating_mul(2),
        };
        stream::iter(plan::plan(wanted, &limits))
            .map(move |span| self.clone().spawn(span))
            .buffer_unordered(self.options.parallel.max(1))
            .map_ok(|chunks| stream::iter(chunks.into_iter().map(Ok)))
            .try_flatten()
    }

    /// A task of its own, so that several cores decompress and verify.
    async fn spawn(self, span: Span) -> Result<Vec<(usize, Bytes)>, ReadError> {
        let (chunk, pack) = (span.chunks[0].1.id, span.pack.id);
        let mut task = JoinSet::new(); // aborts it when dropped
        task.spawn(async move { self.fetch_span(span).await });
        if let Some(Ok(result)) = task.join_next().await {
            return result;
        }
        let source = StoreError::new(ErrorKind::Unavailable, "read", "every store");
        let source = source.detail("the task was stopped");
        Err(ReadError {
            chunk,
            pack,
            source,
        })
    }

    async fn fetch_span(&self, span: Span) -> Result<Vec<(usize, Bytes)>, ReadError> {
        for (_, chunk) in &span.chunks {
            check_record(chunk, &span.pack)?;
        }
        match self.read_span(&span).await {
            Err(error) if error.kind() == ErrorKind::Corrupt && span.chunks.len() > 1 => {
                let mut plain = Vec::with_capacity(span.chunks.len());
                for (at, chunk) in span.chunks {
                    plain.extend(self.read_span(&Span::single(at, chunk, span.pack)).await?);
                }
                Ok(plain)
            }
            result => result,
        }
    }

    async fn read_span(&self, span: &Span) -> Result<Vec<(usize, Bytes)>, ReadError> {
        let (pack, start) = (PackRef::from(&span.pack), span.range.start);
        let cut_all = |bytes: Bytes| {
            let cut =
                |(at, chunk): &(usize, ChunkRecord)| Ok((*at, cut_out(&bytes, start, chunk)?));
            span.chunks.iter().map(cut).collect()
        };
        let read = self.set.read(&pack, span.range.clone(), cut_all);
        read.await.map_err(|source| ReadError {
            chunk: span.chunks[0].1.id,
            pack: span.pack.id,
            source,
        })
    }
}

/// A record no writer makes would have us ask for gigabytes.
fn check_record(chunk: &ChunkRecord, pack: &PackRecord) -> Result<(), ReadError> {
    let (id, offset, stored_len, len, codec) = (
        chunk.id,
        chunk.offset,
        chunk.stored_len,
        chunk.len,
        chunk.codec,
    );
    let entry = PackEntry {
        id,
        offset,
        stored_len,
        len,
        codec,
    };
    if entry_fits(&entry) {
        return Ok(());
    }
    let source = StoreError::new(ErrorKind::Invalid, "read", "every store");
    Err(ReadError {
        chunk: id,
        pack: pack.id,
        source: source.detail("the flist's record of the chunk is impossible"),
    })
}

/// One verified chunk out of the bytes that start at `start` of its pack.
fn cut_out(bytes: &Bytes, start: u64, chunk: &ChunkRecord) -> Result<Bytes, String> {
    let from = (u64::from(chunk.offset) - start) as usize;
    let stored = bytes.slice(from..from + chunk.stored_len as usize);
    codec::decode(&chunk.id, chunk.codec, &stored, chunk.len)
        .map_err(|e| format!("chunk {} {e}", chunk.id))
}
