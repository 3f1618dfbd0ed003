//! The daemon's blobs and mount records: the file system's table, and the
//! state on disk, kept in step.
//!
//! Order matters: the state is written before the table shows a new blob, and
//! the table loses a blob before the state does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lamina_flist::BlobId;
use lamina_mount::blobfs::BlobFs;
use lamina_mount::cache::{BlobReader, MapCheck};

use super::protocol::{BlobRegistration, ErrorKind, MountRecord, RegisteredBlob};
use super::state::{State, TreePlace};

/// Why a request was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Blobs and records.
#[derive(Debug)]
pub(super) struct Blobs {
    fs: Arc<BlobFs>,
    state: Mutex<State>,
    run_dir: PathBuf,
    mount_point: PathBuf,
}

impl Blobs {
    /// Opens every blob of the state. One that cannot be opened is left out
    /// (its reads fail) until it is registered again.
    pub(super) fn restore(
        fs: Arc<BlobFs>,
        state: State,
        run_dir: &Path,
        mount_point: &Path,
    ) -> Self {
        for (id, place) in &state.blobs {
            match BlobReader::open(&place.dir, id, MapCheck::Structure) {
                Ok(reader) => fs.insert(place.ino, reader),
                Err(error) => tracing::error!(blob = %id, %error, "blob left out"),
            }
        }
        Self {
            fs,
            state: Mutex::new(state),
            run_dir: run_dir.to_owned(),
            mount_point: mount_point.to_owned(),
        }
    }

    pub(super) fn register(
        &self,
        wanted: Vec<BlobRegistration>,
    ) -> Result<Vec<RegisteredBlob>, Refusal> {
        let mut state = self.lock();
        let mut opened = Vec::with_capacity(wanted.len());
        for blob in &wanted {
            let reader = BlobReader::open(&blob.dir, &blob.id, MapCheck::Identity)
                .map_err(|error| Refusal::new(ErrorKind::Damaged, crate::chain(&error)))?;
            opened.push(reader);
        }
        let mut next = state.clone();
        let inos: Vec<u64> = wanted
            .iter()
            .map(|blob| next.place(blob.id, blob.dir.clone()))
            .collect();
        self.commit(&mut state, next)?;
        for (ino, reader) in inos.into_iter().zip(opened) {
            if self.fs.files(ino) != Some(reader.files()) {
                self.fs.insert(ino, reader);
            }
        }
        Ok(wanted
            .into_iter()
            .map(|blob| self.describe(blob.id, blob.dir))
            .collect())
    }

    pub(super) fn unregister(&self, ids: &[BlobId]) -> Result<(), Refusal> {
        let mut state = self.lock();
        for id in ids {
            if let Some(user) = state.user_of(id) {
                let message = format!("blob {id} is used by mount {user}");
                return Err(Refusal::new(ErrorKind::InUse, message));
            }
        }
        let mut next = state.clone();
        for id in ids {
            if let Some(place) = next.blobs.remove(id) {
                self.fs.remove(place.ino);
            }
        }
        self.commit(&mut state, next)
    }

    pub(super) fn list(&self) -> Vec<RegisteredBlob> {
        self.lock()
            .blobs
            .iter()
            .map(|(id, place)| self.describe(*id, place.dir.clone()))
            .collect()
    }

    pub(super) fn mounts(&self) -> Vec<MountRecord> {
        self.lock().mounts.values().cloned().collect()
    }

    pub(super) fn put_mount(&self, record: MountRecord) -> Result<(), Refusal> {
        let mut state = self.lock();
        if let Some(id) = record.blobs.iter().find(|id| !state.blobs.contains_key(id)) {
            let message = format!("blob {id} is not registered");
            return Err(Refusal::new(ErrorKind::NotFound, message));
        }
        let mut next = state.clone();
        next.mounts.insert(record.id.clone(), record);
        self.commit(&mut state, next)
    }

    pub(super) fn remove_mount(&self, id: &str) -> Result<(), Refusal> {
        let mut state = self.lock();
        let mut next = state.clone();
        next.mounts.remove(id);
        self.commit(&mut state, next)
    }

    /// The node ids of registered blobs, in the order given.
    pub(super) fn node_ids(&self, ids: &[BlobId]) -> Result<Vec<u64>, Refusal> {
        let state = self.lock();
        ids.iter()
            .map(|id| {
                let place = state.blobs.get(id).map(|place| place.ino);
                let message = || format!("blob {id} is not registered");
                place.ok_or_else(|| Refusal::new(ErrorKind::NotFound, message()))
            })
            .collect()
    }

    pub(super) fn trees(&self) -> Vec<TreePlace> {
        self.lock().trees.values().cloned().collect()
    }

    pub(super) fn put_tree(&self, tree: TreePlace) -> Result<(), Refusal> {
        let mut state = self.lock();
        let mut next = state.clone();
        next.trees.insert(tree.mount.at.clone(), tree);
        self.commit(&mut state, next)
    }

    pub(super) fn remove_tree(&self, at: &Path) -> Result<(), Refusal> {
        let mut state = self.lock();
        let mut next = state.clone();
        next.trees.remove(at);
        self.commit(&mut state, next)
    }

    fn commit(&self, state: &mut State, next: State) -> Result<(), Refusal> {
        next.store(&self.run_dir).map_err(|error| {
            Refusal::new(
                ErrorKind::Internal,
                format!("write the mount state: {error}"),
            )
        })?;
        *state = next;
        Ok(())
    }

    fn describe(&self, id: BlobId, dir: PathBuf) -> RegisteredBlob {
        RegisteredBlob {
            id,
            dir,
            path: self.mount_point.join(id.to_string()),
        }
    }

    /// A panic while the lock was held cannot leave the state half changed:
    /// changes are made to a copy.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
