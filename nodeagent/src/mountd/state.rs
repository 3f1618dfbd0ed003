//! What the mount daemon must remember over its own death: node ids, where the
//! blobs are, what is mounted. One small JSON file, replaced atomically.
//!
//! It lives in the run directory (memory): it is worthless after a reboot, as
//! is everything it describes, so it is not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::blobfs::ROOT_INO;
use serde::{Deserialize, Serialize};

use super::protocol::{MountRecord, TreeMount};

const FILE: &str = "mountd.json";
const VERSION: u32 = 1;

/// The remembered state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    pub(super) blobs: BTreeMap<BlobId, BlobPlace>,
    pub(super) mounts: BTreeMap<String, MountRecord>,
    /// Trees served over FUSE, by mount point.
    #[serde(default)]
    pub(super) trees: BTreeMap<PathBuf, TreePlace>,
}

/// A served tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TreePlace {
    pub(super) mount: TreeMount,
    /// What the flist was: another file in its place is not served.
    pub(super) digest: FlistDigest,
}

/// A registered blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BlobPlace {
    pub(super) ino: u64,
    pub(super) dir: PathBuf,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            blobs: BTreeMap::new(),
            mounts: BTreeMap::new(),
            trees: BTreeMap::new(),
        }
    }
}

/// The node id of a blob: part of the blob's own name, so that it is the same
/// whenever the blob is registered. The kernel remembers names for as long as
/// it likes; with ids given by counting, a blob that was taken out of service
/// and registered again would be opened under its old id, which is nobody's.
fn node_id(id: &BlobId) -> u64 {
    let head = id.as_bytes().first_chunk().expect("a digest has 32 bytes");
    // Neither 0 nor the root, and far from the end of the range.
    (u64::from_le_bytes(*head) >> 2).max(ROOT_INO + 1)
}

impl State {
    /// The state left in `run_dir`, or an empty one if there is none.
    ///
    /// # Errors
    /// An unreadable state is an error, not an empty one: forgetting node ids
    /// would give readers the bytes of another blob.
    pub(super) fn load(run_dir: &Path) -> anyhow::Result<Self> {
        let path = run_dir.join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(anyhow::Error::from(error).context("read the mount state")),
        };
        let state: Self = serde_json::from_slice(&text)
            .map_err(|error| anyhow::Error::from(error).context("parse the mount state"))?;
        anyhow::ensure!(state.version == VERSION, "mount state of another version");
        Ok(state)
    }

    /// Writes the state; a reader finds the old one or the new one, whole.
    pub(super) fn store(&self, run_dir: &Path) -> io::Result<()> {
        let staged = run_dir.join("mountd.json.new");
        std::fs::write(&staged, serde_json::to_vec(self)?)?;
        std::fs::rename(staged, run_dir.join(FILE))
    }

    /// Gives a blob its node id, the one it has if it is known.
    pub(super) fn place(&mut self, id: BlobId, dir: PathBuf) -> u64 {
        if let Some(place) = self.blobs.get_mut(&id) {
            place.dir = dir;
            return place.ino;
        }
        let taken = |ino: &u64| self.blobs.values().any(|place| place.ino == *ino);
        let ino = (node_id(&id)..=u64::MAX)
            .find(|ino| !taken(ino))
            .unwrap_or(ROOT_INO + 1);
        self.blobs.insert(id, BlobPlace { ino, dir });
        ino
    }

    /// The mount record or tree that needs a blob, if any.
    pub(super) fn user_of(&self, id: &BlobId) -> Option<String> {
        let mounts = self.mounts.values();
        let trees = self.trees.values().map(|tree| &tree.mount);
        mounts
            .map(|mount| (mount.id.clone(), &mount.blobs))
            .chain(trees.map(|tree| (tree.at.display().to_string(), &tree.blobs)))
            .find_map(|(user, blobs)| blobs.contains(id).then_some(user))
    }

    /// For a connection that begins anew: the kernel knows no node id.
    pub(super) fn forget_blobs(&mut self) {
        self.blobs.clear();
        self.mounts.values_mut().for_each(MountRecord::bury);
    }
}

/// The mount records in a run directory, whether or not a mount daemon serves it.
///
/// # Errors
/// When there is a state and it cannot be read.
pub fn read_records(run_dir: &Path) -> anyhow::Result<Vec<MountRecord>> {
    Ok(State::load(run_dir)?.mounts.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_registered_again_has_the_node_id_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::default();
        let (a, b) = (BlobId::of(b"a"), BlobId::of(b"b"));
        let first = state.place(a, "/a".into());
        let second = state.place(b, "/b".into());
        state.blobs.remove(&a);
        state.store(dir.path()).unwrap();
        let mut loaded = State::load(dir.path()).unwrap();
        assert_eq!(loaded, state);
        assert_eq!(loaded.place(b, "/moved".into()), second);
        assert_eq!(loaded.place(a, "/a".into()), first);
        assert!(first != second && first > ROOT_INO && second > ROOT_INO);
    }

    #[test]
    fn blobs_whose_names_begin_alike_get_different_node_ids() {
        let mut state = State::default();
        let mut twin = *BlobId::of(b"a").as_bytes();
        twin[31] ^= 1;
        let (a, twin) = (BlobId::of(b"a"), BlobId::from_bytes(twin));
        let first = state.place(a, "/a".into());
        assert_eq!(state.place(twin, "/twin".into()), first + 1);
    }

    #[test]
    fn a_damaged_state_is_an_error_and_a_missing_one_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), State::default());
        std::fs::write(dir.path().join(FILE), b"{\"version\":1,").unwrap();
        assert!(State::load(dir.path()).is_err());
    }
}
