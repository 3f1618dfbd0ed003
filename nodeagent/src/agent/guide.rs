//! Following a flist's hints: from the file somebody reads to those it will need.
//!
//! Each file is followed once per live flist: what its needs led to is fetched or waits to be, and a
//! reader that gets there first is served on demand.

use lamina_flist::{Flist, Hints, Learnt, Profile, ProfileRange, ProfileSource};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Files followed at once at most, beside the ranges of a profile: a start needs thousands, a hostile
/// table may link a million.
const FILES_MAX: usize = 20_000;

/// The hints of a live flist, and how far they were followed.
#[derive(Debug)]
pub(crate) struct Guide {
    hints: Option<Hints>,
    /// What a learnt profile brings anyway, sorted: it knows better than hints what comes after.
    learnt: Vec<ProfileRange>,
    followed: Mutex<HashSet<u32>>,
}

impl Guide {
    /// The guide of a flist that is fetched along `profile`, if there is one.
    pub(crate) fn new(flist: &Flist, profile: Option<&Profile>) -> Self {
        let learnt = profile.filter(|profile| profile.source == ProfileSource::Recorded);
        let mut learnt = learnt.map_or_else(Vec::new, |profile| profile.ranges.clone());
        learnt.sort_unstable_by_key(|range| (range.blob, range.first_entry));
        Self {
            hints: flist.hints(),
            learnt,
            followed: Mutex::default(),
        }
    }

    /// The ranges of the file this entry belongs to and of all it needs, depth first: a file's needs
    /// run before what comes after it. Nothing where that was asked before.
    pub(crate) fn follow(&self, blob: u16, entry: u32) -> Vec<ProfileRange> {
        let Some(hints) = &self.hints else {
            return Vec::new();
        };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next: Vec<u32> = hints.file_at(blob, entry).into_iter().collect();
        let mut ranges = Vec::new();
        let mut left = FILES_MAX;
        while let Some(file) = next.pop() {
            if left == 0 || ranges.len() >= Learnt::RANGES_MAX {
                break;
            }
            if !followed.insert(file) {
                continue;
            }
            left -= 1;
            let room = Learnt::RANGES_MAX - ranges.len();
            ranges.extend(hints.ranges(file).take(room));
            let mut needs: Vec<u32> = hints.needs(file).collect();
            needs.retain(|need| !followed.contains(need));
            next.extend(needs.into_iter().rev());
        }
        ranges
    }

    /// Whether a learnt profile brings an entry anyway.
    pub(crate) fn is_learnt(&self, blob: u16, entry: u32) -> bool {
        let key = |range: &ProfileRange| (range.blob, range.first_entry);
        let after = self
            .learnt
            .partition_point(|range| key(range) <= (blob, entry));
        let before = after.checked_sub(1).map(|at| self.learnt[at]);
        before.is_some_and(|range| range.blob == blob && entry - range.first_entry < range.count)
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
    fn guide(needs: &[&[u32]], profile: Option<&Profile>) -> Guide {
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
        Guide::new(&Flist::parse(head.bytes.into()).unwrap(), profile)
    }

    fn firsts(ranges: &[ProfileRange]) -> Vec<u32> {
        ranges.iter().map(|range| range.first_entry).collect()
    }

    #[test]
    fn needs_are_followed_depth_first_and_once() {
        let guide = guide(&[&[1, 3], &[2], &[0], &[2], &[1]], None);
        assert_eq!(firsts(&guide.follow(0, 0)), [0, 1, 2, 3]);
        assert_eq!(guide.follow(0, 2), []);
        assert_eq!(firsts(&guide.follow(0, 4)), [4]);
    }

    #[test]
    fn what_no_hint_names_leads_nowhere() {
        let guide = guide(&[&[], &[]], None);
        assert_eq!(guide.follow(3, 0), []);
        assert_eq!(guide.follow(0, 7), []);
        assert_eq!(firsts(&guide.follow(0, 1)), [1]);
    }

    #[test]
    fn a_learnt_profile_knows_what_it_brings() {
        let mut profile = Profile {
            source: ProfileSource::Recorded,
            ranges: vec![range(2), range(0)],
        };
        let learnt = |profile: &Profile| -> Vec<bool> {
            let guide = guide(&[&[], &[], &[], &[]], Some(profile));
            (0..5).map(|entry| guide.is_learnt(0, entry)).collect()
        };
        assert_eq!(learnt(&profile), [true, false, true, false, false]);
        profile.source = ProfileSource::Static;
        assert_eq!(learnt(&profile), [false; 5], "a guess is not trusted");
    }
}
