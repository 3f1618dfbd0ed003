//! The node's blobs on disk: sparse files filled on demand, each byte verified
//! before it can be read.
//!
//! ```text
//! <cache>/blobs/<blob id>/   mode 0700
//!   map      the blob map, bytes whose BLAKE3 is the blob id; never changes
//!   data     sparse file, as long as the blob; entry i of the map at its offset;
//!            its sticky bit: the kernel may hold it, nothing is evicted from it
//!   present  magic, generation, then one bit per map entry, in 64-bit
//!            little-endian words (see `present.rs`)
//!   touched  one bit per map entry: read since the evictor last came by
//!   seal     JSON: what `data` looked like when it was last left alone
//! ```
//!
//! What always holds:
//! - a bit in `present` is set only after the entry's bytes, verified against
//!   the map, were written to `data` (same machine: page cache order; after a
//!   power loss: the seal does not match and everything is verified again);
//! - a hole is punched only after the bits of its entries were cleared and the
//!   generation was raised: a reader in another process that looks at the
//!   generation before the bits and after the bytes never takes a hole for data;
//! - a data file that was given to the kernel in this boot is never punched;
//! - every file is opened without following links and must be a regular file of
//!   the right size; anything else is replaced by a fresh, empty one, a bitmap
//!   together with its data: an old reader keeps both;
//! - one writer at a time (a lock on `data`), any number of readers.

mod blob;
mod error;
mod evict;
mod files;
mod opening;
mod present;
mod reader;
mod seal;
mod touched;
mod verify;

#[cfg(test)]
mod tests;

pub use blob::{BlobFile, OpenReport, Trust};
pub use error::CacheError;
pub use evict::Swept;
pub use reader::{BlobReader, FileIdentity, MapCheck, TryRead};
pub use seal::{Seal, wait_for_next_tick};

use std::path::{Path, PathBuf};

use lamina_flist::BlobId;

/// Where the blobs of a node live.
#[derive(Debug, Clone)]
pub struct CacheDir {
    root: PathBuf,
}

impl CacheDir {
    /// The cache below `root`; made on first use.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory given to [`CacheDir::new`].
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of one blob.
    pub fn blob_dir(&self, id: &BlobId) -> PathBuf {
        self.root.join("blobs").join(id.to_string())
    }

    /// The file EROFS may read directly once the blob is complete.
    pub fn data_path(&self, id: &BlobId) -> PathBuf {
        self.blob_dir(id).join(files::DATA)
    }

    /// Every blob that has a directory, in order; other names are ignored.
    ///
    /// # Errors
    /// When the directory exists and cannot be listed.
    pub fn list(&self) -> Result<Vec<BlobId>, CacheError> {
        let dir = self.root.join("blobs");
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(CacheError::io("list", &dir, source)),
        };
        let mut ids: Vec<BlobId> = entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Bytes a blob takes on disk (not its length: it is sparse); 0 if absent.
    pub fn disk_bytes(&self, id: &BlobId) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(self.data_path(id)).map_or(0, |meta| meta.blocks() * 512)
    }

    /// Removes a blob. Readers that have it open keep what they have; nothing
    /// may be mounted on it (the caller knows).
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(&self, id: &BlobId) -> Result<(), CacheError> {
        let dir = self.blob_dir(id);
        match std::fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(CacheError::io("remove", &dir, source))
            }
            _ => Ok(()),
        }
    }
}
