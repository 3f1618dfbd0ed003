//! The index object: which chunks are in which packs of *one* store.
//!
//! ```text
//! "LAMINDX1" | version u32 = 1 | pack count u32
//! per pack, sorted by id:  pack id [32] | sha256 [32] | length u64 | chunk count u32 | 0 u32
//!                          per chunk, as in the pack: the 48-byte entry of `pack.rs`
//! ```
//! Each packing run writes a few; their union is what the store holds. A pack is listed only once it is
//! durable in that very store, so what an index says can be relied on. Indexes never change; garbage
//! collection replaces them.

use bytes::Bytes;
use lamina_flist::{PackId, PackRecord, Sha256Digest};

use crate::pack::{ENTRY, PACK_LEN_MAX, PackEntry, parse_table, u32_at, write_table};

/// Longest index object ever read.
pub const INDEX_LEN_MAX: u64 = 64 << 20;

const MAGIC: &[u8; 8] = b"LAMINDX1";
const VERSION: u32 = 1;
const PACK: usize = 80;

/// A pack and what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// Name, digest, length.
    pub record: PackRecord,
    /// Its chunks in order.
    pub entries: Vec<PackEntry>,
}

/// Why bytes are not an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Not an index, or of a version of the future.
    #[error("not an index object of version 1")]
    Magic,
    /// Ends in the middle, or goes on after the end.
    #[error("index object has the wrong length")]
    Length,
    /// A pack that cannot be.
    #[error("index object: pack {0} is impossible")]
    Pack(u32),
}

/// The canonical bytes for these packs.
pub fn encode(packs: &[IndexedPack]) -> Bytes {
    let mut order: Vec<&IndexedPack> = packs.iter().collect();
    order.sort_by_key(|pack| pack.record.id);
    order.dedup_by_key(|pack| pack.record.id);
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(order.len() as u32).to_le_bytes());
    for pack in order {
        out.extend_from_slice(pack.record.id.as_bytes());
        out.extend_from_slice(pack.record.sha256.as_bytes());
        out.extend_from_slice(&pack.record.len.to_le_bytes());
        out.extend_from_slice(&(pack.entries.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        write_table(&mut out, &pack.entries);
    }
    out.into()
}

/// Reads an index object.
///
/// # Errors
/// The bytes are not an index.
pub fn parse(bytes: &[u8]) -> Result<Vec<IndexedPack>, IndexError> {
    let mut rest = bytes;
    let head = take(&mut rest, 16)?;
    if &head[..8] != MAGIC || u32_at(head, 8) != VERSION {
        return Err(IndexError::Magic);
    }
    let mut packs = Vec::new(); // grows only as the bytes are really there
    for at in 0..u32_at(head, 12) {
        packs.push(parse_pack(&mut rest, at)?);
    }
    if rest.is_empty() {
        Ok(packs)
    } else {
        Err(IndexError::Length)
    }
}

fn parse_pack(rest: &mut &[u8], at: u32) -> Result<IndexedPack, IndexError> {
    let head = take(rest, PACK)?;
    let record = PackRecord {
        id: PackId::from_bytes(head[..32].try_into().expect("32 bytes")),
        sha256: Sha256Digest::from_bytes(head[32..64].try_into().expect("32 bytes")),
        len: u64::from_le_bytes(head[64..72].try_into().expect("8 bytes")),
        embedded_at: None,
    };
    let count = u32_at(head, 72) as usize;
    let table = take(rest, count.checked_mul(ENTRY).ok_or(IndexError::Length)?)?;
    let (entries, offset) = parse_table(table).map_err(|_| IndexError::Pack(at))?;
    if u64::from(offset) > record.len || record.len > PACK_LEN_MAX {
        return Err(IndexError::Pack(at));
    }
    Ok(IndexedPack { record, entries })
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], IndexError> {
    let (head, tail) = rest.split_at_checked(len).ok_or(IndexError::Length)?;
    *rest = tail;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use lamina_flist::{ChunkId, Codec};

    use super::*;
    use crate::pack::PackBuilder;

    fn packs() -> Vec<IndexedPack> {
        (0..3u8)
            .map(|n| {
                let mut pack = PackBuilder::default();
                pack.push(ChunkId::of(&[n]), &[n], 1, Codec::Raw);
                pack.push(ChunkId::of(&[n, n]), &[n, n], 2, Codec::Raw);
                let sealed = pack.seal();
                IndexedPack {
                    record: sealed.record,
                    entries: sealed.entries,
                }
            })
            .collect()
    }

    #[test]
    fn reads_back_and_is_canonical() {
        let mut packs = packs();
        let bytes = encode(&packs);
        packs.reverse();
        packs.push(packs[0].clone());
        assert_eq!(encode(&packs), bytes);
        let mut read = parse(&bytes).unwrap();
        packs.pop();
        packs.sort_by_key(|p| p.record.id);
        read.sort_by_key(|p| p.record.id);
        assert_eq!(read, packs);
    }

    #[test]
    fn truncation_and_excess_are_refused() {
        let bytes = encode(&packs());
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "{len} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(parse(&longer), Err(IndexError::Length));
    }

    #[test]
    fn a_huge_count_allocates_nothing() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(parse(&bytes), Err(IndexError::Length));
    }
}
