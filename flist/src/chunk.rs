//! Chunks and packs: how file bytes are cut, and where the pieces are stored.

use fastcdc::v2020::{Normalization, cut as fastcdc_cut, select_masks};

use crate::id::{ChunkId, PackId, Sha256Digest};

/// No cut before this many bytes: smaller chunks cost more in table entries
/// and requests than their deduplication saves.
pub const CHUNK_MIN: usize = 16 * 1024;
/// Average chunk: the compromise between finding shared runs (smaller) and
/// compression ratio and table size (larger); 64 KiB is also what a random
/// read of a cold file has to fetch.
pub const CHUNK_AVG: usize = 64 * 1024;
/// Forced cut: bounds the memory and the bytes fetched for one read.
pub const CHUNK_MAX: usize = 256 * 1024;

/// How a chunk is stored in its pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number on disk.
    pub fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Where one chunk is: a stored run of bytes in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkRecord {
    /// BLAKE3 of the plain bytes.
    pub id: ChunkId,
    /// Index of the pack in the pack table.
    pub pack: u32,
    /// First stored byte within the pack.
    pub offset: u32,
    /// Stored bytes.
    pub stored_len: u32,
    /// Plain bytes, 1..=[`CHUNK_MAX`].
    pub len: u32,
    /// How the stored bytes become the plain ones.
    pub codec: Codec,
}

/// One pack: an object of many stored chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackRecord {
    /// BLAKE3 of the object's bytes.
    pub id: PackId,
    /// SHA-256 of the same bytes, for registries.
    pub sha256: Sha256Digest,
    /// Object length in bytes.
    pub len: u64,
    /// Offset in the embedded packs section, if the pack is in this file
    /// (`.afslyr`); `None` if it is in a store.
    pub embedded_at: Option<u64>,
}

/// Length of the first chunk of `data`, or `None` when more data must be seen.
///
/// `at_eof` says that nothing follows `data`. The result depends only on the
/// bytes from the chunk's start, never on how they arrived. `FastCDC` as
/// published in 2020 (normalisation level 1), crate `fastcdc` v2020.
pub fn cut(data: &[u8], at_eof: bool) -> Option<usize> {
    if data.is_empty() || (!at_eof && data.len() < CHUNK_MAX) {
        return None;
    }
    let (mask_s, mask_l) = select_masks(CHUNK_AVG, Normalization::Level1);
    let (_, len) = fastcdc_cut(
        data,
        CHUNK_MIN,
        CHUNK_AVG,
        CHUNK_MAX,
        mask_s,
        mask_l,
        mask_s << 1,
        mask_l << 1,
    );
    Some(len)
}

/// Cuts one file's bytes into chunks as they stream by.
///
/// Files always start a new chunk: call [`Splitter::finish`] at each file's
/// end. Holds at most one piece of input plus [`CHUNK_MAX`] bytes.
#[derive(Debug, Default)]
pub struct Splitter {
    pending: Vec<u8>,
}

impl Splitter {
    /// A splitter at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the file; gives every chunk that is complete.
    pub fn push(&mut self, mut data: &[u8], mut emit: impl FnMut(&[u8])) {
        // First the chunk that began in an earlier piece: complete the buffer.
        while !self.pending.is_empty() {
            let take = (CHUNK_MAX - self.pending.len()).min(data.len());
            self.pending.extend_from_slice(&data[..take]);
            let Some(len) = cut(&self.pending, false) else {
                return; // all of `data` is in the buffer
            };
            emit(&self.pending[..len]);
            let left = self.pending.len() - len;
            if left <= take {
                // What is left is also at hand in `data`: no more copying.
                self.pending.clear();
                data = &data[take - left..];
            } else {
                self.pending.drain(..len);
                data = &data[take..];
            }
        }
        while let Some(len) = cut(data, false) {
            emit(&data[..len]);
            data = &data[len..];
        }
        self.pending.extend_from_slice(data);
    }

    /// Ends the file; gives the chunks that are left.
    pub fn finish(&mut self, mut emit: impl FnMut(&[u8])) {
        let mut rest = self.pending.as_slice();
        while let Some(len) = cut(rest, true) {
            emit(&rest[..len]);
            rest = &rest[len..];
        }
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(data: &[u8], piece: usize) -> Vec<usize> {
        let mut splitter = Splitter::new();
        let (mut out, mut joined) = (Vec::new(), Vec::new());
        let mut emit = |chunk: &[u8]| {
            out.push(chunk.len());
            joined.extend_from_slice(chunk);
        };
        for part in data.chunks(piece) {
            splitter.push(part, &mut emit);
        }
        splitter.finish(&mut emit);
        assert_eq!(joined, data, "chunks joined are the file");
        out
    }

    #[test]
    fn cuts_do_not_depend_on_how_bytes_arrive() {
        let data = noise(3 << 20);
        let whole = lengths(&data, data.len());
        assert!(whole.len() > 30, "{whole:?}");
        for piece in [
            1000,
            65_536,
            CHUNK_MAX - 1,
            CHUNK_MAX,
            CHUNK_MAX + 1,
            1 << 20,
        ] {
            assert_eq!(lengths(&data, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn cut_points_are_part_of_the_format() {
        // Changing these loses deduplication against everything stored.
        let got = lengths(&noise(1 << 20), 1 << 20);
        assert_eq!(got, GOLDEN_CUTS);
    }

    #[test]
    fn chunk_sizes_stay_within_bounds() {
        let zeros = vec![0; 1 << 20];
        for data in [noise(1 << 20), zeros] {
            let got = lengths(&data, 123_457);
            let (last, full) = got.split_last().unwrap();
            assert!(full.iter().all(|&l| (CHUNK_MIN..=CHUNK_MAX).contains(&l)));
            assert!((1..=CHUNK_MAX).contains(last));
        }
    }

    #[test]
    fn empty_files_have_no_chunks_and_state_does_not_leak_between_files() {
        assert!(lengths(&[], 1).is_empty());
        let data = noise(100_000);
        let mut splitter = Splitter::new();
        let mut rounds = Vec::new();
        for _ in 0..2 {
            let mut out = Vec::new();
            splitter.push(&data, |c| out.push(c.len()));
            splitter.finish(|c| out.push(c.len()));
            rounds.push(out);
        }
        assert_eq!(rounds[0], rounds[1]);
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let data = noise(2 << 20);
        let mut edited = data.clone();
        edited.splice(1_000_000..1_000_000, *b"inserted");
        let chunks = |data: &[u8]| {
            let mut out = std::collections::BTreeSet::new();
            let mut splitter = Splitter::new();
            splitter.push(data, |c| {
                out.insert(c.to_vec());
            });
            splitter.finish(|c| {
                out.insert(c.to_vec());
            });
            out
        };
        let (before, after) = (chunks(&data), chunks(&edited));
        assert!(before.difference(&after).count() <= 3);
    }

    const GOLDEN_CUTS: &[usize] = &[
        32_798, 100_912, 40_249, 68_411, 152_004, 75_528, 61_313, 86_054, 69_684, 80_169, 58_517,
        51_479, 153_692, 17_766,
    ];
}
