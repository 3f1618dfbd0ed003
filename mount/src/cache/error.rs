//! What can go wrong with a cached blob, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use lamina_flist::BlobId;

/// An operation on a cached blob failed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk (or quota) is full: free space, then fill again. Nothing was
    /// marked present.
    #[error("no space left writing {path}")]
    Full {
        /// The file being written.
        path: PathBuf,
        /// ENOSPC, EDQUOT or EFBIG.
        #[source]
        source: io::Error,
    },
    /// The bytes offered are not the ones the map names: fetch them elsewhere.
    #[error("entry {entry} of blob {blob}: content does not match its chunk id")]
    Mismatch {
        /// The blob.
        blob: BlobId,
        /// Index in the map.
        entry: usize,
    },
    /// The bytes offered have another length than the map entry.
    #[error("entry {entry} of blob {blob} has {expected} bytes, got {got}")]
    Length {
        /// The blob.
        blob: BlobId,
        /// Index in the map.
        entry: usize,
        /// Length in the map.
        expected: usize,
        /// Length offered.
        got: usize,
    },
    /// The index is past the map's end.
    #[error("blob {blob} has no entry {entry}")]
    NoEntry {
        /// The blob.
        blob: BlobId,
        /// The index asked for.
        entry: usize,
    },
    /// A read past the end of the blob, or of bytes that are not there yet.
    #[error("bytes {start}..{end} of blob {blob} are not present")]
    Absent {
        /// The blob.
        blob: BlobId,
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
    },
    /// A file is missing or not what it must be; opening for writing repairs.
    #[error("{path}: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The map offered does not have this id.
    #[error("the map given for blob {0} is not its map")]
    WrongMap(BlobId),
    /// Another process writes this blob.
    #[error("blob {0} is being written by another process")]
    Busy(BlobId),
    /// The system refused something else.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl CacheError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::Full { path, source },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Whether the disk or a quota has no room left: freeing some may help.
    pub fn is_disk_full(&self) -> bool {
        let Self::Full { source, .. } = self else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}
