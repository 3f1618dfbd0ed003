//! Open blobs: the cache file of each, and the flists that say where its chunks are.

mod sequence;
mod source;

pub(crate) use source::{Provider, Source};

use crate::agent::cluster::Image;
use crate::agent::lanes::Lanes;
use crate::agent::space::{Cold, Item, Space};
use crate::agent::stores::Way;
use lamina_flist::{BlobId, Flist, FlistDigest, Sha256Digest};
use lamina_mount::cache::{BlobFile, CacheDir, CacheError, Trust};
use lamina_store::ChunkReader;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a blob that is being closed is waited for: its fetches have been stopped, a slow disk may
/// still write what had arrived.
const CLOSING_PATIENCE: Duration = Duration::from_secs(20);

/// Room made on a full disk for the files of a blob besides its data: a map takes about 48 bytes per entry.
const OPENING_BYTES: u64 = 1 << 20;

/// The layer that a blob holds the files of, if the flist says so.
pub(crate) fn layer_of(flist: &Flist, blob: usize) -> Option<Sha256Digest> {
    let id = flist.blob(blob)?.id;
    let mut layers = flist.meta().provenance.layers.iter();
    let layer = layers.find(|layer| layer.blob == Some(id))?;
    Some(layer.digest)
}

/// Every open blob.
#[derive(Debug)]
pub(crate) struct Sources {
    cache: CacheDir,
    space: Arc<Space>,
    lanes: Lanes,
    open: Mutex<HashMap<BlobId, Arc<Source>>>,
}

impl Sources {
    pub(crate) fn new(cache: CacheDir, space: Arc<Space>) -> Self {
        Self {
            cache,
            space,
            lanes: Lanes::new(),
            open: Mutex::default(),
        }
    }

    /// Opens every blob of a flist for filling, in table order; `named`: the image it was made of. A blob that is open already gets
    /// the flist as one more provider, and one that has it the other `way` to its stores.
    pub(crate) fn open(
        &self,
        flist: &Flist,
        reader: Option<&ChunkReader>,
        way: &Way,
        named: Option<&str>,
        trust: impl Fn(&BlobId) -> Trust,
    ) -> Result<Vec<Arc<Source>>, CacheError> {
        let mut found = Vec::with_capacity(flist.blob_count());
        let stores = reader.map(|reader| self.lanes.of(reader));
        let image = Arc::new(Image::of(flist, named));
        for index in 0..flist.blob_count() {
            let entries = flist.blob_entries(index).into_iter().flatten();
            let layer = layer_of(flist, index);
            let nodes = self.lanes.to_nodes(layer.as_ref());
            let provider = Provider {
                digest: flist.digest(),
                flist: flist.clone(),
                chunks: entries.map(|entry| entry.chunk).collect(),
                reader: reader.cloned(),
                way: way.clone(),
                lane: Arc::clone(stores.as_ref().unwrap_or(&nodes)),
                layer,
                image: Arc::clone(&image),
                nodes,
                for_nodes: self.lanes.for_nodes(layer.as_ref()),
            };
            let opened = self.open_one(provider, index, &trust);
            found.push(opened.inspect_err(|_| self.close(&flist.digest()))?);
        }
        Ok(found)
    }

    /// The open blob with this id.
    pub(crate) fn get(&self, id: &BlobId) -> Option<Arc<Source>> {
        self.map().get(id).cloned()
    }

    /// Takes a flist away from its blobs; blobs without a flist are sealed and closed.
    pub(crate) fn close(&self, digest: &FlistDigest) {
        let mut open = self.map();
        let mut idle = Vec::new();
        open.retain(|_, source| {
            let used = source.withdraw(digest);
            if !used {
                idle.push(Arc::clone(source));
            }
            used
        });
        drop(open);
        for source in idle {
            source.close();
        }
    }

    fn open_one(
        &self,
        provider: Provider,
        index: usize,
        trust: &impl Fn(&BlobId) -> Trust,
    ) -> Result<Arc<Source>, CacheError> {
        let id = provider
            .flist
            .blob(index)
            .map_or_else(|| BlobId::of(&[]), |info| info.id);
        if let Some(source) = self.get(&id) {
            source.provide(provider);
            return Ok(source);
        }
        let lease = self.space.lease(Item::Blob(id));
        // A map that cannot be made is refused as not being this blob's.
        let map_bytes = || provider.flist.blob_map_bytes(index).unwrap_or_default();
        // Not under the lock: verifying takes as long as the blob is large, and fills of other blobs
        // look them up meanwhile. Mounts take turns, so nobody else opens this one.
        let dir = self.cache.blob_dir(&id);
        let trust = trust(&id);
        let open = || BlobFile::open_waiting(&dir, &id, map_bytes, trust, CLOSING_PATIENCE);
        let file = match open() {
            // Not for a blob that is mounted: others that are may not be leased yet.
            Err(error) if error.is_disk_full() && trust == Trust::Closed => {
                match self.space.free_disk_blocking(OPENING_BYTES) {
                    true => open()?,
                    false => return Err(error),
                }
            }
            opened => opened?,
        };
        let report = file.report();
        if report.cleared > 0 {
            tracing::warn!(blob = %id, cleared = report.cleared, "dropped damaged cache data");
        }
        let source = Arc::new(Source::new(file, provider, lease));
        let cold: Arc<dyn Cold> = Arc::clone(&source) as _;
        self.space.watch(&cold);
        self.map().insert(id, Arc::clone(&source));
        Ok(source)
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<BlobId, Arc<Source>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
