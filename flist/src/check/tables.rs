//! Checks blobs, chunks, packs, profile and hints against each other.
//!
//! The builder runs the same check on what it is about to write.

use crate::BLOCK;
use crate::blob::BlobMapError;
use crate::chunk::{CHUNK_MAX, ChunkRecord, Codec};
use crate::error::FlistError;
use crate::header::kind;
use crate::hints;
use crate::id::BlobId;
use crate::limits::Limits;
use crate::profile::Profile;
use crate::tables::{BlobInfo, BlobTable, CHUNK, PACK, read_chunk, read_pack};

/// The sections to check.
pub(crate) struct Parts<'a> {
    pub(crate) blobs: &'a [u8],
    pub(crate) chunks: &'a [u8],
    pub(crate) packs: &'a [u8],
    pub(crate) profile: Option<&'a [u8]>,
    pub(crate) hints: Option<&'a [u8]>,
    pub(crate) embedded_len: Option<u64>,
}

pub(crate) fn check_tables(parts: &Parts<'_>, limits: &Limits) -> Result<(), FlistError> {
    let blobs = BlobTable::parse(parts.blobs)?;
    let limit = |what, count: u64, limit: u64| {
        let error = FlistError::Limit { what, limit };
        if count > limit { Err(error) } else { Ok(()) }
    };
    let chunks = (parts.chunks.len() / CHUNK) as u64;
    let packs = (parts.packs.len() / PACK) as u64;
    limit("blobs", blobs.len() as u64, limits.blobs_max.into())?;
    limit("chunks", chunks, limits.chunks_max)?;
    limit("blob entries", blobs.entry_count(), limits.chunks_max)?;
    limit("packs", packs, limits.packs_max)?;
    check_packs(parts)?;
    check_chunks(parts, limits)?;
    check_blobs(&blobs, parts.chunks, limits)?;
    if let Some(section) = parts.profile {
        check_profile(section, &blobs)?;
    }
    match parts.hints {
        Some(section) => hints::check(section, &blobs, limits),
        None => Ok(()),
    }
}

fn check_packs(parts: &Parts<'_>) -> Result<(), FlistError> {
    let mut end = 0;
    for index in 0..(parts.packs.len() / PACK) as u32 {
        let pack = read_pack(parts.packs, index as usize);
        let pack = pack.ok_or(FlistError::BadPack(index))?;
        if pack.len == 0 {
            return Err(FlistError::BadPack(index));
        }
        if let Some(at) = pack.embedded_at {
            // In table order, so that one pass finds any overlap.
            let pack_end = at
                .checked_add(pack.len)
                .filter(|&pack_end| at >= end && Some(pack_end) <= parts.embedded_len);
            end = pack_end.ok_or(FlistError::EmbeddedPackRange(index))?;
        }
    }
    Ok(())
}

fn check_chunks(parts: &Parts<'_>, limits: &Limits) -> Result<(), FlistError> {
    for index in 0..(parts.chunks.len() / CHUNK) as u32 {
        let chunk = read_chunk(parts.chunks, index as usize);
        let chunk = chunk.ok_or(FlistError::BadChunk(index))?;
        let pack = read_pack(parts.packs, chunk.pack as usize);
        let pack = pack.ok_or(FlistError::PackOutOfRange {
            chunk: index,
            pack: chunk.pack,
        })?;
        check_lengths(index, &chunk, limits)?;
        if u64::from(chunk.offset) + u64::from(chunk.stored_len) > pack.len {
            return Err(FlistError::ChunkOutOfPack(index));
        }
    }
    Ok(())
}

fn check_lengths(index: u32, chunk: &ChunkRecord, limits: &Limits) -> Result<(), FlistError> {
    let (len, stored) = (u64::from(chunk.len), u64::from(chunk.stored_len));
    // zstd may grow what it cannot compress by a few bytes.
    let stored_max = match chunk.codec {
        Codec::Raw => len,
        Codec::Zstd => len + 1024,
    };
    let valid = (1..=CHUNK_MAX as u64).contains(&len)
        && (1..=stored_max).contains(&stored)
        && (chunk.codec != Codec::Raw || stored == len);
    if !valid {
        return Err(FlistError::BadChunk(index));
    }
    if len > stored * u64::from(limits.ratio_max) {
        return Err(FlistError::CompressionRatio(index));
    }
    Ok(())
}

fn check_blobs(blobs: &BlobTable<'_>, chunks: &[u8], limits: &Limits) -> Result<(), FlistError> {
    let mut first_entry = 0u64;
    for index in 0..blobs.len() as u32 {
        let bad = FlistError::BadBlob(index);
        let blob = blobs.get(index as usize).ok_or(bad.clone())?;
        let shape = blob.len > 0 && blob.len.is_multiple_of(BLOCK);
        if !shape || blob.first_entry != first_entry {
            return Err(bad);
        }
        if blob.len > limits.blob_len_max {
            return Err(FlistError::Limit {
                what: "bytes in a blob",
                limit: limits.blob_len_max,
            });
        }
        check_blob(index, &blob, blobs, chunks)?;
        first_entry += blob.entries;
    }
    if first_entry != blobs.entry_count() {
        return Err(FlistError::SectionLength(kind::BLOBS));
    }
    Ok(())
}

fn check_blob(
    index: u32,
    blob: &BlobInfo,
    table: &BlobTable<'_>,
    chunks: &[u8],
) -> Result<(), FlistError> {
    let entries = table.entries(blob).ok_or(FlistError::BadBlob(index))?;
    let count = u32::try_from(entries.len()).map_err(|_| FlistError::BadBlob(index))?;
    let mut map = MapHasher::new(count, blob.len);
    let mut end = 0;
    for (number, entry) in (0u32..).zip(entries) {
        let chunk = read_chunk(chunks, entry.chunk as usize);
        let chunk = chunk.ok_or(FlistError::ChunkOutOfRange {
            blob: index,
            chunk: entry.chunk,
        })?;
        if entry.len != chunk.len {
            return Err(FlistError::EntryLength {
                blob: index,
                chunk: entry.chunk,
            });
        }
        let bad_map = |reason| FlistError::BadBlobMap {
            blob: index,
            reason,
        };
        if entry.offset < end {
            return Err(bad_map(BlobMapError::Overlap(number)));
        }
        end = entry
            .offset
            .checked_add(u64::from(entry.len))
            .filter(|&end| end <= blob.len)
            .ok_or(bad_map(BlobMapError::OutOfBlob(number)))?;
        map.entry(entry.offset, entry.len, chunk.id.as_bytes());
    }
    if map.finish() != blob.id {
        return Err(FlistError::BlobIdMismatch(index));
    }
    Ok(())
}

/// Hashes a canonical map without holding it.
struct MapHasher {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

impl MapHasher {
    /// BLAKE3 is fast only on long input.
    const BUFFER: usize = 64 << 10;

    fn new(count: u32, blob_len: u64) -> Self {
        let none = std::iter::empty();
        let mut header = crate::blob::write_map(blob_len, 0, none).expect("no entries");
        header[8..12].copy_from_slice(&count.to_le_bytes());
        Self {
            hasher: blake3::Hasher::new(),
            buffer: header,
        }
    }

    fn entry(&mut self, offset: u64, len: u32, id: &[u8; 32]) {
        self.buffer.extend_from_slice(&offset.to_le_bytes());
        self.buffer.extend_from_slice(&len.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 4]);
        self.buffer.extend_from_slice(id);
        if self.buffer.len() >= Self::BUFFER {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    fn finish(mut self) -> BlobId {
        self.hasher.update(&self.buffer);
        self.hasher.finalize().into()
    }
}

fn check_profile(section: &[u8], blobs: &BlobTable<'_>) -> Result<(), FlistError> {
    let profile = Profile::parse(section)?;
    for (index, range) in (0u64..).zip(&profile.ranges) {
        let blob = blobs.get(usize::from(range.blob));
        let end = u64::from(range.first_entry) + u64::from(range.count);
        if range.count == 0 || blob.is_none_or(|blob| end > blob.entries) {
            return Err(FlistError::ProfileRange(index));
        }
    }
    Ok(())
}
