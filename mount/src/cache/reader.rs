//! The serving side of a cached blob: read what is present, say what is not.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use lamina_flist::{BlobId, BlobMap};
use memmap2::Mmap;

use super::CacheError;
use super::files;
use super::opening::load_map;
use super::present::Present;
use super::touched::Touched;

/// How much of the map is checked on opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapCheck {
    /// Its BLAKE3 must be the blob id.
    Identity,
    /// Its structure only: for a blob whose identity was checked before, when
    /// readers wait for us to be back.
    Structure,
}

/// A blob opened for serving.
#[derive(Debug)]
pub struct BlobReader {
    id: BlobId,
    dir: PathBuf,
    map: BlobMap<Mmap>,
    data: File,
    files: FileIdentity,
    present: Present,
    /// Without it reads work, and what is read here counts as cold.
    touched: Option<Touched>,
}

/// What came of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TryRead {
    /// The buffer holds the bytes.
    Done,
    /// Nothing was read: entries are missing.
    Missing {
        /// The smallest range that holds every missing one of those touched.
        entries: Range<usize>,
        /// The generation before they were seen missing: if
        /// [`BlobReader::generation`] is another one after entries were seen
        /// missing again, they may have been evicted since.
        generation: u64,
    },
}

/// Evictions that may come between looking at the bits and having read, one
/// after the other, before the read counts as missing.
const READ_TRIES: usize = 16;

/// Which files a reader has open. While it has, no other file can have the
/// same numbers: a replaced file is told from the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    data_ino: u64,
    present_ino: u64,
}

impl BlobReader {
    /// Opens the blob in `dir`, which its writer has opened before.
    ///
    /// # Errors
    /// [`CacheError::Damaged`] if a file is not what it must be.
    pub fn open(dir: &Path, id: &BlobId, check: MapCheck) -> Result<Self, CacheError> {
        let wanted = (check == MapCheck::Identity).then_some(id);
        let map = load_map(&dir.join(files::MAP), wanted)?;
        let data_path = dir.join(files::DATA);
        let data = files::open_sized(&data_path, false, map.blob_len())?;
        let present_path = dir.join(files::PRESENT);
        let file = files::open_sized(&present_path, false, Present::file_len(map.len()))?;
        let ino = |file: &File, path: &Path| match file.metadata() {
            Ok(meta) => Ok(meta.ino()),
            Err(source) => Err(CacheError::io("stat", path, source)),
        };
        let files = FileIdentity {
            data_ino: ino(&data, &data_path)?,
            present_ino: ino(&file, &present_path)?,
        };
        let present = Present::open(&file, map.len())
            .map_err(|source| CacheError::io("map", &present_path, source))?
            .ok_or_else(|| CacheError::damaged(&present_path, "no bitmap of this version"))?;
        let touched = open_touched(dir, map.len());
        Ok(Self {
            id: *id,
            dir: dir.to_owned(),
            map,
            data,
            files,
            present,
            touched,
        })
    }

    /// The same, leaving no trace of what is read: for somebody else's sake, who decides nothing about what stays.
    #[must_use]
    pub fn without_touching(mut self) -> Self {
        self.touched = None;
        self
    }

    /// The blob's id.
    pub fn id(&self) -> &BlobId {
        &self.id
    }

    /// The directory it was opened in.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which files it has open, to notice that they were replaced since.
    pub fn files(&self) -> FileIdentity {
        self.files
    }

    /// Length in bytes, a multiple of 4096.
    pub fn len(&self) -> u64 {
        self.map.blob_len()
    }

    /// Whether the blob has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries a byte range touches.
    pub fn entries(&self, bytes: Range<u64>) -> Range<usize> {
        self.map.overlapping(bytes)
    }

    /// The smallest range of entries that holds every missing one of those the
    /// byte range touches; `None` if all of them are present.
    pub fn missing(&self, bytes: Range<u64>) -> Option<Range<usize>> {
        self.present.missing(self.map.overlapping(bytes))
    }

    /// How many entries the blob has and how many are present.
    pub fn progress(&self) -> (usize, usize) {
        (self.map.len(), self.present.count())
    }

    /// The generation of the bitmap: it changes with every eviction.
    pub fn generation(&self) -> u64 {
        self.present.generation()
    }

    /// Reads exactly `buffer.len()` bytes if all of them are there, though they
    /// may be evicted by another process meanwhile: see [`super`].
    ///
    /// # Errors
    /// What pread says; an early end of the file is an error, never zeros.
    pub fn try_read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<TryRead> {
        let end = offset.saturating_add(buffer.len() as u64);
        let entries = self.map.overlapping(offset..end);
        self.try_read(entries, || self.data.read_exact_at(buffer, offset))
    }

    /// How many entries the blob has.
    pub fn entry_count(&self) -> usize {
        self.map.len()
    }

    /// Whether an entry is there now.
    pub fn has_entry(&self, entry: usize) -> bool {
        entry < self.map.len() && self.present.get(entry)
    }

    /// The bytes of an entry; `None` if it is not there, or not in the blob.
    ///
    /// # Errors
    /// As [`BlobReader::try_read_at`].
    pub fn read_entry(&self, entry: usize) -> std::io::Result<Option<Vec<u8>>> {
        if !self.has_entry(entry) {
            return Ok(None);
        }
        let place = self.map.get(entry);
        let mut bytes = vec![0; place.len as usize];
        let read = || self.data.read_exact_at(&mut bytes, place.offset);
        match self.try_read(entry..entry + 1, read)? {
            TryRead::Done => Ok(Some(bytes)),
            TryRead::Missing { .. } => Ok(None),
        }
    }

    /// Does `read`, which needs `entries`, until it fell into no eviction.
    pub(super) fn try_read(
        &self,
        entries: Range<usize>,
        mut read: impl FnMut() -> std::io::Result<()>,
    ) -> std::io::Result<TryRead> {
        let mut generation = self.present.generation();
        for _ in 0..READ_TRIES {
            if let Some(entries) = self.present.missing(entries.clone()) {
                return Ok(TryRead::Missing {
                    entries,
                    generation,
                });
            }
            read()?;
            let after = self.present.generation_after_read();
            if after == generation {
                if let Some(touched) = &self.touched {
                    touched.set(entries);
                }
                return Ok(TryRead::Done);
            }
            generation = after;
        }
        Ok(TryRead::Missing {
            entries,
            generation,
        })
    }
}

fn open_touched(dir: &Path, entries: usize) -> Option<Touched> {
    let path = dir.join(files::TOUCHED);
    let file = files::open_sized(&path, true, Touched::file_len(entries)).ok()?;
    Touched::open(&file, entries).ok()
}
