//! Memory shared with another process through a file: the `present` bitmap and
//! the blob map of a cached blob.
//!
//! Both live in directories of mode 0700 that only the node's own daemons
//! write. Truncating such a file while it is mapped would raise SIGBUS; no code
//! of ours does (a damaged file is replaced by a fresh one, never shortened).

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU64;

use memmap2::{Mmap, MmapOptions, MmapRaw};

/// A file of whole 64-bit words, mapped shared; every access is atomic.
#[derive(Debug)]
pub(crate) struct SharedWords {
    map: MmapRaw,
    words: usize,
}

impl SharedWords {
    /// Maps `words` words of `file` for reading and writing.
    pub(crate) fn writable(file: &File, words: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(words * 8).map_raw(file)?;
        Ok(Self { map, words })
    }

    /// Maps `words` words of `file` for reading; stores through the result
    /// are impossible because [`Self::words`] hands out shared atomics and the
    /// caller keeps to loads (a store would fault).
    pub(crate) fn read_only(file: &File, words: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(words * 8).map_raw_read_only(file)?;
        Ok(Self { map, words })
    }

    /// The words.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        #[allow(clippy::cast_ptr_alignment)] // see SAFETY
        // SAFETY: the mapping is page aligned, `words * 8` bytes long and lives
        // as long as `self`; AtomicU64 has the layout of u64 and every access
        // of this process and of the other one is atomic.
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().cast::<AtomicU64>(), self.words)
        }
    }
}

/// Maps a file that is never changed after it was written.
pub(crate) fn map_immutable(file: &File) -> io::Result<Mmap> {
    // SAFETY: blob maps are written once, under a temporary name, then renamed;
    // nothing of ours writes to or shortens the file afterwards (see above).
    unsafe { Mmap::map(file) }
}
