//! Access profiles: which blob entries an image's start touches, in which order (design, section 8).
//!
//! Learnt from what the mount daemon saw first reads of, kept in the state directory (so that emptying
//! the cache does not lose it) under the flist's digest, and replayed by prefetch on every later mount.
//! The latest start comes first in it; what earlier starts read is kept behind it until several starts
//! in a row did without. Best effort by nature: a lost profile costs time, never correctness.

use lamina_flist::{FlistDigest, Profile, ProfileRange, ProfileSource};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Ranges kept at most: an image's start touches hundreds; a full scan is no profile.
pub(crate) const RANGES_MAX: usize = 65_536;
/// Entries of them: about 16 GiB.
const ENTRIES_MAX: usize = 1 << 18;
/// Starts in a row that did not read a range before it is forgotten: images run more than one command.
const MISSED_MAX: u8 = 4;

/// A learnt profile as a file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Learnt {
    /// Blob, first entry, count, and how many starts in a row did not read it; in order of first use.
    ranges: Vec<(u16, u32, u32, u8)>,
}

impl Learnt {
    /// This profile after one more start. `watched` are the blobs whose reads were seen (the kernel reads
    /// complete ones alone): of those, what the start did without has been missed once more. `None`: the
    /// start is not over.
    fn after(&self, start: &[ProfileRange], watched: Option<&[u16]>) -> Self {
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
            if self.ranges.len() >= RANGES_MAX || seen.len() >= ENTRIES_MAX {
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
        let range = |(blob, first_entry, count, _)| ProfileRange {
            blob,
            first_entry,
            count,
        };
        Self {
            source: ProfileSource::Recorded,
            ranges: learnt.ranges.into_iter().map(range).collect(),
        }
    }
}

/// Where learnt profiles live.
#[derive(Debug, Clone)]
pub(crate) struct ProfileDir(PathBuf);

impl ProfileDir {
    /// `<state>/profiles`, made when missing.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("profiles");
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// The profile learnt for a flist; `None` when there is none or it cannot be used.
    pub(crate) fn load(&self, digest: &FlistDigest) -> Option<Profile> {
        self.read(digest).map(Profile::from)
    }

    /// Takes in what a start read so far, or in the end, of the blobs `watched`; replaces the file in one
    /// step.
    pub(crate) fn learn(
        &self,
        digest: &FlistDigest,
        start: &[ProfileRange],
        watched: Option<&[u16]>,
    ) -> io::Result<()> {
        let learnt = self.read(digest).unwrap_or_default();
        let partial = self.0.join(format!(".{digest}.tmp"));
        std::fs::write(&partial, serde_json::to_vec(&learnt.after(start, watched))?)?;
        std::fs::rename(&partial, self.path(digest))
    }

    fn read(&self, digest: &FlistDigest) -> Option<Learnt> {
        let bytes = std::fs::read(self.path(digest)).ok()?;
        match serde_json::from_slice::<Learnt>(&bytes) {
            Ok(learnt) => Some(learnt),
            Err(error) => {
                tracing::warn!(%digest, %error, "ignoring a damaged access profile");
                None
            }
        }
    }

    fn path(&self, digest: &FlistDigest) -> PathBuf {
        self.0.join(format!("{digest}.json"))
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

    #[test]
    fn a_profile_survives_its_directory_being_reopened() {
        let state = tempfile::tempdir().unwrap();
        let digest = FlistDigest::of(b"flist");
        let dir = ProfileDir::open(state.path()).unwrap();
        assert_eq!(dir.load(&digest), None);
        dir.learn(&digest, &[range(0, 7, 4)], Some(&[0, 1]))
            .unwrap();
        let profile = ProfileDir::open(state.path()).unwrap().load(&digest);
        assert_eq!(profile.unwrap().ranges, [range(0, 7, 4)]);
    }

    #[test]
    fn a_damaged_profile_is_no_profile() {
        let state = tempfile::tempdir().unwrap();
        let digest = FlistDigest::of(b"flist");
        let dir = ProfileDir::open(state.path()).unwrap();
        std::fs::write(dir.path(&digest), b"{\"ranges\": 3").unwrap();
        assert_eq!(dir.load(&digest), None);
    }
}
