//! The pack: one object of many stored chunks, describing itself.
//!
//! ```text
//! 0                                                                    len
//! | chunk 0 | chunk 1 | … | entry 0 | entry 1 | … | trailer (48 bytes) |
//!
//! entry (48 bytes):   chunk id [32] | stored length u32 | plain length u32 | codec u32 | 0 u32
//! trailer (48 bytes): BLAKE3 of the entries [32] | entry count u32 | version u32 = 1 | "LAMPACK1"
//! ```
//! Chunks lie end to end from byte 0, so their offsets are sums of stored lengths. All numbers are little
//! endian. A pack is named by the BLAKE3 of all its bytes; the same chunks in the same order at the same
//! compression level give the same pack.

use bytes::Bytes;
use lamina_flist::{ChunkId, Codec, PackId, PackRecord, Sha256Digest};
use sha2::{Digest as _, Sha256};

/// A pack is closed once its chunks reach this size. Large enough that object stores' per-request cost
/// vanishes, small enough that several fit in memory and a lost one is soon re-sent.
pub const PACK_TARGET: usize = 8 << 20;
/// Longest pack ever read: a hostile listing must not make us allocate more.
pub const PACK_LEN_MAX: u64 = 64 << 20;

pub(crate) const ENTRY: usize = 48;
const TRAILER: usize = 48;
const MAGIC: &[u8; 8] = b"LAMPACK1";
const VERSION: u32 = 1;

/// One chunk in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackEntry {
    /// BLAKE3 of the plain bytes.
    pub id: ChunkId,
    /// First stored byte.
    pub offset: u32,
    /// Stored bytes.
    pub stored_len: u32,
    /// Plain bytes.
    pub len: u32,
    /// How it is stored.
    pub codec: Codec,
}

/// Why bytes are not a pack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// Too short or too long.
    #[error("{0} bytes cannot be a pack")]
    Length(u64),
    /// No trailer.
    #[error("no pack trailer at the end")]
    Magic,
    /// A version of the future.
    #[error("pack version {0}; this program reads version 1")]
    Version(u32),
    /// The entries are not those that were written.
    #[error("the pack's entries do not match their checksum")]
    Checksum,
    /// An entry that cannot be.
    #[error("pack entry {0} is impossible")]
    Entry(usize),
    /// The chunks do not fill the space before the entries.
    #[error("the pack's chunks do not add up to its length")]
    Sum,
}

/// A finished pack.
#[derive(Debug, Clone)]
pub struct SealedPack {
    /// The object.
    pub bytes: Bytes,
    /// Its name, digest and length.
    pub record: PackRecord,
    /// What is in it.
    pub entries: Vec<PackEntry>,
}

/// Collects stored chunks into a pack.
#[derive(Debug, Default)]
pub struct PackBuilder {
    data: Vec<u8>,
    entries: Vec<PackEntry>,
}

impl PackBuilder {
    /// Adds a stored chunk, returns its entry.
    pub fn push(&mut self, id: ChunkId, stored: &[u8], len: u32, codec: Codec) -> PackEntry {
        let entry = PackEntry {
            id,
            offset: self.data.len() as u32,
            stored_len: stored.len() as u32,
            len,
            codec,
        };
        if self.data.capacity() == 0 {
            self.data.reserve_exact(PACK_TARGET + PACK_TARGET / 16);
        }
        self.data.extend_from_slice(stored);
        self.entries.push(entry);
        entry
    }

    /// Time to close it.
    pub fn is_full(&self) -> bool {
        self.data.len() >= PACK_TARGET
    }

    /// Nothing in it yet.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the entries and names the pack.
    pub fn seal(self) -> SealedPack {
        let Self { mut data, entries } = self;
        let start = data.len();
        write_table(&mut data, &entries);
        let sum = blake3::hash(&data[start..]);
        data.extend_from_slice(sum.as_bytes());
        data.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        data.extend_from_slice(&VERSION.to_le_bytes());
        data.extend_from_slice(MAGIC);
        let record = record_of(&data);
        SealedPack {
            bytes: data.into(),
            record,
            entries,
        }
    }
}

/// Name, digest and length of a pack's bytes.
pub fn record_of(bytes: &[u8]) -> PackRecord {
    PackRecord {
        id: PackId::of(bytes),
        sha256: sha256(bytes),
        len: bytes.len() as u64,
        embedded_at: None,
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

/// The entries of a whole pack, checked against each other (not the chunks themselves).
///
/// # Errors
/// The bytes are not a pack.
pub fn parse_entries(pack: &[u8]) -> Result<Vec<PackEntry>, PackError> {
    let len = pack.len() as u64;
    if len > PACK_LEN_MAX {
        return Err(PackError::Length(len));
    }
    let (rest, trailer) = pack
        .split_last_chunk::<TRAILER>()
        .ok_or(PackError::Length(len))?;
    if &trailer[40..] != MAGIC {
        return Err(PackError::Magic);
    }
    let version = u32_at(trailer, 36);
    if version != VERSION {
        return Err(PackError::Version(version));
    }
    let table_len = (u32_at(trailer, 32) as usize)
        .checked_mul(ENTRY)
        .ok_or(PackError::Sum)?;
    let data_len = rest.len().checked_sub(table_len).ok_or(PackError::Sum)?;
    let (data, table) = rest.split_at(data_len);
    if blake3::hash(table).as_bytes() != &trailer[..32] {
        return Err(PackError::Checksum);
    }
    let (entries, sum) = parse_table(table).map_err(PackError::Entry)?;
    if sum as usize == data.len() {
        Ok(entries)
    } else {
        Err(PackError::Sum)
    }
}

/// Appends the 48-byte form of each entry, here and in index objects.
pub(crate) fn write_table(out: &mut Vec<u8>, entries: &[PackEntry]) {
    for entry in entries {
        out.extend_from_slice(entry.id.as_bytes());
        for number in [entry.stored_len, entry.len, entry.codec as u32, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
}

/// Reads what [`write_table`] wrote, and the sum of the stored lengths; or which entry is impossible.
pub(crate) fn parse_table(table: &[u8]) -> Result<(Vec<PackEntry>, u32), usize> {
    let mut offset = 0u32;
    let mut entries = Vec::with_capacity(table.len() / ENTRY);
    for (at, raw) in table.chunks_exact(ENTRY).enumerate() {
        let entry = parse_entry(raw, offset).ok_or(at)?;
        offset = offset.checked_add(entry.stored_len).ok_or(at)?;
        entries.push(entry);
    }
    Ok((entries, offset))
}

fn parse_entry(raw: &[u8], offset: u32) -> Option<PackEntry> {
    let entry = PackEntry {
        id: ChunkId::from_bytes(raw[..32].try_into().ok()?),
        offset,
        stored_len: u32_at(raw, 32),
        len: u32_at(raw, 36),
        codec: Codec::from_u8(u8::try_from(u32_at(raw, 40)).ok()?)?,
    };
    entry_fits(&entry).then_some(entry)
}

/// Whether an entry could have been written by us: bounds every later allocation.
pub(crate) fn entry_fits(entry: &PackEntry) -> bool {
    let len_fits = entry.len > 0 && entry.len as usize <= lamina_flist::chunk::CHUNK_MAX;
    let stored_fits = match entry.codec {
        Codec::Raw => entry.stored_len == entry.len,
        Codec::Zstd => entry.stored_len > 0 && entry.stored_len < entry.len,
    };
    len_fits && stored_fits
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> SealedPack {
        let mut pack = PackBuilder::default();
        pack.push(ChunkId::of(b"one"), b"one", 3, Codec::Raw);
        pack.push(ChunkId::of(b"two two"), b"z2", 7, Codec::Zstd);
        pack.seal()
    }

    #[test]
    fn entries_read_back() {
        let pack = sample();
        assert_eq!(parse_entries(&pack.bytes).unwrap(), pack.entries);
        assert_eq!(pack.entries[1].offset, 3);
        assert_eq!(pack.record.id, PackId::of(&pack.bytes));
        assert_eq!(pack.record.len, pack.bytes.len() as u64);
    }

    #[test]
    fn truncation_at_every_byte_is_refused() {
        let pack = sample();
        for len in 0..pack.bytes.len() {
            assert!(parse_entries(&pack.bytes[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn a_flipped_bit_in_the_entries_is_refused() {
        let pack = sample();
        for at in 5..pack.bytes.len() {
            let mut bytes = pack.bytes.to_vec();
            bytes[at] ^= 1;
            assert!(parse_entries(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn entries_that_would_expand_beyond_a_chunk_are_refused() {
        let mut pack = PackBuilder::default();
        pack.push(ChunkId::of(b"bomb"), b"z", u32::MAX, Codec::Zstd);
        assert_eq!(parse_entries(&pack.seal().bytes), Err(PackError::Entry(0)));
    }
}
