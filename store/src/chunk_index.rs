//! What the stores of a set already hold: the union of their index objects, as an immutable snapshot.
//!
//! A pack counts as held only if *every* owner of its name lists it, so deduplicating against the
//! snapshot never lowers the number of replicas. Index objects never change, so each is fetched once and
//! kept in a local folder.

mod cache;
mod load;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;

use lamina_flist::{ChunkId, PackId, PackRecord};

use crate::index::IndexedPack;
use crate::pack::PackEntry;

pub use load::LoadOptions;
pub(crate) use load::{Holdings, load_store};

/// A chunk found in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    /// The pack that holds it.
    pub pack: &'a PackRecord,
    /// Where in the pack.
    pub entry: PackEntry,
}

/// A snapshot of what is stored.
#[derive(Debug, Default)]
pub struct ChunkIndex {
    packs: Vec<IndexedPack>,
    by_pack: HashMap<PackId, u32>,
    by_chunk: HashMap<ChunkId, (u32, u32)>, // pack, entry
    /// Packs found in a store without an index that lists them, for the next writer to list.
    adopted: Vec<PackId>,
}

impl ChunkIndex {
    /// Knows nothing: for embedded packs, and for tests.
    pub fn empty() -> Self {
        Self::default()
    }

    /// From packs known to be durable. Where a chunk is in several, the smallest pack id wins, so the
    /// snapshot does not depend on the order of a listing.
    pub fn from_packs(mut packs: Vec<IndexedPack>) -> Self {
        packs.sort_by_key(|pack| pack.record.id);
        packs.dedup_by_key(|pack| pack.record.id);
        let mut index = Self::default();
        for (at, pack) in packs.iter().enumerate() {
            index.by_pack.insert(pack.record.id, at as u32);
            for (nth, entry) in pack.entries.iter().enumerate() {
                if let Entry::Vacant(slot) = index.by_chunk.entry(entry.id) {
                    slot.insert((at as u32, nth as u32));
                }
            }
        }
        index.packs = packs;
        index
    }

    /// Where a chunk is stored, if it is.
    pub fn find(&self, id: &ChunkId) -> Option<Known<'_>> {
        let (pack, entry) = *self.by_chunk.get(id)?;
        let pack = &self.packs[pack as usize];
        Some(Known {
            pack: &pack.record,
            entry: pack.entries[entry as usize],
        })
    }

    /// A pack by name.
    pub fn pack(&self, id: &PackId) -> Option<&IndexedPack> {
        self.by_pack.get(id).map(|at| &self.packs[*at as usize])
    }

    /// Number of distinct chunks.
    pub fn chunk_count(&self) -> usize {
        self.by_chunk.len()
    }

    /// Every pack, sorted by name.
    pub fn packs(&self) -> &[IndexedPack] {
        &self.packs
    }

    /// Packs an interrupted run left without an index; a writer lists them in its first index object.
    pub fn adopted(&self) -> impl Iterator<Item = &IndexedPack> {
        self.adopted.iter().filter_map(|id| self.pack(id))
    }
}

/// Where index objects are kept by default: `$XDG_CACHE_HOME/lamina/index`, else below `~/.cache`.
pub fn default_index_cache() -> Option<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("lamina/index"))
}

#[cfg(test)]
mod tests {
    use lamina_flist::Codec;

    use super::*;
    use crate::pack::PackBuilder;

    fn pack(chunks: &[&[u8]]) -> IndexedPack {
        let mut pack = PackBuilder::default();
        for chunk in chunks {
            pack.push(ChunkId::of(chunk), chunk, chunk.len() as u32, Codec::Raw);
        }
        let sealed = pack.seal();
        IndexedPack {
            record: sealed.record,
            entries: sealed.entries,
        }
    }

    #[test]
    fn a_chunk_in_two_packs_is_found_in_the_same_one_whatever_the_order() {
        let (a, b) = (pack(&[b"x", b"y"]), pack(&[b"x", b"z"]));
        let one = ChunkIndex::from_packs(vec![a.clone(), b.clone()]);
        let two = ChunkIndex::from_packs(vec![b, a]);
        let id = ChunkId::of(b"x");
        assert_eq!(one.find(&id), two.find(&id));
        assert_eq!(one.chunk_count(), 3);
        assert!(one.find(&ChunkId::of(b"w")).is_none());
    }
}
