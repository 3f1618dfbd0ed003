//! Verifying a blob that cannot be trusted as it was found.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use lamina_flist::ChunkId;

use super::{BlobFile, CacheError};

impl BlobFile {
    /// Hashes every entry marked present, on all CPUs; clears the bad ones and
    /// whatever was written into the padding between entries. The generation
    /// is raised behind them: the blob may be served, and what is absent may be
    /// freed now.
    pub(super) fn verify_present(&mut self) -> Result<(), CacheError> {
        let (verified, cleared) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let next = AtomicUsize::new(0);
        self.present.raise_generation();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut buffer = Vec::new();
                    loop {
                        let entry = next.fetch_add(1, Ordering::Relaxed);
                        if entry >= self.map.len() {
                            break;
                        }
                        if !self.present.get(entry) {
                            continue;
                        }
                        verified.fetch_add(1, Ordering::Relaxed);
                        if !self.entry_is_good(entry, &mut buffer) {
                            self.present.clear(entry);
                            cleared.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        self.present.raise_generation();
        self.report.verified = verified.into_inner();
        self.report.cleared = cleared.into_inner();
        self.zero_padding()
    }

    /// An entry that cannot be read is not good: it will be fetched again.
    fn entry_is_good(&self, entry: usize, buffer: &mut Vec<u8>) -> bool {
        let expected = self.map.get(entry);
        buffer.resize(expected.len as usize, 0);
        self.data.read_exact_at(buffer, expected.offset).is_ok()
            && ChunkId::of(buffer) == expected.id
    }

    /// Padding follows the last chunk of a file up to the next page and is
    /// readable through mmap: it must be zeros.
    fn zero_padding(&self) -> Result<(), CacheError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = 0;
        let ends = (0..self.map.len())
            .map(|entry| self.map.get(entry))
            .map(|entry| (entry.offset, entry.offset + u64::from(entry.len)));
        for (start, end) in ends.chain([(self.map.blob_len(), 0)]) {
            let mut buffer = [0u8; 4096];
            while at < start {
                let length = (start - at).min(4096) as usize;
                let path = || self.data_path();
                self.data
                    .read_exact_at(&mut buffer[..length], at)
                    .map_err(|source| CacheError::io("read", &path(), source))?;
                if buffer[..length] != ZEROS[..length] {
                    self.data
                        .write_all_at(&ZEROS[..length], at)
                        .map_err(|source| CacheError::io("write", &path(), source))?;
                }
                at += length as u64;
            }
            at = at.max(end);
        }
        Ok(())
    }
}
