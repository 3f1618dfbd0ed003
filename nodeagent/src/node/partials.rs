//! Tells discovery which parts of layers other nodes may read here: what the agent has in its cache so far.
//!
//! Once a second at most, and only what changed is looked at. Always: only blobs of layers are told, because nobody asks
//! for others; of too many, those written last. A node that is stopped says nothing, and is forgotten with its
//! heartbeats.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lamina_discovery::client::Client;
use lamina_discovery::parts::Part;
use lamina_discovery::sections::Sections;
use lamina_flist::{BlobId, Sha256Digest};
use lamina_mount::cache::{BlobReader, CacheDir, MapCheck};
use lamina_proto::lamina::v1::PutPartialsRequest;
use lamina_store::open_flist;
use tokio::time::Instant;

/// Between two reports, when something changed.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks whether there is another flist: who begins to read one is to be known to others that do at once.
const GLANCE_EVERY: Duration = Duration::from_millis(100);
/// Said again when nothing changed: a replica may have been started since.
const AGAIN: Duration = Duration::from_secs(10);
/// What discovery takes of one node.
const BLOBS_MAX: usize = 256;

/// Looks and tells for as long as it is polled.
pub async fn report(client: Arc<Client>, node: String, cache: CacheDir) {
    let mut looking = Looking::new(cache);
    let (mut told, mut told_at) = (None, Instant::now());
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let parts = looking.look();
            (looking, parts)
        });
        let Ok((same, parts)) = looked.await else {
            return;
        };
        looking = same;
        if told.as_ref() != Some(&parts) || told_at.elapsed() >= AGAIN {
            let request = PutPartialsRequest {
                node_id: node.clone(),
                blobs: parts.iter().map(Part::told).collect(),
            };
            told_at = Instant::now();
            match client.put_partials(request).await {
                Ok(()) => told = Some(parts),
                Err(error) => tracing::debug!(%error, "tell discovery what is here in part"),
            }
        }
        let (flists, end) = (looking.flists_changed(), Instant::now() + EVERY);
        while Instant::now() < end && looking.flists_changed() == flists {
            tokio::time::sleep(GLANCE_EVERY).await;
        }
        // Its blobs are opened right after.
        tokio::time::sleep(GLANCE_EVERY).await;
    }
}

/// What was seen, so that only what changed is looked at again.
struct Looking {
    cache: CacheDir,
    /// Layers of the blobs of each flist, by its file.
    flists: BTreeMap<PathBuf, Vec<(BlobId, Sha256Digest)>>,
    blobs: HashMap<BlobId, Seen>,
}

struct Seen {
    written: SystemTime,
    /// It had been left alone for a while: the clock of files is too coarse to tell two writes in a row.
    is_settled: bool,
    entries: u32,
    sections: Sections,
}

impl Looking {
    fn new(cache: CacheDir) -> Self {
        Self {
            cache,
            flists: BTreeMap::new(),
            blobs: HashMap::new(),
        }
    }

    /// When a flist came or went.
    fn flists_changed(&self) -> Option<SystemTime> {
        written(&self.cache.root().join("flists"))
    }

    /// The parts that may be told, by blob.
    fn look(&mut self) -> Vec<Part> {
        self.look_at_flists();
        let layers: BTreeMap<BlobId, Sha256Digest> =
            self.flists.values().flatten().copied().collect();
        let mut here: Vec<(SystemTime, BlobId)> = layers
            .keys()
            .filter_map(|id| Some((written(&self.cache.data_path(id))?, *id)))
            .collect();
        here.sort_unstable_by(|a, b| b.cmp(a));
        here.truncate(BLOBS_MAX);
        self.blobs
            .retain(|id, _| here.iter().any(|(_, known)| known == id));
        let mut parts: Vec<Part> = here
            .into_iter()
            .filter_map(|(written, id)| {
                let seen = self.see(&id, written)?;
                Some(Part {
                    layer: *layers.get(&id)?,
                    blob: id,
                    entries: seen.entries,
                    sections: seen.sections,
                })
            })
            .collect();
        parts.sort_unstable_by_key(|part| part.blob);
        parts
    }

    /// The node's copies of flists: those mounted, and some that were.
    fn look_at_flists(&mut self) {
        let files = std::fs::read_dir(self.cache.root().join("flists"));
        let files = files
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path());
        let is_flist = |path: &PathBuf| path.extension().is_some_and(|end| end == "fl");
        let files: Vec<PathBuf> = files.filter(is_flist).collect();
        self.flists.retain(|path, _| files.contains(path));
        for path in files {
            let known = &mut self.flists;
            known.entry(path).or_insert_with_key(|path| layers_of(path));
        }
    }

    /// What is there of a blob; one that is being made or taken away is left out.
    fn see(&mut self, id: &BlobId, written: SystemTime) -> Option<&Seen> {
        let known = self.blobs.get(id);
        if known.is_none_or(|seen| seen.written != written || !seen.is_settled) {
            let dir = self.cache.blob_dir(id);
            let blob = BlobReader::open(&dir, id, MapCheck::Structure).ok()?;
            let entries = u32::try_from(blob.entry_count()).ok()?;
            let has = |entry: u32| blob.has_entry(entry as usize);
            let seen = Seen {
                written,
                is_settled: written.elapsed().is_ok_and(|time| time > EVERY),
                entries,
                sections: Sections::of(entries, has),
            };
            self.blobs.insert(*id, seen);
        }
        self.blobs.get(id)
    }
}

/// When a blob was last written to, or had something taken from it.
fn written(data: &Path) -> Option<SystemTime> {
    std::fs::symlink_metadata(data).ok()?.modified().ok()
}

/// None for a flist that cannot be read, or was made of something else.
fn layers_of(path: &Path) -> Vec<(BlobId, Sha256Digest)> {
    let flist = open_flist(path);
    let layers = flist.map(|flist| flist.meta().provenance.layers.clone());
    let layers = layers.unwrap_or_default().into_iter();
    layers
        .filter_map(|layer| Some((layer.blob?, layer.digest)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;
    use lamina_mount::cache::{BlobFile, Trust};

    #[test]
    fn what_the_agent_has_of_a_layer_is_told_as_it_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let sample = Sample::make(dir.path(), 6, 200_000, runtime.handle());
        let cache = CacheDir::new(dir.path().join("cache"));
        let mut looking = Looking::new(cache.clone());
        assert_eq!(looking.look(), []);
        let map = || sample.flist.blob_map_bytes(0).unwrap();
        let blob_dir = cache.blob_dir(&sample.blob);
        let blob = BlobFile::open(&blob_dir, &sample.blob, map, Trust::Closed).unwrap();
        blob.write_entry(2, &sample.plain(2)).unwrap();
        assert_eq!(looking.look(), [], "no flist says which layer it is of");
        let flists = cache.root().join("flists");
        std::fs::create_dir_all(&flists).unwrap();
        std::fs::write(flists.join("junk.fl"), "no flist").unwrap();
        let copy = flists.join(format!("{}.fl", sample.flist.digest()));
        std::fs::write(&copy, sample.flist.as_bytes()).unwrap();
        let parts = looking.look();
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].layer, parts[0].blob), (sample.layer, sample.blob));
        assert_eq!(parts[0].entries, sample.entries);
        let may_have = |parts: &[Part], entry| parts[0].sections.may_have(sample.entries, entry);
        assert!(may_have(&parts, 2) && !may_have(&parts, 5));
        blob.write_entry(5, &sample.plain(5)).unwrap();
        let parts = looking.look();
        assert!(may_have(&parts, 2) && may_have(&parts, 5));
        assert_eq!(looking.look(), parts);
        std::fs::remove_file(copy).unwrap();
        assert_eq!(looking.look(), []);
    }
}
