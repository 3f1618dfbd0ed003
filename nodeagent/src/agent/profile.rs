//! Access profiles: which blob entries an image's start touches, in which order (design, section 8).
//!
//! Learnt from what the mount daemon saw first reads of, kept in the state directory (so that emptying
//! the cache does not lose it) under the flist's digest, and replayed by prefetch on every later mount.
//! How starts are merged is [`Learnt`]'s. Best effort by nature: a lost profile costs time, never correctness.

use crate::files::drop_oldest;
use lamina_flist::{FlistDigest, Learnt, Profile, ProfileRange};
use std::io;
use std::path::{Path, PathBuf};

/// Profiles kept, and their bytes.
const FILES_MAX: usize = 4096;
const BYTES_MAX: u64 = 256 << 20;

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

    /// The one of a state directory, which may not be there yet: only to be looked at.
    pub(crate) fn of(state: &Path) -> Self {
        Self(state.join("profiles"))
    }

    /// Those learnt last, the newest first.
    pub(crate) fn latest(&self, count_max: usize) -> Vec<(FlistDigest, Profile)> {
        let files = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let known = files.filter_map(|file| {
            let name = file.file_name().into_string().ok()?;
            let digest: FlistDigest = name.strip_suffix(".json")?.parse().ok()?;
            Some((file.metadata().ok()?.modified().ok()?, digest))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_unstable_by(|a, b| b.cmp(a));
        known.truncate(count_max);
        let load = |(_, digest)| Some((digest, self.load(&digest)?));
        known.into_iter().filter_map(load).collect()
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
        std::fs::rename(&partial, self.path(digest))?;
        self.keep_within(FILES_MAX, BYTES_MAX)
    }

    /// Forgets what was learnt longest ago.
    fn keep_within(&self, files_max: usize, bytes_max: u64) -> io::Result<()> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(&self.0)? {
            let file = file?;
            let about = file.metadata()?;
            found.push((about.modified()?, about.len(), file.path()));
        }
        drop_oldest(found, files_max, bytes_max)
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
    fn what_was_learnt_longest_ago_is_forgotten_first() {
        let state = tempfile::tempdir().unwrap();
        let dir = ProfileDir::open(state.path()).unwrap();
        let digests = [b"a", b"b", b"c"].map(|name| FlistDigest::of(name));
        for (digest, age) in digests.iter().zip([20, 30, 10]) {
            dir.learn(digest, &[range(0, 1, 1)], Some(&[0])).unwrap();
            let then = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
            let file = std::fs::File::options().append(true).open(dir.path(digest));
            file.unwrap().set_modified(then).unwrap();
        }
        dir.keep_within(2, 1 << 20).unwrap();
        let known = digests.map(|digest| dir.load(&digest).is_some());
        assert_eq!(known, [true, false, true]);
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
