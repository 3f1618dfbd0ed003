//! Open blobs: the cache file of each, and the flists that say where its chunks are.

use crate::agent::density::Density;
use crate::agent::fetch::{FetchCounts, FetchError, Urgency};
use crate::agent::holds::Holds;
use crate::agent::lanes::{Lane, Lanes};
use crate::agent::space::{Cold, Item, Lease, Press, Space};
use lamina_flist::{BlobId, Flist, FlistDigest};
use lamina_mount::cache::{BlobFile, CacheDir, CacheError, Swept, Trust};
use lamina_store::{ChunkReader, ChunkSource};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One blob that may be filled.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) id: BlobId,
    pub(crate) file: BlobFile,
    pub(crate) counts: FetchCounts,
    pub(crate) holds: Holds,
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
    pub(crate) reader: ChunkReader,
    /// The way to the reader's stores.
    pub(crate) lane: Arc<Lane>,
}

/// What a file system allocates at once, and a hole frees.
const BLOCK: u64 = 4096;

impl Source {
    /// Who can say where the chunks are; the flist in use for longest comes first.
    pub(crate) fn providers(&self) -> Vec<Provider> {
        self.providers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

    /// Adds a flist that can say where the chunks are.
    fn provide(&self, provider: Provider) {
        let mut providers = self
            .providers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if providers
            .iter()
            .all(|known| known.digest != provider.digest)
        {
            providers.push(provider);
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

    /// Stores a chunk that arrived; says whether it was new. On a full disk, what may go makes room. Writing is to the page cache; hashing and
    /// copying 64 KiB takes tens of microseconds, but a full disk may block: it runs where blocking is
    /// allowed.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        entry: u32,
        plain: bytes::Bytes,
        stored_len: u32,
        urgency: Urgency,
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
            self.counts.count(len, u64::from(stored_len), urgency);
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
        let chunk = self.flist.chunk(*self.chunks.get(entry as usize)?)?;
        Some(ChunkSource {
            chunk,
            pack: self.flist.pack(chunk.pack)?,
        })
    }
}

/// Entries fetched beyond a sequential demand at most: about 4 MiB, enough to keep a 1 Gbit/s link
/// with 10 ms round trips busy.
const AHEAD_MAX: u32 = 64;

/// Recognises readers that go through a blob from front to back. The kernel does not read ahead on
/// direct I/O, so without this every miss of a sequential reader would wait for a round trip.
#[derive(Debug, Default)]
struct Sequence {
    /// First entry of the last demand.
    last: u32,
    /// End of what was fetched for the last demand, with what was fetched beyond it.
    until: u32,
    window: u32,
}

impl Sequence {
    fn next(&mut self, entries: &Range<u32>, count: u32) -> Option<Range<u32>> {
        let sequential = entries.start > self.last && entries.start <= self.until;
        self.window = if sequential {
            (self.window * 2).clamp(2, AHEAD_MAX)
        } else {
            0
        };
        self.last = entries.start;
        let from = if sequential {
            self.until.max(entries.end)
        } else {
            entries.end
        };
        self.until = from.saturating_add(self.window).min(count);
        (from < self.until).then_some(from..self.until)
    }
}

/// What of `ahead` belongs to the file that a demand up to `end` was for. `goes_on` says whether an entry
/// follows the one before it without padding. The way from the demand to `ahead` counts, too: while
/// what was asked for ahead is under way, `ahead` may begin beyond the end of the file.
fn within_file(end: u32, ahead: Range<u32>, goes_on: impl Fn(usize) -> bool) -> Option<Range<u32>> {
    let mut file = end..ahead.end;
    let file_end = file
        .find(|&entry| entry == 0 || !goes_on(entry as usize))
        .unwrap_or(ahead.end);
    (ahead.start < file_end).then_some(ahead.start..file_end)
}

/// How long a blob that is being closed is waited for: its fetches have been stopped, a slow disk may
/// still write what had arrived.
const CLOSING_PATIENCE: Duration = Duration::from_secs(20);

/// Room made on a full disk for the files of a blob besides its data: a map takes about 48 bytes per entry.
const OPENING_BYTES: u64 = 1 << 20;

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

    /// Opens every blob of a flist for filling, in table order. A blob that is open already gets
    /// the flist as one more provider.
    pub(crate) fn open(
        &self,
        flist: &Flist,
        reader: &ChunkReader,
        trust: impl Fn(&BlobId) -> Trust,
    ) -> Result<Vec<Arc<Source>>, CacheError> {
        let mut found = Vec::with_capacity(flist.blob_count());
        let lane = self.lanes.of(reader);
        for index in 0..flist.blob_count() {
            let entries = flist.blob_entries(index).into_iter().flatten();
            let provider = Provider {
                digest: flist.digest(),
                flist: flist.clone(),
                chunks: entries.map(|entry| entry.chunk).collect(),
                reader: reader.clone(),
                lane: Arc::clone(&lane),
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
            let mut providers = source
                .providers
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            providers.retain(|provider| provider.digest != *digest);
            let used = !providers.is_empty();
            drop(providers);
            if !used {
                idle.push(Arc::clone(source));
            }
            used
        });
        drop(open);
        for source in idle {
            source.closing.send_replace(true);
            // What a stopped fetch still writes breaks the seal, and the blob is verified at its next use.
            if let Err(error) = source.file.seal() {
                tracing::warn!(blob = %source.id, %error, "seal a blob");
            }
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
        let source = Arc::new(Source {
            id,
            file,
            counts: FetchCounts::default(),
            holds: Holds::default(),
            sequence: Mutex::default(),
            density: Density::default(),
            last_error: Mutex::default(),
            closing: watch::Sender::new(false),
            providers: RwLock::new(vec![provider]),
            lease,
        });
        let cold: Arc<dyn Cold> = Arc::clone(&source) as _;
        self.space.watch(&cold);
        self.map().insert(id, Arc::clone(&source));
        Ok(source)
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<BlobId, Arc<Source>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequential_reader_is_met_by_a_growing_window() {
        let mut sequence = Sequence::default();
        let mut demand = |at: u32| sequence.next(&(at..at + 1), 1000);
        assert_eq!(demand(10), None);
        assert_eq!(demand(11), Some(12..14));
        assert_eq!(demand(14), Some(15..19));
        assert_eq!(demand(19), Some(20..28));
        assert_eq!(demand(500), None, "a jump ends it");
    }

    #[test]
    fn what_is_fetched_ahead_ends_with_the_file_however_far_the_window_has_gone() {
        // Files begin at 0, 10 and 12.
        let goes_on = |entry| entry != 10 && entry != 12;
        assert_eq!(within_file(5, 5..8, goes_on), Some(5..8));
        assert_eq!(within_file(8, 9..13, goes_on), Some(9..10));
        assert_eq!(within_file(10, 10..14, goes_on), None);
        assert_eq!(within_file(9, 11..15, goes_on), None, "another file");
    }

    #[test]
    fn the_window_ends_with_the_blob_and_random_readers_get_none() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.next(&(97..98), 100), None);
        assert_eq!(sequence.next(&(98..99), 100), Some(99..100));
        for at in [50, 10, 70, 30] {
            assert_eq!(sequence.next(&(at..at + 1), 100), None);
        }
    }
}
