//! Access profiles: which blob entries an image's start touches, in which order (design, section 8).
//!
//! Recorded while a flist is mounted for the first time, kept in the state directory (so that
//! emptying the cache does not lose it) under the flist's digest, and replayed by prefetch on every
//! later cold mount. Best effort by nature: a lost profile costs time, never correctness.

use lamina_flist::{FlistDigest, Profile, ProfileRange, ProfileSource};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Ranges kept at most: an image's start touches hundreds; a full scan is no profile.
const RANGES_MAX: usize = 65_536;

/// A recorded profile as a file: `[blob, first entry, count]` in order of first use.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    ranges: Vec<(u16, u32, u32)>,
}

impl From<&Profile> for Kept {
    fn from(profile: &Profile) -> Self {
        let ranges = profile.ranges.iter();
        Self {
            ranges: ranges
                .map(|range| (range.blob, range.first_entry, range.count))
                .collect(),
        }
    }
}

impl From<Kept> for Profile {
    fn from(kept: Kept) -> Self {
        let range = |(blob, first_entry, count)| ProfileRange {
            blob,
            first_entry,
            count,
        };
        Self {
            source: ProfileSource::Recorded,
            ranges: kept.ranges.into_iter().map(range).collect(),
        }
    }
}

/// Where recorded profiles live.
#[derive(Debug, Clone)]
pub(crate) struct ProfileDir(PathBuf);

impl ProfileDir {
    /// `<state>/profiles`, made when missing.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let dir = state.join("profiles");
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }

    /// The profile recorded for a flist; `None` when there is none or it cannot be used.
    pub(crate) fn load(&self, digest: &FlistDigest) -> Option<Profile> {
        let bytes = std::fs::read(self.path(digest)).ok()?;
        match serde_json::from_slice::<Kept>(&bytes) {
            Ok(kept) => Some(kept.into()),
            Err(error) => {
                tracing::warn!(%digest, %error, "ignoring a damaged access profile");
                None
            }
        }
    }

    /// Keeps a profile; replaces an earlier one in one step.
    pub(crate) fn save(&self, digest: &FlistDigest, profile: &Profile) -> io::Result<()> {
        let partial = self.0.join(format!(".{digest}.tmp"));
        std::fs::write(&partial, serde_json::to_vec(&Kept::from(profile))?)?;
        std::fs::rename(&partial, self.path(digest))
    }

    fn path(&self, digest: &FlistDigest) -> PathBuf {
        self.0.join(format!("{digest}.json"))
    }
}

/// Notes the order in which entries are first asked for.
#[derive(Debug)]
pub(crate) struct Recorder {
    recording: Option<Mutex<Recording>>,
    until: Instant,
}

/// What is read later than this after mounting is no start any more.
const RECORD_FOR: Duration = Duration::from_secs(120);

#[derive(Debug, Default)]
struct Recording {
    seen: HashSet<(u16, u32)>,
    ranges: Vec<ProfileRange>,
}

impl Recorder {
    /// A recorder; one that does nothing when there is nothing to learn: a recorded profile exists,
    /// or data that is local already would be missing from it.
    pub(crate) fn new(record: bool) -> Self {
        Self {
            recording: record.then(Mutex::default),
            until: Instant::now() + RECORD_FOR,
        }
    }

    /// Notes that `count` entries of `blob` from `first` were asked for.
    pub(crate) fn note(&self, blob: u16, first: u32, count: u32) {
        let Some(recording) = &self.recording else {
            return;
        };
        if Instant::now() > self.until {
            return;
        }
        let mut recording = recording.lock().expect("no panic while recording");
        for entry in first..first.saturating_add(count) {
            recording.add(blob, entry);
        }
    }

    /// What was recorded, after the profile that was followed meanwhile (what prefetch brought was not
    /// asked for any more); `None` when nothing was recorded.
    pub(crate) fn profile(&self, followed: Option<&Profile>) -> Option<Profile> {
        let recording = self
            .recording
            .as_ref()?
            .lock()
            .expect("no panic while recording");
        (!recording.ranges.is_empty()).then(|| Profile {
            source: ProfileSource::Recorded,
            ranges: followed
                .iter()
                .flat_map(|profile| &profile.ranges)
                .chain(&recording.ranges)
                .copied()
                .collect(),
        })
    }
}

impl Recording {
    fn add(&mut self, blob: u16, entry: u32) {
        if self.ranges.len() >= RANGES_MAX || !self.seen.insert((blob, entry)) {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.blob == blob && last.first_entry + last.count == entry => {
                last.count += 1;
            }
            _ => self.ranges.push(ProfileRange {
                blob,
                first_entry: entry,
                count: 1,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(recorder: &Recorder) -> Vec<(u16, u32, u32)> {
        let profile = recorder.profile(None).expect("something was noted");
        profile
            .ranges
            .iter()
            .map(|r| (r.blob, r.first_entry, r.count))
            .collect()
    }

    #[test]
    fn first_uses_are_kept_in_order_and_neighbours_join() {
        let recorder = Recorder::new(true);
        recorder.note(1, 10, 2);
        recorder.note(1, 12, 1);
        recorder.note(0, 5, 1);
        recorder.note(1, 11, 3);
        assert_eq!(ranges(&recorder), [(1, 10, 3), (0, 5, 1), (1, 13, 1)]);
    }

    #[test]
    fn what_a_static_profile_brought_is_kept_before_what_was_missing_from_it() {
        let range = |first_entry| ProfileRange {
            blob: 0,
            first_entry,
            count: 1,
        };
        let followed = Profile {
            source: ProfileSource::Static,
            ranges: vec![range(3)],
        };
        let recorder = Recorder::new(true);
        assert_eq!(recorder.profile(Some(&followed)), None);
        recorder.note(0, 9, 1);
        let profile = recorder.profile(Some(&followed)).unwrap();
        assert_eq!(
            (profile.source, profile.ranges),
            (ProfileSource::Recorded, vec![range(3), range(9)])
        );
    }

    #[test]
    fn a_profile_survives_its_directory_being_reopened() {
        let state = tempfile::tempdir().unwrap();
        let digest = FlistDigest::of(b"flist");
        let recorder = Recorder::new(true);
        recorder.note(0, 7, 4);
        let profile = recorder.profile(None).unwrap();
        ProfileDir::open(state.path())
            .unwrap()
            .save(&digest, &profile)
            .unwrap();
        assert_eq!(
            ProfileDir::open(state.path()).unwrap().load(&digest),
            Some(profile)
        );
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
