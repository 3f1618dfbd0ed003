//! The blob file system without FUSE: a table of blobs by node id, and reads
//! that are answered now or when the filler is done.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use lamina_flist::{BlobId, ProfileRange};

use super::stats::{BlobStats, Counters};
use super::touches::Touches;
use crate::cache::{BlobReader, FileIdentity, TryRead};
use crate::filler::{FillError, Filler};

/// Node id of the directory (`FUSE_ROOT_ID`).
pub const ROOT_INO: u64 = 1;

/// How the file system behaves.
#[derive(Debug, Clone)]
pub struct BlobFsOptions {
    /// Longest time a read waits for missing bytes before it fails with EIO.
    pub fill_deadline: Duration,
}

impl Default for BlobFsOptions {
    fn default() -> Self {
        Self {
            fill_deadline: Duration::from_mins(1),
        }
    }
}

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Node id.
    pub ino: u64,
    /// Bytes; 0 for the directory.
    pub size: u64,
    /// Whether it is the directory.
    pub is_dir: bool,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No blob has this node id (any more).
    #[error("no blob with node id {0}")]
    NoBlob(u64),
    /// Missing bytes could not be filled.
    #[error("fill blob {blob}")]
    Fill {
        /// The blob.
        blob: BlobId,
        /// What the filler said.
        #[source]
        source: FillError,
    },
    /// The cached file could not be read.
    #[error("read blob {blob}")]
    Disk {
        /// The blob.
        blob: BlobId,
        /// What pread said.
        #[source]
        source: io::Error,
    },
}

/// The blobs, their node ids, and who fills them.
pub struct BlobFs {
    blobs: RwLock<BTreeMap<u64, Arc<Entry>>>,
    filler: Arc<dyn Filler>,
    options: BlobFsOptions,
    touches: Touches,
}

impl std::fmt::Debug for BlobFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobFs")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    reader: BlobReader,
    counters: Counters,
}

impl BlobFs {
    /// A file system without blobs.
    pub fn new(filler: Arc<dyn Filler>, options: BlobFsOptions) -> Self {
        Self {
            blobs: RwLock::default(),
            filler,
            options,
            touches: Touches::default(),
        }
    }

    /// Adds a blob under a node id, or replaces what has that id (a blob whose
    /// data file was replaced). The id must be above [`ROOT_INO`] and belong to
    /// this blob for ever.
    pub fn insert(&self, ino: u64, reader: BlobReader) {
        debug_assert!(ino > ROOT_INO);
        let entry = Arc::new(Entry {
            reader,
            counters: Counters::default(),
        });
        self.write().insert(ino, entry);
    }

    /// Takes a blob away; later reads of its node fail.
    pub fn remove(&self, ino: u64) {
        self.write().remove(&ino);
    }

    /// Which files a blob has open, to notice replaced ones.
    pub fn files(&self, ino: u64) -> Option<FileIdentity> {
        Some(self.entry(ino)?.reader.files())
    }

    /// Finds a blob by its file name.
    pub fn lookup(&self, name: &[u8]) -> Option<Attributes> {
        let id: BlobId = std::str::from_utf8(name).ok()?.parse().ok()?;
        let blobs = self.read();
        let (ino, entry) = blobs.iter().find(|(_, entry)| *entry.reader.id() == id)?;
        Some(file_attributes(*ino, entry))
    }

    /// What is known of a node.
    pub fn attributes(&self, ino: u64) -> Option<Attributes> {
        if ino == ROOT_INO {
            return Some(Attributes {
                ino,
                size: 0,
                is_dir: true,
            });
        }
        Some(file_attributes(ino, self.entry(ino)?.as_ref()))
    }

    /// Every blob: node id and file name, by node id.
    pub fn list(&self) -> Vec<(u64, String)> {
        self.read()
            .iter()
            .map(|(ino, entry)| (*ino, entry.reader.id().to_string()))
            .collect()
    }

    /// Every blob's counters.
    pub fn stats(&self) -> Vec<(BlobId, BlobStats)> {
        self.read()
            .values()
            .map(|entry| {
                let progress = entry.reader.progress();
                (*entry.reader.id(), entry.counters.snapshot(progress))
            })
            .collect()
    }

    /// Records from now on in which order entries of `blobs` are first read, under a name; begins anew
    /// if there is such a recording. The oldest of many recordings ends.
    pub fn record_touches(&self, name: &str, blobs: Vec<BlobId>) {
        self.touches.begin(name, blobs);
    }

    /// What was recorded so far, blobs numbered as they were given; `None` without such a recording.
    pub fn touches(&self, name: &str) -> Option<Vec<ProfileRange>> {
        self.touches.so_far(name)
    }

    /// Ends a recording.
    pub fn forget_touches(&self, name: &str) {
        self.touches.end(name);
    }

    /// Reads `size` bytes at `offset` (fewer only at the blob's end) and calls
    /// `done` exactly once: on this thread if everything is present, else on
    /// the filler's.
    pub fn read_at<D>(&self, ino: u64, offset: u64, size: u32, done: D)
    where
        D: FnOnce(Result<&[u8], ReadError>) + Send + 'static,
    {
        let Some(entry) = self.entry(ino) else {
            return done(Err(ReadError::NoBlob(ino)));
        };
        entry.counters.read_began();
        let end = offset
            .saturating_add(u64::from(size))
            .min(entry.reader.len());
        let range = offset.min(end)..end;
        self.touches
            .note(entry.reader.id(), || entry.reader.entries(range.clone()));
        let Err((missing, done)) = entry.answer(range.clone(), None, done) else {
            return;
        };
        let asked = Instant::now();
        let waiting = Waiting {
            entry,
            filler: Arc::clone(&self.filler),
            range,
            asked,
            deadline: asked + self.options.fill_deadline,
            done,
        };
        waiting.ask(missing);
    }

    fn entry(&self, ino: u64) -> Option<Arc<Entry>> {
        self.read().get(&ino).cloned()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.blobs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.blobs.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Entries that were seen missing, and the generation they were seen in.
type Missing = (Range<usize>, u64);

impl Entry {
    /// Answers, unless entries are missing: then says which and gives `done` back.
    fn answer<D>(
        &self,
        range: Range<u64>,
        waited: Option<Duration>,
        done: D,
    ) -> Result<(), (Missing, D)>
    where
        D: FnOnce(Result<&[u8], ReadError>),
    {
        let length = (range.end - range.start) as usize;
        with_buffer(length, |buffer| {
            match self.reader.try_read_at(buffer, range.start) {
                Ok(TryRead::Done) => {
                    self.counters.served(length, waited);
                    done(Ok(buffer));
                }
                Ok(TryRead::Missing {
                    entries,
                    generation,
                }) => return Err(((entries, generation), done)),
                Err(source) => {
                    self.counters.failed();
                    let blob = *self.reader.id();
                    done(Err(ReadError::Disk { blob, source }));
                }
            }
            Ok(())
        })
    }
}

/// A read that waits for the filler.
struct Waiting<D> {
    entry: Arc<Entry>,
    filler: Arc<dyn Filler>,
    range: Range<u64>,
    asked: Instant,
    deadline: Instant,
    done: D,
}

impl<D> Waiting<D>
where
    D: FnOnce(Result<&[u8], ReadError>) + Send + 'static,
{
    fn ask(self, (missing, generation): Missing) {
        let (filler, id) = (Arc::clone(&self.filler), *self.entry.reader.id());
        let deadline = self.deadline;
        let finish = move |outcome| self.filled(outcome, generation);
        filler.start(&id, missing, deadline, Box::new(finish));
    }

    /// What is missing after a good answer was evicted again, if there was an
    /// eviction: then it is asked for once more. Else the filler is wrong.
    fn filled(self, outcome: Result<(), FillError>, generation: u64) {
        let entry = Arc::clone(&self.entry);
        let fail = |done: D, source| {
            entry.counters.failed();
            let blob = *entry.reader.id();
            done(Err(ReadError::Fill { blob, source }));
        };
        if let Err(source) = outcome {
            return fail(self.done, source);
        }
        let waited = Some(self.asked.elapsed());
        match entry.answer(self.range.clone(), waited, self.done) {
            Ok(()) => {}
            // Looked at after the miss: an eviction raises it before it clears bits.
            Err((missing, done))
                if entry.reader.generation() != generation && Instant::now() < self.deadline =>
            {
                Self { done, ..self }.ask(missing);
            }
            Err(((left, _), done)) => fail(done, FillError::NotFilled(left)),
        }
    }
}

fn file_attributes(ino: u64, entry: &Entry) -> Attributes {
    Attributes {
        ino,
        size: entry.reader.len(),
        is_dir: false,
    }
}

/// Lends a buffer that each thread keeps for small reads; large ones get their
/// own, so that a thread's memory stays below [`KEPT_BUFFER_BYTES`].
fn with_buffer<R>(length: usize, use_it: impl FnOnce(&mut [u8]) -> R) -> R {
    /// The kernel's usual read-ahead.
    const KEPT_BUFFER_BYTES: usize = 128 * 1024;
    thread_local! {
        static BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    if length > KEPT_BUFFER_BYTES {
        return use_it(&mut vec![0; length]);
    }
    BUFFER.with(|kept| match kept.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            use_it(&mut buffer[..length])
        }
        // A read begun from within a call-back of another one.
        Err(_) => use_it(&mut vec![0; length]),
    })
}
