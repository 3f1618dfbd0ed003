//! The tables behind the tree: blobs, chunks, packs.
//!
//! ```text
//! Blobs   u32 blob count | u32 0 | u64 entry count
//!         blobs, 56 bytes: id [32] | u64 length | u64 first entry | u64 entries
//!         entries, 16 bytes: u64 offset in the blob | u32 chunk | u32 length
//! Chunks  56 bytes each: id [32] | u32 pack | u32 offset in the pack
//!         | u32 stored length | u32 plain length | u8 codec | 7 zero
//! Packs   80 bytes each: id [32] | SHA-256 [32] | u64 length
//!         | u64 offset in the embedded packs section (all ones: in a store)
//! ```
//!
//! Views read records from the file on demand; nothing is kept in memory.

use crate::blob::{BlobEntry, BlobLayout};
use crate::chunk::{ChunkRecord, Codec, PackRecord};
use crate::error::FlistError;
use crate::header::kind;
use crate::id::{BlobId, ChunkId, PackId, Sha256Digest};
use crate::le::{Fields, array, u32_at, u64_at};

pub(crate) const BLOB_HEADER: usize = 16;
pub(crate) const BLOB: usize = 56;
pub(crate) const ENTRY: usize = 16;
pub(crate) const CHUNK: usize = 56;
pub(crate) const PACK: usize = 80;
const IN_STORE: u64 = u64::MAX;

/// A blob's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// The blob's id.
    pub id: BlobId,
    /// Bytes of its address space.
    pub len: u64,
    /// Its first entry in the table of all entries.
    pub first_entry: u64,
    /// Number of its entries.
    pub entries: u64,
}

/// The blob table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlobTable<'a> {
    blobs: &'a [u8],
    entries: &'a [u8],
}

impl<'a> BlobTable<'a> {
    /// Checks the counts against the section's length.
    pub(crate) fn parse(section: &'a [u8]) -> Result<Self, FlistError> {
        let bad = || FlistError::SectionLength(kind::BLOBS);
        let count = u32_at(section, 0).ok_or_else(bad)?;
        let entries = u64_at(section, 8).ok_or_else(bad)?;
        if u32_at(section, 4) != Some(0) {
            return Err(FlistError::RecordReserved {
                kind: kind::BLOBS,
                index: 0,
            });
        }
        let rest = &section[BLOB_HEADER..];
        let (blobs, rest) = rest
            .split_at_checked(count as usize * BLOB)
            .ok_or_else(bad)?;
        let want = entries.checked_mul(ENTRY as u64);
        if want != Some(rest.len() as u64) {
            return Err(bad());
        }
        Ok(Self {
            blobs,
            entries: rest,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.blobs.len() / BLOB
    }

    pub(crate) fn entry_count(&self) -> u64 {
        (self.entries.len() / ENTRY) as u64
    }

    pub(crate) fn get(&self, index: usize) -> Option<BlobInfo> {
        let at = index.checked_mul(BLOB)?;
        let raw: [u8; BLOB] = array(self.blobs, at)?;
        Some(BlobInfo {
            id: BlobId::from_bytes(array(&raw, 0)?),
            len: u64_at(&raw, 32)?,
            first_entry: u64_at(&raw, 40)?,
            entries: u64_at(&raw, 48)?,
        })
    }

    /// The entries of one blob; `None` if its record reaches past the table.
    pub(crate) fn entries(
        &self,
        blob: &BlobInfo,
    ) -> Option<impl ExactSizeIterator<Item = BlobEntry> + use<'a>> {
        let start = usize::try_from(blob.first_entry).ok()?.checked_mul(ENTRY)?;
        let len = usize::try_from(blob.entries).ok()?.checked_mul(ENTRY)?;
        let raw = self.entries.get(start..start.checked_add(len)?)?;
        Some(raw.chunks_exact(ENTRY).map(|raw| BlobEntry {
            offset: u64_at(raw, 0).unwrap_or(0),
            chunk: u32_at(raw, 8).unwrap_or(0),
            len: u32_at(raw, 12).unwrap_or(0),
        }))
    }
}

/// Writes the blob table.
pub(crate) fn write_blobs(blobs: &[(BlobId, &BlobLayout)]) -> Vec<u8> {
    let total: usize = blobs.iter().map(|(_, layout)| layout.entries.len()).sum();
    let mut out = vec![0; BLOB_HEADER + blobs.len() * BLOB + total * ENTRY];
    let mut fields = Fields::new(&mut out);
    fields.u32(blobs.len() as u32).u32(0).u64(total as u64);
    let mut first = 0;
    for (id, layout) in blobs {
        let count = layout.entries.len() as u64;
        fields
            .put(id.as_bytes())
            .u64(layout.len)
            .u64(first)
            .u64(count);
        first += count;
    }
    for entry in blobs.iter().flat_map(|(_, layout)| &layout.entries) {
        fields.u64(entry.offset).u32(entry.chunk).u32(entry.len);
    }
    out
}

/// The chunk in one record, if its codec is known and nothing reserved is set.
pub(crate) fn read_chunk(section: &[u8], index: usize) -> Option<ChunkRecord> {
    let raw: [u8; CHUNK] = array(section, index.checked_mul(CHUNK)?)?;
    if raw[49..].iter().any(|&b| b != 0) {
        return None;
    }
    Some(ChunkRecord {
        id: ChunkId::from_bytes(array(&raw, 0)?),
        pack: u32_at(&raw, 32)?,
        offset: u32_at(&raw, 36)?,
        stored_len: u32_at(&raw, 40)?,
        len: u32_at(&raw, 44)?,
        codec: Codec::from_u8(raw[48])?,
    })
}

/// Writes the chunk table.
pub(crate) fn write_chunks(chunks: &[ChunkRecord]) -> Vec<u8> {
    let mut out = vec![0; chunks.len() * CHUNK];
    let mut fields = Fields::new(&mut out);
    for chunk in chunks {
        fields
            .put(chunk.id.as_bytes())
            .u32(chunk.pack)
            .u32(chunk.offset)
            .u32(chunk.stored_len)
            .u32(chunk.len)
            .u8(chunk.codec as u8)
            .put([0; 7]);
    }
    out
}

/// The pack in one record.
pub(crate) fn read_pack(section: &[u8], index: usize) -> Option<PackRecord> {
    let raw: [u8; PACK] = array(section, index.checked_mul(PACK)?)?;
    let embedded_at = u64_at(&raw, 72)?;
    Some(PackRecord {
        id: PackId::from_bytes(array(&raw, 0)?),
        sha256: Sha256Digest::from_bytes(array(&raw, 32)?),
        len: u64_at(&raw, 64)?,
        embedded_at: (embedded_at != IN_STORE).then_some(embedded_at),
    })
}

/// Writes the pack table.
pub(crate) fn write_packs(packs: &[PackRecord]) -> Vec<u8> {
    let mut out = vec![0; packs.len() * PACK];
    let mut fields = Fields::new(&mut out);
    for pack in packs {
        fields
            .put(pack.id.as_bytes())
            .put(pack.sha256.as_bytes())
            .u64(pack.len)
            .u64(pack.embedded_at.unwrap_or(IN_STORE));
    }
    out
}
