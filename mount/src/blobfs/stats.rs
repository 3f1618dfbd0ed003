//! Counters of one blob: how reads were served.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A snapshot of one blob's counters since this process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobStats {
    /// Reads the kernel asked for.
    pub reads: u64,
    /// Bytes returned that were present when asked for.
    pub bytes_local: u64,
    /// Bytes returned after waiting for a fill.
    pub bytes_waited: u64,
    /// Reads that waited for a fill.
    pub reads_waited: u64,
    /// Reads that failed.
    pub reads_failed: u64,
    /// Microseconds reads waited for fills, summed.
    pub wait_us_sum: u64,
    /// The longest wait in microseconds.
    pub wait_us_max: u64,
    /// Map entries the blob has.
    pub entries: u64,
    /// Map entries present.
    pub entries_present: u64,
    /// When the first read came, milliseconds since the Unix epoch; 0: none has come.
    #[serde(default)]
    pub first_read_unix_ms: u64,
}

/// The live counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    reads: AtomicU64,
    bytes_local: AtomicU64,
    bytes_waited: AtomicU64,
    reads_waited: AtomicU64,
    reads_failed: AtomicU64,
    wait_us_sum: AtomicU64,
    wait_us_max: AtomicU64,
    first_read_unix_ms: AtomicU64,
}

impl Counters {
    pub(super) fn read_began(&self) {
        if self.reads.fetch_add(1, Ordering::Relaxed) == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let now = now.map_or(0, |time| {
                u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
            });
            self.first_read_unix_ms.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn served(&self, bytes: usize, waited: Option<Duration>) {
        let bytes = bytes as u64;
        let Some(waited) = waited else {
            self.bytes_local.fetch_add(bytes, Ordering::Relaxed);
            return;
        };
        let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.bytes_waited.fetch_add(bytes, Ordering::Relaxed);
        self.reads_waited.fetch_add(1, Ordering::Relaxed);
        self.wait_us_sum.fetch_add(us, Ordering::Relaxed);
        self.wait_us_max.fetch_max(us, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.reads_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, progress: (usize, usize)) -> BlobStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BlobStats {
            reads: get(&self.reads),
            bytes_local: get(&self.bytes_local),
            bytes_waited: get(&self.bytes_waited),
            reads_waited: get(&self.reads_waited),
            reads_failed: get(&self.reads_failed),
            wait_us_sum: get(&self.wait_us_sum),
            wait_us_max: get(&self.wait_us_max),
            entries: progress.0 as u64,
            entries_present: progress.1 as u64,
            first_read_unix_ms: get(&self.first_read_unix_ms),
        }
    }
}
