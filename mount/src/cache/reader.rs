//! The serving side of a cached blob: read what is present, say what is not.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use lamina_flist::{BlobId, BlobMap};
use memmap2::Mmap;

use super::CacheError;
use super::blob::load_map;
use super::files;
use super::present::Present;

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
}

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
        let present = Present::open(&file, map.len(), false)
            .map_err(|source| CacheError::io("map", &present_path, source))?;
        Ok(Self {
            id: *id,
            dir: dir.to_owned(),
            map,
            data,
            files,
            present,
        })
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

    /// The smallest range of entries that holds every missing one of those the
    /// byte range touches; `None` if all of them are present.
    pub fn missing(&self, bytes: Range<u64>) -> Option<Range<usize>> {
        self.present.missing(self.map.overlapping(bytes))
    }

    /// How many entries the blob has and how many are present.
    pub fn progress(&self) -> (usize, usize) {
        (self.map.len(), self.present.count())
    }

    /// Reads exactly `buffer.len()` bytes; the caller has seen that nothing of
    /// them is missing.
    ///
    /// # Errors
    /// What pread says; an early end of the file is an error, never zeros.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.data.read_exact_at(buffer, offset)
    }
}
