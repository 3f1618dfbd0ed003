//! Hints: which file needs which other files, for fetching ahead at run time.
//!
//! ```text
//! u32 file count F | u32 range count R | u32 edge count E | u32 0
//! files   F+1 x { u32 first range | u32 first edge }; the last closes the lists
//! ranges  R x { u32 blob | u32 first entry | u32 entries }, file after file
//! order   R x { u32 range }, ascending by (blob, first entry, range)
//! edges   E x { u32 file }, file after file
//! ```
//!
//! A file's ranges and edges are in the order of likely use. Nothing is parsed
//! when a flist is opened; every accessor reads a few records in place, and
//! none trusts them: on a table nobody checked the answers are nonsense, but
//! they end, and they do not panic.

use std::ops::Range;

use bytes::Bytes;

use crate::error::FlistError;
use crate::header::kind;
use crate::le::{Fields, u32_at};
use crate::limits::Limits;
use crate::profile::ProfileRange;
use crate::tables::BlobTable;

const HEADER: usize = 16;
const FILE: usize = 8;
const RANGE: usize = 12;
const INDEX: usize = 4;

/// A file to be written into the hints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintFile {
    /// What to fetch of it, in order.
    pub ranges: Vec<ProfileRange>,
    /// What to fetch after it: indexes of files, in order.
    pub needs: Vec<u32>,
}

/// Hints to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HintTable {
    /// The files; their places are their indexes.
    pub files: Vec<HintFile>,
}

/// The hints of a flist, read in place. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hints {
    bytes: Bytes,
    shape: Shape,
}

/// Where the lists of a section are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    files: usize,
    ranges: usize,
    edges: usize,
}

impl Shape {
    fn parse(section: &[u8]) -> Result<Self, FlistError> {
        let bad = || FlistError::SectionLength(kind::HINTS);
        let count = |at| u32_at(section, at).map(|n| n as usize).ok_or_else(bad);
        let shape = Self {
            files: count(0)?,
            ranges: count(4)?,
            edges: count(8)?,
        };
        if count(12)? != 0 {
            return Err(FlistError::RecordReserved {
                kind: kind::HINTS,
                index: 0,
            });
        }
        // In 64 bits no sum of products of these can overflow.
        if shape.len() != section.len() as u64 {
            return Err(bad());
        }
        Ok(shape)
    }

    fn len(self) -> u64 {
        let [files, ranges, edges] = [self.files, self.ranges, self.edges].map(|n| n as u64);
        (HEADER + FILE) as u64
            + files * FILE as u64
            + ranges * (RANGE + INDEX) as u64
            + edges * INDEX as u64
    }

    fn ranges_at(self) -> usize {
        HEADER + (self.files + 1) * FILE
    }

    fn order_at(self) -> usize {
        self.ranges_at() + self.ranges * RANGE
    }

    fn edges_at(self) -> usize {
        self.order_at() + self.ranges * INDEX
    }
}

impl Hints {
    pub(crate) fn parse(bytes: Bytes) -> Result<Self, FlistError> {
        let shape = Shape::parse(&bytes)?;
        Ok(Self { bytes, shape })
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.shape.files
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.shape.files == 0
    }

    /// Number of needs of all files.
    pub fn edge_count(&self) -> usize {
        self.shape.edges
    }

    /// The file that entry `entry` of blob `blob` belongs to; of several with
    /// the same content the first.
    pub fn file_at(&self, blob: u16, entry: u32) -> Option<u32> {
        let key = |range: &ProfileRange| (range.blob, range.first_entry);
        let view = self.view();
        let after = view.partition(|range| key(range) <= (blob, entry));
        let last = view.ordered(after.checked_sub(1)?)?.1;
        if last.blob != blob || entry - last.first_entry >= last.count {
            return None;
        }
        let first = view.partition(|range| key(range) < key(&last));
        let (index, _) = view.ordered(first)?;
        view.owner(index)
    }

    /// What to fetch of a file, in order; nothing for one that is not there.
    pub fn ranges(&self, file: u32) -> impl ExactSizeIterator<Item = ProfileRange> + '_ {
        let view = self.view();
        let list = view.list(file, 0, self.shape.ranges);
        list.map(move |index| view.range(index).unwrap_or(NOTHING))
    }

    /// The files to fetch after a file, in order; nothing for one that is not
    /// there.
    pub fn needs(&self, file: u32) -> impl ExactSizeIterator<Item = u32> + '_ {
        let view = self.view();
        let list = view.list(file, 4, self.shape.edges);
        list.map(move |index| view.edge(index).unwrap_or(u32::MAX))
    }

    /// The hints as they were written.
    pub fn to_table(&self) -> HintTable {
        let file = |file| HintFile {
            ranges: self.ranges(file).collect(),
            needs: self.needs(file).collect(),
        };
        HintTable {
            files: (0..self.shape.files as u32).map(file).collect(),
        }
    }

    fn view(&self) -> View<'_> {
        View {
            bytes: &self.bytes,
            shape: self.shape,
        }
    }
}

/// Records in place.
#[derive(Clone, Copy)]
struct View<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

impl View<'_> {
    /// A file's part of a list of `len` records; `field` is which list.
    fn list(&self, file: u32, field: usize, len: usize) -> Range<usize> {
        let first = |file| self.first(file, field).map_or(0, |first| first.min(len));
        let file = file as usize;
        if file >= self.shape.files {
            return 0..0;
        }
        let start = first(file);
        start..first(file + 1).max(start)
    }

    fn first(&self, file: usize, field: usize) -> Option<usize> {
        u32_at(self.bytes, HEADER + file * FILE + field).map(|first| first as usize)
    }

    fn range(&self, index: usize) -> Option<ProfileRange> {
        let at = self.shape.ranges_at() + index * RANGE;
        Some(ProfileRange {
            blob: u16::try_from(u32_at(self.bytes, at)?).ok()?,
            first_entry: u32_at(self.bytes, at + 4)?,
            count: u32_at(self.bytes, at + 8)?,
        })
    }

    /// The range at a place in the sorted order, with its index.
    fn ordered(&self, place: usize) -> Option<(usize, ProfileRange)> {
        if place >= self.shape.ranges {
            return None;
        }
        let index = u32_at(self.bytes, self.shape.order_at() + place * INDEX)? as usize;
        if index >= self.shape.ranges {
            return None;
        }
        Some((index, self.range(index)?))
    }

    fn edge(&self, index: usize) -> Option<u32> {
        u32_at(self.bytes, self.shape.edges_at() + index * INDEX)
    }

    /// First place in the sorted order for which `before` does not hold.
    fn partition(&self, before: impl Fn(&ProfileRange) -> bool) -> usize {
        partition(self.shape.ranges, |place| {
            self.ordered(place).is_some_and(|(_, range)| before(&range))
        })
    }

    /// The file that has range `index`.
    fn owner(&self, index: usize) -> Option<u32> {
        let starts_before = |file| self.first(file, 0).is_some_and(|first| first <= index);
        // Files without ranges begin where their successor does.
        partition(self.shape.files, starts_before)
            .checked_sub(1)
            .map(|file| file as u32)
    }
}

/// What a record outside the section reads as: no blob has so many entries.
const NOTHING: ProfileRange = ProfileRange {
    blob: u16::MAX,
    first_entry: u32::MAX,
    count: 0,
};

fn partition(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl HintTable {
    fn counts(&self) -> (usize, usize) {
        let ranges = self.files.iter().map(|file| file.ranges.len()).sum();
        let edges = self.files.iter().map(|file| file.needs.len()).sum();
        (ranges, edges)
    }

    pub(crate) fn write(&self) -> Vec<u8> {
        let (range_count, edge_count) = self.counts();
        let shape = Shape {
            files: self.files.len(),
            ranges: range_count,
            edges: edge_count,
        };
        let mut out = vec![0; shape.len() as usize];
        let mut fields = Fields::new(&mut out);
        fields
            .u32(shape.files as u32)
            .u32(range_count as u32)
            .u32(edge_count as u32)
            .u32(0);
        let (mut first_range, mut first_edge) = (0, 0);
        for file in &self.files {
            fields.u32(first_range).u32(first_edge);
            first_range += file.ranges.len() as u32;
            first_edge += file.needs.len() as u32;
        }
        fields.u32(first_range).u32(first_edge);
        let ranges: Vec<&ProfileRange> = self.files.iter().flat_map(|f| &f.ranges).collect();
        for range in &ranges {
            fields
                .u32(u32::from(range.blob))
                .u32(range.first_entry)
                .u32(range.count);
        }
        let mut order: Vec<u32> = (0..ranges.len() as u32).collect();
        order.sort_unstable_by_key(|&index| {
            let range = ranges[index as usize];
            (range.blob, range.first_entry, index)
        });
        for index in order.iter().chain(self.files.iter().flat_map(|f| &f.needs)) {
            fields.u32(*index);
        }
        out
    }

    /// Whether the counts fit the format and `limits`; before writing.
    pub(crate) fn check_size(&self, limits: &Limits) -> Result<(), FlistError> {
        let (ranges, edges) = self.counts();
        check_counts(self.files.len(), ranges, edges, limits)
    }
}

fn check_counts(
    files: usize,
    ranges: usize,
    edges: usize,
    limits: &Limits,
) -> Result<(), FlistError> {
    let all = [
        ("files with hints", files, limits.hint_files_max),
        ("ranges in the hints", ranges, limits.hint_edges_max),
        ("edges in the hints", edges, limits.hint_edges_max),
    ];
    match all
        .iter()
        .find(|(_, count, max)| *count as u64 > u64::from(*max))
    {
        Some(&(what, _, max)) => Err(FlistError::Limit {
            what,
            limit: max.into(),
        }),
        None => Ok(()),
    }
}

/// Checks a section against the blobs it names.
pub(crate) fn check(
    section: &[u8],
    blobs: &BlobTable<'_>,
    limits: &Limits,
) -> Result<(), FlistError> {
    let shape = Shape::parse(section)?;
    check_counts(shape.files, shape.ranges, shape.edges, limits)?;
    let hints = View {
        bytes: section,
        shape,
    };
    check_lists(hints)?;
    check_ranges(hints, blobs)?;
    let outside = |&index: &usize| {
        let edge = hints.edge(index);
        edge.is_none_or(|file| file as usize >= shape.files)
    };
    match (0..shape.edges).find(outside) {
        Some(index) => Err(FlistError::HintEdge(index as u64)),
        None => Ok(()),
    }
}

/// The files' lists follow each other and use every range and edge.
fn check_lists(hints: View<'_>) -> Result<(), FlistError> {
    let Shape {
        files,
        ranges,
        edges,
    } = hints.shape;
    for (field, len) in [(0, ranges), (4, edges)] {
        let mut previous = 0;
        for file in 0..=files {
            let first = hints.first(file, field).unwrap_or(usize::MAX);
            let starts_right = file > 0 || first == 0;
            if first < previous || !starts_right || (file == files && first != len) {
                return Err(FlistError::HintList(file as u64));
            }
            previous = first;
        }
    }
    Ok(())
}

/// Ranges are in their blobs; the order is sorted, and so has each range once.
fn check_ranges(hints: View<'_>, blobs: &BlobTable<'_>) -> Result<(), FlistError> {
    let mut previous = None;
    for place in 0..hints.shape.ranges {
        let bad = || FlistError::HintRange(place as u64);
        let range = hints.range(place).ok_or_else(bad)?;
        let end = u64::from(range.first_entry) + u64::from(range.count);
        let blob = blobs.get(usize::from(range.blob));
        if range.count == 0 || blob.is_none_or(|blob| end > blob.entries) {
            return Err(bad());
        }
        let bad = || FlistError::HintOrder(place as u64);
        let (index, range) = hints.ordered(place).ok_or_else(bad)?;
        let key = Some((range.blob, range.first_entry, index));
        if previous >= key {
            return Err(bad());
        }
        previous = key;
    }
    Ok(())
}
