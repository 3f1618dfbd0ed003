//! One open blob: its cache file, the flists that say where its chunks are, and what readers do to it.

use super::sequence::{Sequence, within_file};
use crate::agent::cluster::Image;
use crate::agent::density::Density;
use crate::agent::fetch::{FetchCounts, FetchError, Urgency, Via};
use crate::agent::foresight::Foresight;
use crate::agent::holds::Holds;
use crate::agent::lanes::Lane;
use crate::agent::space::{Cold, Lease, Press};
use crate::agent::stores::Way;
use crate::docker_config::DockerConfig;
use lamina_flist::{BlobId, ChunkId, Flist, FlistDigest, Sha256Digest};
use lamina_mount::cache::{BlobFile, CacheError, Swept};
use lamina_store::url::Place;
use lamina_store::{ChunkReader, ChunkSource, StoreSpec};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::watch;

/// One blob that may be filled.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: BlobId,
    pub(crate) file: BlobFile,
    pub(crate) counts: FetchCounts,
    pub(crate) holds: Holds,
    foresight: Foresight,
    sequence: Mutex<Sequence>,
    density: Density,
    last_error: Mutex<Option<(Instant, String)>>,
    closing: watch::Sender<bool>,
    /// Flists in use that hold this blob: each can say where its chunks are.
    providers: RwLock<Vec<Provider>>,
    lease: Lease,
}

/// A flist that holds a blob.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    pub(crate) digest: FlistDigest,
    pub(crate) flist: Flist,
    /// For each entry of the blob, its chunk in the flist's chunk table.
    pub(crate) chunks: Arc<[u32]>,
    /// Of its stores; `None` when it has none that can be read.
    pub(crate) reader: Option<ChunkReader>,
    /// Which stores these are, and as whom they are asked.
    pub(crate) way: Way,
    /// The way to the reader's stores; without any, to other nodes.
    pub(crate) lane: Arc<Lane>,
    /// The layer that the blob is of: with it other nodes can be asked.
    pub(crate) layer: Option<Sha256Digest>,
    /// What that is part of.
    pub(crate) image: Arc<Image>,
    /// The way to other nodes.
    pub(crate) nodes: Arc<Lane>,
    /// The same for what is fetched on behalf of other nodes.
    pub(crate) for_nodes: Arc<Lane>,
}

/// What a file system allocates at once, and a hole frees.
const BLOCK: u64 = 4096;

impl Source {
    /// An open blob with its first flist.
    pub(super) fn new(file: BlobFile, provider: Provider, lease: Lease) -> Self {
        Self {
            id: *file.id(),
            foresight: Foresight::new(file.map().len()),
            file,
            counts: FetchCounts::default(),
            holds: Holds::default(),
            sequence: Mutex::default(),
            density: Density::default(),
            last_error: Mutex::default(),
            closing: watch::Sender::new(false),
            providers: RwLock::new(vec![provider]),
            lease,
        }
    }

    /// Who can say where the chunks are; the flist in use for longest comes first.
    pub(crate) fn providers(&self) -> Vec<Provider> {
        self.providers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The layer is pulled with these credentials for one of its flists.
    pub(crate) fn lend(&self, digest: &FlistDigest, config: &Arc<DockerConfig>) {
        let providers = self
            .providers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let own = providers.iter().filter(|known| known.digest == *digest);
        own.for_each(|provider| provider.image.lent.lend(config));
    }

    /// The way to the stores asked first; `None` once the blob is being closed.
    pub(crate) fn lane(&self) -> Option<Arc<Lane>> {
        let providers = self
            .providers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        providers.first().map(|provider| Arc::clone(&provider.lane))
    }

    /// Notes why data somebody waited for could not be had.
    pub(crate) fn note_error(&self, message: String) {
        *self.last_error_mut() = Some((Instant::now(), message));
    }

    /// When and why data could not be had the last time.
    pub(crate) fn last_error(&self) -> Option<(Instant, String)> {
        self.last_error_mut().clone()
    }

    fn last_error_mut(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing uses the blob any more.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closing.borrow()
    }

    /// Returns once nothing uses the blob any more.
    pub(crate) async fn closed(&self) {
        // The sender is as old as we are.
        let _ = self.closing.subscribe().wait_for(|closing| *closing).await;
    }

    /// Makes sure that the data file stays whole, if it is: then the kernel may read it by itself.
    pub(crate) fn give_away(&self) -> bool {
        self.file.pin_if_complete().unwrap_or_else(|error| {
            tracing::warn!(blob = %self.id, %error, "serve a complete blob by the mount daemon");
            false
        })
    }

    /// Adds a flist that can say where the chunks are, or another way to its stores.
    pub(super) fn provide(&self, provider: Provider) {
        let mut providers = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if providers
            .iter()
            .all(|known| known.digest != provider.digest || known.way != provider.way)
        {
            providers.push(provider);
        }
    }

    /// Takes a flist away; says whether another is left.
    pub(super) fn withdraw(&self, digest: &FlistDigest) -> bool {
        let mut providers = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        providers.retain(|provider| provider.digest != *digest);
        !providers.is_empty()
    }

    /// Stops its fetches and seals it: nothing uses it any more.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
        // What a stopped fetch still writes breaks the seal, and the blob is verified at its next use.
        if let Err(error) = self.file.seal() {
            tracing::warn!(blob = %self.id, %error, "seal a blob");
        }
    }

    /// What to fetch beyond a demand for `entries`, when demands come in sequence: never past the
    /// padding that ends a file, for the next file in the blob is not the next thing read.
    pub(crate) fn read_ahead(&self, entries: &Range<u32>) -> Option<Range<u32>> {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = sequence.next(entries, self.entries())?;
        let map = self.file.map();
        within_file(entries.end, ahead, |entry| {
            map.get(entry - 1).end() == map.get(entry).offset
        })
    }

    /// What to bring because of a demand for an entry, where much is demanded in one place.
    pub(crate) fn dense_around(&self, entry: u32) -> Option<Range<u32>> {
        self.density.note(entry, self.entries())
    }

    /// The same because of a demand for an entry that is on its way already.
    pub(crate) fn dense_behind(&self, entry: u32) -> Option<Range<u32>> {
        self.density.caught_up(entry, self.entries())
    }

    /// How many entries the blob has.
    pub(crate) fn entries(&self) -> u32 {
        self.file.map().len() as u32
    }

    /// Whether an entry is local.
    pub(crate) fn has(&self, entry: u32) -> bool {
        self.file.is_present(entry as usize..entry as usize + 1)
    }

    /// A range of entries, cut to those that exist.
    pub(crate) fn clamp(&self, entries: Range<usize>) -> Range<u32> {
        let end = (entries.end).min(self.file.map().len()) as u32;
        (entries.start as u32).min(end)..end
    }

    /// Whether every entry is local.
    pub(crate) fn is_complete(&self) -> bool {
        self.file.is_present(0..self.file.map().len())
    }

    /// Bytes of the entries that are local.
    pub(crate) fn bytes_local(&self) -> u64 {
        let map = self.file.map();
        let present = (0..map.len()).filter(|&entry| self.file.is_present(entry..entry + 1));
        present.map(|entry| u64::from(map.get(entry).len)).sum()
    }

    /// Bytes of the blob's entries, padding left out.
    pub(crate) fn bytes_total(&self) -> u64 {
        self.file
            .map()
            .iter()
            .map(|entry| u64::from(entry.len))
            .sum()
    }

    /// Chunk and length of an entry.
    pub(crate) fn chunk(&self, entry: u32) -> (ChunkId, u32) {
        let entry = self.file.map().get(entry as usize);
        (entry.id, entry.len)
    }

    /// Plain bytes of an entry.
    pub(crate) fn entry_len(&self, entry: u32) -> u64 {
        u64::from(self.file.map().get(entry as usize).len)
    }

    /// Bytes of disk an entry takes at most: the blocks it touches.
    pub(crate) fn entry_cost(&self, entry: u32) -> u64 {
        let place = self.file.map().get(entry as usize);
        place.end().next_multiple_of(BLOCK) - place.offset / BLOCK * BLOCK
    }

    /// Bytes of disk that what is missing of a range takes at most.
    pub(crate) fn missing_cost(&self, entries: &Range<u32>) -> u64 {
        let missing = entries
            .clone()
            .filter(|&entry| !self.file.is_present(entry as usize..entry as usize + 1));
        missing.map(|entry| self.entry_cost(entry)).sum()
    }

    /// Bytes brought on a guess, and of them those that were read since.
    pub(crate) fn prefetched(&self) -> (u64, u64) {
        for entry in self.foresight.open() {
            if self.file.is_touched(entry as usize) {
                self.foresight.was_read(entry, self.entry_len(entry));
            }
        }
        self.foresight.bytes()
    }

    /// Stores a chunk that arrived; says whether it was new. On a full disk, what may go makes room. Writing is to the page cache; hashing and
    /// copying 64 KiB takes tens of microseconds, but a full disk may block: it runs where blocking is
    /// allowed.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        entry: u32,
        plain: bytes::Bytes,
        stored_len: u32,
        (via, urgency): (Via, Urgency),
    ) -> Result<bool, FetchError> {
        let len = plain.len() as u64;
        let mut room = self.lease.space().disk_room(urgency);
        let new = loop {
            match self.write(entry, plain.clone()).await {
                Err(FetchError::Cache { source, .. }) if source.is_disk_full() => {
                    let room = room.make(self.entry_cost(entry)).await;
                    room.map_err(FetchError::NoRoom)?;
                }
                written => break written?,
            }
        };
        if new {
            self.counts.count(len, u64::from(stored_len), via, urgency);
            self.foresight.arrived(entry, len, urgency);
        }
        Ok(new)
    }

    async fn write(self: &Arc<Self>, entry: u32, plain: bytes::Bytes) -> Result<bool, FetchError> {
        let source = Arc::clone(self);
        let written =
            tokio::task::spawn_blocking(move || source.file.write_entry(entry as usize, &plain));
        match written.await {
            Ok(written) => written.map_err(|error| FetchError::Cache {
                blob: self.id,
                source: Arc::new(error),
            }),
            Err(_stopped) => Err(FetchError::Lost { blob: self.id }),
        }
    }
}

impl Cold for Source {
    fn sweep(&self, from: usize, wanted: u64, press: Press) -> Result<Swept, CacheError> {
        self.holds.tidy();
        self.file.evict_cold(from, wanted, |entry, touched| {
            if touched {
                // The mark may go.
                let number = entry as u32;
                self.foresight.was_read(number, self.entry_len(number));
            }
            self.holds.may_go(entry, touched) || press == Press::Hard
        })
    }

    fn len(&self) -> usize {
        self.file.map().len()
    }
}

impl Provider {
    /// Where an entry's chunk is stored; `None` if the flist's tables do not say, which its check
    /// rules out.
    pub(crate) fn locate(&self, entry: u32) -> Option<ChunkSource> {
        ChunkSource::of(&self.flist, *self.chunks.get(entry as usize)?)
    }

    /// Whether its stores are directories: nearer than any node.
    pub(crate) fn is_near(&self) -> bool {
        let specs = self.reader.as_ref().map(|reader| reader.stores().specs());
        let is_directory = |spec: &StoreSpec| matches!(spec.url.place(), Place::Dir(_));
        specs.is_some_and(|specs| !specs.is_empty() && specs.iter().all(is_directory))
    }
}
