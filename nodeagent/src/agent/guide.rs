//! Following a flist's hints: from the file somebody reads to those it will need.
//!
//! Each file is followed once per live flist: what its needs led to is fetched or waits to be, and a
//! reader that gets there first is served on demand.

use lamina_flist::{Flist, Hints, ProfileRange};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Files followed at once at most: a start needs thousands, a hostile table may link a million.
const FILES_MAX: usize = 20_000;

/// The hints of a live flist, and how far they were followed.
#[derive(Debug)]
pub(crate) struct Guide {
    hints: Option<Hints>,
    followed: Mutex<HashSet<u32>>,
}

impl Guide {
    pub(crate) fn new(flist: &Flist) -> Self {
        Self {
            hints: flist.hints(),
            followed: Mutex::default(),
        }
    }

    /// The ranges of the files these entries belong to and of all they need, depth first: a file's
    /// needs run before what comes after it. Nothing where that was asked before.
    pub(crate) fn follow(&self, blob: u16, entries: &Range<u32>) -> Vec<ProfileRange> {
        let Some(hints) = &self.hints else {
            return Vec::new();
        };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ranges = Vec::new();
        let mut left = FILES_MAX;
        for entry in entries.clone() {
            let mut next: Vec<u32> = hints.file_at(blob, entry).into_iter().collect();
            while let Some(file) = next.pop() {
                if left == 0 || !followed.insert(file) {
                    continue;
                }
                left -= 1;
                ranges.extend(hints.ranges(file));
                let mut needs: Vec<u32> = hints.needs(file).collect();
                needs.retain(|need| !followed.contains(need));
                next.extend(needs.into_iter().rev());
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_flist::{
        BlobBuilder, ChunkId, ChunkRecord, Codec, Extent, FileContent, FileData, FlistBuilder,
        HintFile, HintTable, Metadata, Node, NodeKind, PackId, PackRecord, Sha256Digest, Tree,
    };

    fn range(first_entry: u32) -> ProfileRange {
        ProfileRange {
            blob: 0,
            first_entry,
            count: 1,
        }
    }

    /// A flist of one file of `count` chunks, with hints: one hint file per chunk.
    fn guide(needs: &[&[u32]]) -> Guide {
        let mut blob = BlobBuilder::default();
        let chunks: Vec<ChunkRecord> = (0..needs.len() as u32)
            .map(|number| ChunkRecord {
                id: ChunkId::of(&number.to_le_bytes()),
                pack: 0,
                offset: number * 4096,
                stored_len: 4096,
                len: 4096,
                codec: Codec::Raw,
            })
            .collect();
        let placed: Vec<(u32, u32)> = (0..needs.len() as u32).map(|chunk| (chunk, 4096)).collect();
        let offset = blob.place(&placed);
        let mut tree = Tree::new(Metadata::default());
        let file = FileContent {
            size: 4096 * needs.len() as u64,
            data: FileData::Extent(Extent { blob: 0, offset }),
        };
        let node = Node {
            meta: Metadata::default(),
            kind: NodeKind::File(file),
        };
        tree.insert(Tree::ROOT, "file".try_into().unwrap(), node)
            .unwrap();
        let files = needs.iter().enumerate().map(|(number, needs)| HintFile {
            ranges: vec![range(number as u32)],
            needs: needs.to_vec(),
        });
        let built = FlistBuilder {
            blobs: vec![blob.finish()],
            chunks,
            packs: vec![PackRecord {
                id: PackId::of(b"pack"),
                sha256: Sha256Digest::from_bytes([0; 32]),
                len: 1 << 20,
                embedded_at: None,
            }],
            hints: Some(HintTable {
                files: files.collect(),
            }),
            ..FlistBuilder::new(tree)
        };
        let head = built.build().unwrap();
        Guide::new(&Flist::parse(head.bytes.into()).unwrap())
    }

    fn firsts(ranges: &[ProfileRange]) -> Vec<u32> {
        ranges.iter().map(|range| range.first_entry).collect()
    }

    #[test]
    fn needs_are_followed_depth_first_and_once() {
        let guide = guide(&[&[1, 3], &[2], &[0], &[2], &[1]]);
        assert_eq!(firsts(&guide.follow(0, &(0..1))), [0, 1, 2, 3]);
        assert_eq!(guide.follow(0, &(2..4)), []);
        assert_eq!(firsts(&guide.follow(0, &(4..5))), [4]);
    }

    #[test]
    fn what_no_hint_names_leads_nowhere() {
        let guide = guide(&[&[], &[]]);
        assert_eq!(guide.follow(3, &(0..1)), []);
        assert_eq!(guide.follow(0, &(7..9)), []);
        assert_eq!(firsts(&guide.follow(0, &(0..2))), [0, 1]);
    }
}
