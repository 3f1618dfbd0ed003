//! A graph -> what a flist keeps of it: hints, and the command's closure as a
//! profile.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;

use lamina_flist::{
    BlobLayout, FileData, HintFile, HintTable, NodeId, NodeKind, Profile, ProfileRange,
    ProfileSource, Tree,
};

use super::graph::NEEDS_MAX;
use super::{Graph, Needed};

/// Files of a closure.
const CLOSURE_MAX: usize = 20_000;
/// Needs of all files, within what a flist may hold; those of small files are
/// in their place.
const NEEDS_TOTAL_MAX: usize = 7 << 20;
/// Small files looked through for one file's needs.
const SPLICED_MAX: usize = 4096;
/// Needs of small files looked at, each time that they are; a large image has a
/// few million, and so many take seconds.
const LOOKS_MAX: usize = 64 << 20;
/// Ranges of one file: segments of a sparse one.
const RANGES_MAX: usize = 64;
/// Ranges of all files, within what a flist may hold.
const RANGES_TOTAL_MAX: usize = 4 << 20;
/// Ranges of a profile.
const PROFILE_RANGES_MAX: usize = 100_000;

impl Graph {
    /// What a start of the image's command reads, in likely order.
    pub fn closure(&self) -> Vec<Needed> {
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        let mut todo: Vec<u32> = self.starts.iter().rev().copied().collect();
        while let Some(id) = todo.pop() {
            if seen.len() >= CLOSURE_MAX || !seen.insert(id) {
                continue;
            }
            let file = &self.files[id as usize];
            out.extend(file.parts.iter().map(|range| Needed {
                node: file.node,
                range: range.clone(),
            }));
            let unseen = file.needs.iter().rev().filter(|need| !seen.contains(need));
            todo.extend(unseen);
        }
        out
    }

    /// The closure as blob ranges; `None` if it is empty.
    pub fn profile(&self, tree: &Tree, blobs: &[BlobLayout]) -> Option<Profile> {
        let mut ranges: Vec<ProfileRange> = Vec::new();
        let mut seen = HashSet::new();
        for needed in self.closure() {
            for range in blob_ranges(tree, blobs, needed.node, &needed.range) {
                for entry in range.first_entry..range.first_entry + range.count {
                    if seen.insert((range.blob, entry)) {
                        push(&mut ranges, range.blob, entry);
                    }
                }
            }
        }
        ranges.truncate(PROFILE_RANGES_MAX);
        (!ranges.is_empty()).then_some(Profile {
            source: ProfileSource::Static,
            ranges,
        })
    }

    /// The graph by blob ranges; `None` if it is empty. Files that are in the
    /// tree itself are left out, their needs taking their place.
    pub fn hints(&self, tree: &Tree, blobs: &[BlobLayout]) -> Option<HintTable> {
        let mut ranges_left = RANGES_TOTAL_MAX;
        let ranges: Vec<Vec<ProfileRange>> = self
            .files
            .iter()
            .map(|file| {
                let parts = file.parts.iter();
                let ranges = parts.flat_map(|part| blob_ranges(tree, blobs, file.node, part));
                let mut ranges = joined(ranges);
                ranges.truncate(ranges_left);
                ranges_left -= ranges.len();
                ranges
            })
            .collect();
        let looks = Cell::new(LOOKS_MAX);
        let mut left = NEEDS_TOTAL_MAX;
        let needs: Vec<Vec<u32>> = (0..self.files.len())
            .map(|id| {
                let needs = match ranges[id].is_empty() {
                    true => Vec::new(),
                    false => self.spliced(id as u32, &ranges, left, &looks),
                };
                left -= needs.len();
                needs
            })
            .collect();
        number(&ranges, &needs)
    }

    /// What a file needs, with the needs of files without ranges in their
    /// place, as long as the looks at those last.
    fn spliced(
        &self,
        id: u32,
        ranges: &[Vec<ProfileRange>],
        left: usize,
        looks: &Cell<usize>,
    ) -> Vec<u32> {
        let mut out = Vec::new();
        let mut seen = HashSet::from([id]);
        let mut spliced = 0;
        let mut todo: Vec<u32> = self.files[id as usize]
            .needs
            .iter()
            .rev()
            .copied()
            .collect();
        while let Some(need) = todo.pop() {
            if out.len() >= NEEDS_MAX.min(left) {
                break;
            }
            if !seen.insert(need) {
                continue;
            }
            if !ranges[need as usize].is_empty() {
                out.push(need);
                continue;
            }
            let needs = &self.files[need as usize].needs;
            if let Some(rest) = looks.get().checked_sub(needs.len())
                && spliced < SPLICED_MAX
            {
                looks.set(rest);
                spliced += 1;
                todo.extend(needs.iter().rev());
            }
        }
        out
    }
}

/// Gives numbers to the files that lead somewhere or are led to.
fn number(ranges: &[Vec<ProfileRange>], needs: &[Vec<u32>]) -> Option<HintTable> {
    let mut used: Vec<bool> = needs.iter().map(|needs| !needs.is_empty()).collect();
    for need in needs.iter().flatten() {
        used[*need as usize] = true;
    }
    let mut numbers = vec![0; used.len()];
    let mut count = 0;
    for (number, used) in numbers.iter_mut().zip(&used) {
        *number = count;
        count += u32::from(*used);
    }
    let kept = (0..used.len()).filter(|id| used[*id]);
    let files: Vec<HintFile> = kept
        .map(|id| HintFile {
            ranges: ranges[id].clone(),
            needs: needs[id].iter().map(|n| numbers[*n as usize]).collect(),
        })
        .collect();
    (!files.is_empty()).then_some(HintTable { files })
}

/// The blob entries that hold a part of a file.
fn blob_ranges(
    tree: &Tree,
    blobs: &[BlobLayout],
    node: NodeId,
    part: &Range<u64>,
) -> Vec<ProfileRange> {
    let NodeKind::File(file) = &tree.node(node).kind else {
        return Vec::new();
    };
    let mut out = Vec::new();
    let mut run = |blob: u16, file_offset: u64, len: u64, blob_offset: u64| {
        let start = part.start.max(file_offset);
        let end = part.end.min(file_offset + len);
        if start < end && out.len() < RANGES_MAX {
            let at = blob_offset + (start - file_offset);
            out.extend(entries(blobs, blob, at..at + (end - start)));
        }
    };
    match &file.data {
        FileData::Inline(_) => {}
        FileData::Extent(extent) => run(extent.blob, 0, file.size, extent.offset),
        FileData::Sparse { blob, segments } => {
            for s in segments {
                run(*blob, s.file_offset, s.len, s.blob_offset);
            }
        }
    }
    out
}

/// The entries of a blob that overlap a range of it.
fn entries(blobs: &[BlobLayout], blob: u16, range: Range<u64>) -> Option<ProfileRange> {
    let entries = &blobs.get(usize::from(blob))?.entries;
    let first = entries.partition_point(|e| e.offset + u64::from(e.len) <= range.start);
    let end = entries.partition_point(|e| e.offset < range.end);
    (first < end).then_some(ProfileRange {
        blob,
        first_entry: first as u32,
        count: (end - first) as u32,
    })
}

/// Ranges with neighbours joined.
fn joined(ranges: impl Iterator<Item = ProfileRange>) -> Vec<ProfileRange> {
    let mut out: Vec<ProfileRange> = Vec::new();
    for range in ranges {
        let follows = |last: &&mut ProfileRange| {
            let reach = last.first_entry..=last.first_entry + last.count;
            last.blob == range.blob && reach.contains(&range.first_entry)
        };
        if let Some(last) = out.last_mut().filter(follows) {
            let end = range.first_entry + range.count;
            last.count = last.count.max(end - last.first_entry);
        } else if out.len() < RANGES_MAX {
            out.push(range);
        }
    }
    out
}

/// Adds an entry to a profile.
fn push(ranges: &mut Vec<ProfileRange>, blob: u16, entry: u32) {
    match ranges.last_mut() {
        Some(last) if last.blob == blob && last.first_entry + last.count == entry => {
            last.count += 1;
        }
        _ => ranges.push(ProfileRange {
            blob,
            first_entry: entry,
            count: 1,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::graph::GraphFile;

    #[test]
    fn looks_at_small_files_are_paid_from_one_purse() {
        let file = |needs: &[u32]| GraphFile {
            node: Tree::ROOT,
            parts: Vec::new(),
            needs: needs.to_vec(),
        };
        // 1 is small, and leads to 2 and 3.
        let graph = Graph {
            files: vec![
                file(&[1, 4]),
                file(&[2, 3]),
                file(&[]),
                file(&[]),
                file(&[]),
            ],
            starts: Vec::new(),
        };
        let range = ProfileRange {
            blob: 0,
            first_entry: 0,
            count: 1,
        };
        let ranges: Vec<_> = (0..5).map(|id| vec![range; usize::from(id != 1)]).collect();
        let looks = Cell::new(5);
        let needs = || graph.spliced(0, &ranges, 100, &looks);
        assert_eq!(needs(), [2, 3, 4]);
        assert_eq!(needs(), [2, 3, 4]);
        assert_eq!(needs(), [4], "none left");
    }
}
