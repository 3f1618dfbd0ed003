//! Volumes on record: what was published, where, and for whom.
//!
//! ```text
//! <state>/volumes/<volume id>@<16 hex digits of its target's BLAKE3>.json   one publication
//!                                                                .upper/    where its changes go
//! ```
//!
//! One volume may be published at several targets: a claim that several pods of a node use. What is
//! mounted is for the agent to say; a record says what was asked, so that the same call again is known
//! from another one, and what to undo. It is written before anything is mounted and removed after
//! everything is gone.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_flist::ChunkId;
use serde::{Deserialize, Serialize};

use super::error::NodeError;
use crate::api::Medium;
use crate::rundir;

/// Who wants something forgotten asks again sooner, or has given up.
const UNWANTED_FOR: Duration = Duration::from_secs(30);
/// Longest volume id.
const ID_MAX: usize = 128;

/// A volume's name: of the alphabet that is harmless everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct VolumeId(String);

impl VolumeId {
    pub(super) fn parse(text: &str) -> Result<Self, NodeError> {
        let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=ID_MAX).contains(&text.len()) && text.bytes().all(is_known) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(ID_MAX).collect();
        Err(NodeError::invalid(format!(
            "the volume id {shown:?} is not 1 to {ID_MAX} bytes of [A-Za-z0-9._-]"
        )))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One publication: a volume at a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) id: VolumeId,
    pub(super) target: PathBuf,
}

impl Key {
    fn name(&self) -> String {
        let target = ChunkId::of(self.target.as_os_str().as_encoded_bytes());
        format!("{}@{}", self.id.0, &target.to_string()[..16])
    }
}

/// What a publication shows: the same call again asks for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct What {
    /// The source, without credentials.
    pub(super) source: String,
    /// Digest of the stores it is read from: their URLs may hold credentials.
    pub(super) stores: String,
    pub(super) writable: bool,
    pub(super) overlay_bytes_max: u64,
    /// Absent in records from before there was a choice.
    #[serde(default)]
    pub(super) overlay_medium: Medium,
    pub(super) sub_path: String,
}

/// Whom it is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PodName {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// A publication on record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) volume_id: VolumeId,
    pub(super) target: PathBuf,
    pub(super) what: What,
    pub(super) pod: PodName,
    /// What the source was called by its caller.
    pub(super) reference: String,
    /// The flist that is shown; empty until it is known.
    pub(super) digest: String,
    pub(super) mode: String,
    /// 0: not yet.
    pub(super) published_unix_ms: i64,
    pub(super) took_us: u64,
    pub(super) ensure_us: u64,
}

impl Record {
    pub(super) fn key(&self) -> Key {
        Key {
            id: self.volume_id.clone(),
            target: self.target.clone(),
        }
    }

    pub(super) fn is_published(&self) -> bool {
        self.published_unix_ms != 0
    }
}

/// Every record, in memory and on disk, and what of them somebody wants forgotten.
#[derive(Debug)]
pub(super) struct Volumes {
    dir: PathBuf,
    records: Mutex<BTreeMap<Key, Record>>,
    unwanted: Mutex<HashMap<String, Instant>>,
}

impl Volumes {
    /// Reads the records of a state directory. What cannot be read is left out, and said.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|found| found != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => drop(records.insert(record.key(), record)),
                Err(error) => {
                    tracing::warn!(%error, path = %path.display(), "a volume's record cannot be read");
                }
            }
        }
        Ok(Self {
            dir,
            records: Mutex::new(records),
            unwanted: Mutex::default(),
        })
    }

    /// Notes that somebody wants this flist forgotten, which volumes show.
    pub(super) fn unwant(&self, digest: &str) {
        let mut unwanted = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        unwanted.retain(|_, asked| asked.elapsed() < UNWANTED_FOR);
        unwanted.insert(digest.to_owned(), Instant::now());
    }

    /// Whether somebody lately did.
    pub(super) fn is_unwanted(&self, digest: &str) -> bool {
        let unwanted = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = unwanted.get(digest);
        asked.is_some_and(|asked| asked.elapsed() < UNWANTED_FOR)
    }

    pub(super) fn put(&self, record: Record) -> Result<(), NodeError> {
        let key = record.key();
        let path = self.path(&key, "json");
        serde_json::to_vec_pretty(&record)
            .map_err(io::Error::other)
            .and_then(|text| rundir::replace_file(&path, &text))
            .map_err(|error| NodeError::disk(&format!("write {}", path.display()), &error))?;
        self.lock().insert(key, record);
        Ok(())
    }

    /// Forgets a publication, with the directory of its changes.
    pub(super) fn remove(&self, key: &Key) -> Result<(), NodeError> {
        let _ = fs::remove_dir(self.path(key, "upper"));
        let path = self.path(key, "json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("remove {}", path.display());
                return Err(NodeError::disk(&what, &error));
            }
            _ => {}
        }
        self.lock().remove(key);
        Ok(())
    }

    /// Forgets all publications, whose records are gone.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn get(&self, key: &Key) -> Option<Record> {
        self.lock().get(key).cloned()
    }

    /// Every publication of a volume.
    pub(super) fn of(&self, id: &VolumeId) -> Vec<Record> {
        let records = self.lock();
        let of_it = records.values().filter(|record| record.volume_id == *id);
        of_it.cloned().collect()
    }

    pub(super) fn all(&self) -> Vec<Record> {
        self.lock().values().cloned().collect()
    }

    /// Where the agent puts a publication's changes.
    pub(super) fn upper(&self, key: &Key) -> PathBuf {
        self.path(key, "upper")
    }

    fn path(&self, key: &Key, kind: &str) -> PathBuf {
        self.dir.join(format!("{}.{kind}", key.name()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn record(id: &str, target: &str) -> Record {
        Record {
            volume_id: VolumeId::parse(id).unwrap(),
            target: target.into(),
            what: What {
                source: "image busybox".into(),
                stores: String::new(),
                writable: false,
                overlay_bytes_max: 0,
                overlay_medium: Medium::default(),
                sub_path: String::new(),
            },
            pod: PodName::default(),
            reference: "busybox".into(),
            digest: String::new(),
            mode: String::new(),
            published_unix_ms: 0,
            took_us: 0,
            ensure_us: 0,
        }
    }

    #[test]
    fn hostile_volume_ids_are_refused() {
        let long = "x".repeat(129);
        let huge = "x".repeat(10 << 10);
        for hostile in ["", "a/b", "../x", "a b", "a\0", "ä", &long, &huge] {
            let error = VolumeId::parse(hostile).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{hostile:?}");
            assert!(error.to_string().len() < 1000);
        }
        for good in ["a", "..", "csi-0123", "lamina-a.b_c", &long[..128]] {
            assert_eq!(VolumeId::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn records_are_found_again_by_another_process_and_stay_apart() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("volumes");
        let volumes = Volumes::open(home.clone()).unwrap();
        let records = [
            record("..", "/k/pods/1"),
            record("..", "/k/pods/2"),
            record("..json", "/k/pods/1"),
        ];
        for record in &records {
            volumes.put(record.clone()).unwrap();
            fs::create_dir(volumes.upper(&record.key())).unwrap();
        }
        fs::write(home.join("x@y.json"), "{").unwrap();
        let again = Volumes::open(home.clone()).unwrap();
        let mut all = records.to_vec();
        all.sort_by_key(Record::key);
        assert_eq!(again.all(), all);
        assert_eq!(again.of(&VolumeId::parse("..").unwrap()).len(), 2);
        for record in &records {
            again.remove(&record.key()).unwrap();
            again.remove(&record.key()).unwrap();
            assert!(again.get(&record.key()).is_none());
        }
        let left: Vec<_> = fs::read_dir(&home).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
