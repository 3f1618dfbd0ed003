//! What starts read, merged start by start: the profile that a node, and the cluster, learns (design, section 8).
//!
//! The latest start comes first; what earlier starts read is kept behind it until several starts in a row did
//! without. Bounded, whatever is put in.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::profile::{Profile, ProfileRange, ProfileSource};

/// Starts in a row that did not read a range before it is forgotten: images run more than one command.
const MISSED_MAX: u8 = 4;

/// What is known of an image's starts; its JSON is what a node keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learnt {
    /// Blob, first entry, count, and how many starts in a row did not read it; in order of first use.
    ranges: Vec<(u16, u32, u32, u8)>,
}

impl Learnt {
    /// Ranges kept at most: an image's start touches hundreds; a full scan is no profile.
    pub const RANGES_MAX: usize = 65_536;

    /// Entries of them: about 16 GiB.
    pub const ENTRIES_MAX: usize = 1 << 18;

    /// Ranges that are known.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// What the next start will read, in the order of first use.
    pub fn ranges(&self) -> impl Iterator<Item = ProfileRange> + '_ {
        let range = |&(blob, first_entry, count, _): &(u16, u32, u32, u8)| ProfileRange {
            blob,
            first_entry,
            count,
        };
        self.ranges.iter().map(range)
    }

    /// This profile after one more start. `watched` are the blobs whose reads were seen (the kernel reads
    /// complete ones alone): of those, what the start did without has been missed once more. `None`: the
    /// start is not over.
    #[must_use]
    pub fn after(&self, start: &[ProfileRange], watched: Option<&[u16]>) -> Self {
        let mut seen = HashSet::new();
        let mut next = Self::default();
        for range in start {
            next.add(range, 0, &mut seen);
        }
        for &(blob, first_entry, count, missed) in &self.ranges {
            let is_watched = watched.is_some_and(|watched| watched.contains(&blob));
            let missed = missed.saturating_add(u8::from(is_watched));
            let range = ProfileRange {
                blob,
                first_entry,
                count,
            };
            if missed < MISSED_MAX {
                next.add(&range, missed, &mut seen);
            }
        }
        next
    }

    /// Adds the entries of a range that are new, joined with the last range where they follow it.
    fn add(&mut self, range: &ProfileRange, missed: u8, seen: &mut HashSet<(u16, u32)>) {
        let end = range.first_entry.saturating_add(range.count);
        for entry in range.first_entry..end {
            if self.ranges.len() >= Self::RANGES_MAX || seen.len() >= Self::ENTRIES_MAX {
                return;
            }
            if !seen.insert((range.blob, entry)) {
                continue;
            }
            match self.ranges.last_mut() {
                Some((blob, first, count, age))
                    if (*blob, *first + *count, *age) == (range.blob, entry, missed) =>
                {
                    *count += 1;
                }
                _ => self.ranges.push((range.blob, entry, 1, missed)),
            }
        }
    }
}

impl From<Learnt> for Profile {
    fn from(learnt: Learnt) -> Self {
        Self {
            source: ProfileSource::Recorded,
            ranges: learnt.ranges().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(blob: u16, first_entry: u32, count: u32) -> ProfileRange {
        ProfileRange {
            blob,
            first_entry,
            count,
        }
    }

    #[test]
    fn the_latest_start_comes_first_and_earlier_ones_follow() {
        let first = Learnt::default().after(&[range(0, 5, 3), range(1, 0, 1)], Some(&[0, 1]));
        assert_eq!(first.ranges, [(0, 5, 3, 0), (1, 0, 1, 0)]);
        let second = first.after(&[range(1, 0, 2), range(0, 6, 1)], Some(&[0, 1]));
        assert_eq!(
            second.ranges,
            [(1, 0, 2, 0), (0, 6, 1, 0), (0, 5, 1, 1), (0, 7, 1, 1)]
        );
    }

    #[test]
    fn what_several_starts_did_without_is_forgotten() {
        let mut learnt = Learnt::default().after(&[range(0, 1, 1)], Some(&[0, 1]));
        for _ in 1..MISSED_MAX {
            learnt = learnt.after(&[range(0, 9, 1)], Some(&[0, 1]));
            assert_eq!(learnt.ranges.len(), 2);
        }
        learnt = learnt.after(&[range(0, 9, 1)], Some(&[0, 1]));
        assert_eq!(learnt.ranges, [(0, 9, 1, 0)]);
    }

    #[test]
    fn what_nobody_could_see_is_not_forgotten() {
        let mut learnt = Learnt::default().after(&[range(0, 1, 1), range(1, 1, 1)], Some(&[0, 1]));
        for _ in 0..MISSED_MAX {
            learnt = learnt.after(&[range(0, 9, 1)], Some(&[0]));
        }
        assert_eq!(learnt.ranges, [(0, 9, 1, 0), (1, 1, 1, 0)]);
    }

    #[test]
    fn looking_at_a_start_several_times_counts_once() {
        let before = Learnt::default().after(&[range(0, 1, 1)], Some(&[0, 1]));
        let mut learnt = before.after(&[range(0, 9, 1)], None);
        for _ in 0..2 * MISSED_MAX {
            learnt = learnt.after(&[range(0, 9, 1), range(0, 12, 1)], None);
        }
        assert_eq!(learnt.ranges, [(0, 9, 1, 0), (0, 12, 1, 0), (0, 1, 1, 0)]);
    }
}
