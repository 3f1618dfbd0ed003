//! Blobs: the bytes of many files in one page-aligned address space.
//!
//! A blob is what the kernel reads: each regular file is an extent of it that
//! starts on a page. It is never stored as such; its *map* says which chunk
//! covers which range. Ranges no chunk covers read as zeros (the tail of a
//! file's last page, holes).
//!
//! The map in canonical, self-contained form, all integers little-endian:
//!
//! ```text
//! 0   magic "LAMMAP01"
//! 8   u32 entry count
//! 12  u32 0
//! 16  u64 blob length, a multiple of 4096
//! 24  entries, 48 bytes each:
//!     0   u64 offset in the blob
//!     8   u32 length
//!     12  u32 0
//!     16  [32] chunk id
//! ```
//!
//! Always: entries sorted by offset, not overlapping, inside the blob. The
//! [`BlobId`] is the BLAKE3 of these bytes: it names the content exactly,
//! wherever its chunks are stored.

use std::collections::HashMap;
use std::ops::Range;

use crate::BLOCK;
use crate::chunk::{CHUNK_MAX, ChunkRecord};
use crate::id::{BlobId, ChunkId};
use crate::tree::{Extent, Segment};

const MAGIC: &[u8; 8] = b"LAMMAP01";
const HEADER: usize = 24;
const ENTRY: usize = 48;

/// Most chunk indexes of a sparse file: bounds its metadata to 512 KiB.
pub(crate) const SPARSE_INDEXES_MAX: u64 = 65_536;

/// One chunk's place in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlobEntry {
    /// First byte in the blob.
    pub offset: u64,
    /// Index in the flist's chunk table.
    pub chunk: u32,
    /// Bytes: the chunk's plain length.
    pub len: u32,
}

/// Where every chunk of a blob is: entries sorted by offset, not overlapping.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobLayout {
    /// The chunks' places.
    pub entries: Vec<BlobEntry>,
    /// Length of the address space, a multiple of 4096.
    pub len: u64,
}

impl BlobLayout {
    /// The canonical map, given the chunk table the entries refer to; `None`
    /// if an entry's chunk is not in it.
    pub fn map_bytes(&self, chunks: &[ChunkRecord]) -> Option<Vec<u8>> {
        write_map(
            self.len,
            self.entries.len(),
            self.entries.iter().map(|e| {
                let id = chunks.get(e.chunk as usize)?.id;
                Some((e.offset, e.len, id))
            }),
        )
    }
}

/// Writes a canonical map from `(offset, len, chunk id)` in order.
pub(crate) fn write_map(
    blob_len: u64,
    count: usize,
    entries: impl Iterator<Item = Option<(u64, u32, ChunkId)>>,
) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER + count * ENTRY);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(count).ok()?.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&blob_len.to_le_bytes());
    for entry in entries {
        let (offset, len, id) = entry?;
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(id.as_bytes());
    }
    Some(out)
}

/// Why bytes are not a blob map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlobMapError {
    /// Not a blob map, or one of an unknown version.
    #[error("not a blob map (bad magic)")]
    BadMagic,
    /// Longer or shorter than its entry count says.
    #[error("blob map of {got} bytes, but its header asks for {want}")]
    BadLength {
        /// Bytes the header asks for.
        want: u64,
        /// Bytes there are.
        got: u64,
    },
    /// Blob length is not a multiple of 4096.
    #[error("blob length {0} is not a multiple of 4096")]
    UnalignedLength(u64),
    /// A reserved field is not zero.
    #[error("blob map has a reserved field that is not zero (entry {0:?})")]
    ReservedNotZero(Option<u32>),
    /// An entry is empty or longer than a chunk can be.
    #[error("blob map entry {entry} has length {len}")]
    BadEntryLength {
        /// Which entry.
        entry: u32,
        /// Its length.
        len: u32,
    },
    /// An entry begins before the previous one ends.
    #[error("blob map entry {0} overlaps the one before it or is out of order")]
    Overlap(u32),
    /// An entry reaches past the blob's end.
    #[error("blob map entry {0} reaches past the end of the blob")]
    OutOfBlob(u32),
}

/// One entry of a [`BlobMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte in the blob.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// The chunk that covers them, whole.
    pub id: ChunkId,
}

impl MapEntry {
    /// First byte after the entry.
    pub fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// A parsed canonical blob map over any bytes (a `Vec`, an mmap).
#[derive(Debug, Clone)]
pub struct BlobMap<B> {
    bytes: B,
    count: usize,
    blob_len: u64,
}

impl<B: AsRef<[u8]>> BlobMap<B> {
    /// Checks `bytes` completely; afterwards every accessor is infallible
    /// (as long as the bytes do not change).
    pub fn parse(bytes: B) -> Result<Self, BlobMapError> {
        let raw = bytes.as_ref();
        if !raw.starts_with(MAGIC) {
            return Err(BlobMapError::BadMagic);
        }
        let got = raw.len() as u64;
        let bad_length = |want| BlobMapError::BadLength { want, got };
        let header = raw.get(..HEADER).ok_or(bad_length(HEADER as u64))?;
        let count = le_u32(header, 8);
        let want = HEADER as u64 + u64::from(count) * ENTRY as u64;
        if got != want {
            return Err(bad_length(want));
        }
        if le_u32(header, 12) != 0 {
            return Err(BlobMapError::ReservedNotZero(None));
        }
        let blob_len = le_u64(header, 16);
        if !blob_len.is_multiple_of(BLOCK) {
            return Err(BlobMapError::UnalignedLength(blob_len));
        }
        check_entries(&raw[HEADER..], blob_len)?;
        Ok(Self {
            bytes,
            count: count as usize,
            blob_len,
        })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Length of the blob in bytes.
    pub fn blob_len(&self) -> u64 {
        self.blob_len
    }

    /// The blob's id.
    pub fn blob_id(&self) -> BlobId {
        BlobId::of(self.bytes.as_ref())
    }

    /// The canonical bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref()
    }

    /// Entry `index`.
    ///
    /// # Panics
    /// If `index >= len()`, as slices do.
    pub fn get(&self, index: usize) -> MapEntry {
        assert!(
            index < self.count,
            "blob map entry {index} of {}",
            self.count
        );
        read_entry(&self.bytes.as_ref()[HEADER + index * ENTRY..][..ENTRY])
    }

    /// All entries in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MapEntry> + '_ {
        self.bytes.as_ref()[HEADER..]
            .chunks_exact(ENTRY)
            .map(read_entry)
    }

    /// Indexes of the entries that overlap bytes `range` of the blob.
    pub fn overlapping(&self, range: Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let first = self.partition(|e| e.end() <= range.start);
        let end = self.partition(|e| e.offset < range.end);
        first..end.max(first)
    }

    // First index for which `before` is false; entries are sorted.
    fn partition(&self, before: impl Fn(MapEntry) -> bool) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.get(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

fn check_entries(raw: &[u8], blob_len: u64) -> Result<(), BlobMapError> {
    let mut end = 0;
    for (entry, bytes) in (0u32..).zip(raw.chunks_exact(ENTRY)) {
        let MapEntry { offset, len, .. } = read_entry(bytes);
        if le_u32(bytes, 12) != 0 {
            return Err(BlobMapError::ReservedNotZero(Some(entry)));
        }
        if len == 0 || len as usize > CHUNK_MAX {
            return Err(BlobMapError::BadEntryLength { entry, len });
        }
        if offset < end {
            return Err(BlobMapError::Overlap(entry));
        }
        end = offset
            .checked_add(u64::from(len))
            .filter(|&end| end <= blob_len)
            .ok_or(BlobMapError::OutOfBlob(entry))?;
    }
    Ok(())
}

fn read_entry(bytes: &[u8]) -> MapEntry {
    let mut id = [0; 32];
    id.copy_from_slice(&bytes[16..48]);
    MapEntry {
        offset: le_u64(bytes, 0),
        len: le_u32(bytes, 8),
        id: ChunkId::from_bytes(id),
    }
}

// The callers have checked that the field is there.
fn le_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn le_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

/// The unit in which a sparse file of `size` bytes is mapped: the smallest
/// `4096 << n` for which at most 65,536 units cover it.
pub fn sparse_unit(size: u64) -> u64 {
    let mut unit = BLOCK;
    while size.div_ceil(unit) > SPARSE_INDEXES_MAX {
        unit *= 2;
    }
    unit
}

/// One run of a sparse file that has data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataRun {
    /// First byte in the file, a multiple of 4096.
    pub file_offset: u64,
    /// The run's chunks: `(index in the chunk table, plain length)`.
    pub chunks: Vec<(u32, u32)>,
}

impl DataRun {
    fn len(&self) -> u64 {
        self.chunks.iter().map(|&(_, len)| u64::from(len)).sum()
    }
}

/// Runs that are not a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// A run does not start on a page.
    #[error("data run at {0} does not start at a multiple of 4096")]
    Unaligned(u64),
    /// A run begins before the previous one ends.
    #[error("data run at {0} overlaps the one before it or is out of order")]
    Overlap(u64),
    /// A run reaches past the end of the file.
    #[error("data run at {0} reaches past the end of the file")]
    PastEnd(u64),
}

/// Lays files out in a blob, in the order they are placed.
///
/// Files with equal chunk lists share one extent. Deterministic: the layout
/// depends only on the sequence of calls.
#[derive(Debug, Default)]
pub struct BlobBuilder {
    layout: BlobLayout,
    // Keyed by the BLAKE3 of the chunk list, not the list: a gigabyte file
    // has 16,384 chunks.
    dense: HashMap<[u8; 32], u64>,
    sparse: HashMap<[u8; 32], Vec<Segment>>,
}

impl BlobBuilder {
    /// An empty blob.
    pub fn new() -> Self {
        Self::default()
    }

    /// Current length of the address space.
    pub fn blob_len(&self) -> u64 {
        self.layout.len
    }

    /// Places a file made of `chunks` (index in the chunk table, plain
    /// length), or finds where an equal one is; gives its page-aligned offset.
    pub fn place(&mut self, chunks: &[(u32, u32)]) -> u64 {
        let key = digest_chunks(blake3::Hasher::new(), chunks);
        if let Some(&offset) = self.dense.get(&key) {
            return offset;
        }
        let offset = self.layout.len;
        let end = self.append(offset, chunks);
        self.layout.len = end.next_multiple_of(BLOCK);
        self.dense.insert(key, offset);
        offset
    }

    /// As [`BlobBuilder::place`], as an [`Extent`] of blob `blob`.
    pub fn place_extent(&mut self, blob: u16, chunks: &[(u32, u32)]) -> Extent {
        let offset = self.place(chunks);
        Extent { blob, offset }
    }

    /// Places a sparse file of `size` bytes whose data is in `runs`, sorted
    /// by offset; everything else reads as zeros.
    ///
    /// Gives segments aligned to [`sparse_unit`]: runs in the same unit share
    /// a segment, and what they do not cover of it are gaps in the blob.
    pub fn place_sparse(
        &mut self,
        size: u64,
        runs: &[DataRun],
    ) -> Result<Vec<Segment>, PlaceError> {
        check_runs(size, runs)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.to_le_bytes());
        for run in runs {
            hasher.update(&run.file_offset.to_le_bytes());
            hasher.update(&(run.chunks.len() as u64).to_le_bytes());
            hasher.update(&digest_chunks(blake3::Hasher::new(), &run.chunks));
        }
        let key = *hasher.finalize().as_bytes();
        if let Some(segments) = self.sparse.get(&key) {
            return Ok(segments.clone());
        }
        let segments = self.append_runs(size, runs);
        self.sparse.insert(key, segments.clone());
        Ok(segments)
    }

    /// The finished layout.
    pub fn finish(self) -> BlobLayout {
        self.layout
    }

    fn append_runs(&mut self, size: u64, runs: &[DataRun]) -> Vec<Segment> {
        let unit = sparse_unit(size);
        let mut segments: Vec<Segment> = Vec::new();
        for run in runs.iter().filter(|run| !run.chunks.is_empty()) {
            let start = run.file_offset / unit * unit;
            let end = (run.file_offset + run.len())
                .next_multiple_of(unit)
                .min(size);
            match segments.last_mut() {
                Some(last) if start <= last.file_offset + last.len => {
                    last.len = last.len.max(end - last.file_offset);
                }
                _ => segments.push(Segment {
                    file_offset: start,
                    len: end - start,
                    blob_offset: self.layout.len,
                }),
            }
            let last = segments.last().expect("just pushed or extended");
            let offset = last.blob_offset + (run.file_offset - last.file_offset);
            let blob_end = (last.blob_offset + last.len).next_multiple_of(BLOCK);
            self.append(offset, &run.chunks);
            self.layout.len = blob_end;
        }
        segments
    }

    fn append(&mut self, mut offset: u64, chunks: &[(u32, u32)]) -> u64 {
        for &(chunk, len) in chunks {
            self.layout.entries.push(BlobEntry { offset, chunk, len });
            offset += u64::from(len);
        }
        offset
    }
}

fn check_runs(size: u64, runs: &[DataRun]) -> Result<(), PlaceError> {
    let mut end = 0;
    for run in runs {
        let at = run.file_offset;
        if at % BLOCK != 0 {
            return Err(PlaceError::Unaligned(at));
        }
        if at < end {
            return Err(PlaceError::Overlap(at));
        }
        end = at
            .checked_add(run.len())
            .filter(|&end| end <= size)
            .ok_or(PlaceError::PastEnd(at))?;
    }
    Ok(())
}

fn digest_chunks(mut hasher: blake3::Hasher, chunks: &[(u32, u32)]) -> [u8; 32] {
    for &(chunk, len) in chunks {
        hasher.update(&chunk.to_le_bytes());
        hasher.update(&len.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests;
