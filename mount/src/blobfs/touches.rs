//! Which map entries are read first, in order: the raw material of access profiles.
//!
//! Recorded here and not where misses are answered, because data that is local already is part of a
//! start, too. What the kernel has in its page cache does not come here; a fresh mount has nothing there.
//!
//! Always holds: a read costs one atomic load while nothing is recorded; at most [`RECORDINGS_MAX`]
//! recordings of [`ENTRIES_MAX`] entries are kept, each for [`LIFE`].

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_flist::{BlobId, ProfileRange};

/// Recordings at once; the oldest gives way.
const RECORDINGS_MAX: usize = 16;
/// Entries of one recording: a start touches hundreds; more are a scan, and take a megabyte.
const ENTRIES_MAX: usize = 65_536;
/// A recording ends by itself: whoever asked for it may be gone.
const LIFE: Duration = Duration::from_mins(5);

/// The recordings under way.
#[derive(Debug, Default)]
pub(super) struct Touches {
    active: AtomicBool,
    recordings: Mutex<VecDeque<Recording>>,
}

#[derive(Debug)]
struct Recording {
    name: String,
    begun: Instant,
    blobs: Vec<BlobId>,
    seen: HashSet<(u16, u32)>,
    ranges: Vec<ProfileRange>,
}

impl Touches {
    /// Records first reads of `blobs` under a name, from nothing.
    pub(super) fn begin(&self, name: &str, blobs: Vec<BlobId>) {
        let mut recordings = self.lock();
        recordings.retain(|recording| recording.name != name);
        if recordings.len() == RECORDINGS_MAX {
            recordings.pop_front();
        }
        recordings.push_back(Recording {
            name: name.to_owned(),
            begun: Instant::now(),
            blobs,
            seen: HashSet::new(),
            ranges: Vec::new(),
        });
        self.active.store(true, Ordering::Relaxed);
    }

    /// Ends a recording.
    pub(super) fn end(&self, name: &str) {
        let mut recordings = self.lock();
        recordings.retain(|recording| recording.name != name);
        self.active.store(!recordings.is_empty(), Ordering::Relaxed);
    }

    /// What was recorded so far: blobs by their place in the list given; `None` without a recording of
    /// this name.
    pub(super) fn so_far(&self, name: &str) -> Option<Vec<ProfileRange>> {
        let recordings = self.lock();
        let recording = recordings.iter().find(|known| known.name == name)?;
        Some(recording.ranges.clone())
    }

    /// Notes a read of entries of a blob.
    pub(super) fn note(&self, blob: &BlobId, entries: impl FnOnce() -> Range<usize>) {
        if !self.active.load(Ordering::Relaxed) {
            return;
        }
        let entries = entries();
        let mut recordings = self.lock();
        recordings.retain(|recording| recording.begun.elapsed() < LIFE);
        self.active.store(!recordings.is_empty(), Ordering::Relaxed);
        for recording in recordings.iter_mut() {
            if let Some(place) = recording.blobs.iter().position(|known| known == blob) {
                recording.add(place as u16, entries.clone());
            }
        }
    }

    /// A panic cannot leave a recording half changed in a way that matters: it is a hint.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Recording>> {
        self.recordings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recording {
    fn add(&mut self, blob: u16, entries: Range<usize>) {
        for entry in entries {
            let entry = entry as u32;
            if self.seen.len() >= ENTRIES_MAX {
                return;
            }
            if !self.seen.insert((blob, entry)) {
                continue;
            }
            match self.ranges.last_mut() {
                Some(last) if last.blob == blob && last.first_entry + last.count == entry => {
                    last.count += 1;
                }
                _ => self.ranges.push(ProfileRange {
                    blob,
                    first_entry: entry,
                    count: 1,
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(touches: &Touches, name: &str) -> Vec<(u16, u32, u32)> {
        let ranges = touches.so_far(name).expect("a recording");
        ranges
            .iter()
            .map(|range| (range.blob, range.first_entry, range.count))
            .collect()
    }

    #[test]
    fn first_reads_are_kept_in_order_and_neighbours_join() {
        let (a, b, other) = (BlobId::of(b"a"), BlobId::of(b"b"), BlobId::of(b"other"));
        let touches = Touches::default();
        touches.note(&a, || unreachable!("nothing is recorded"));
        touches.begin("image", vec![a, b]);
        touches.note(&b, || 10..12);
        touches.note(&b, || 12..13);
        touches.note(&other, || 0..9);
        touches.note(&a, || 5..6);
        touches.note(&b, || 11..14);
        assert_eq!(
            noted(&touches, "image"),
            [(1, 10, 3), (0, 5, 1), (1, 13, 1)]
        );
        touches.end("image");
        assert_eq!(touches.so_far("image"), None);
    }

    #[test]
    fn recordings_are_apart_and_bounded() {
        let a = BlobId::of(b"a");
        let touches = Touches::default();
        touches.begin("first", vec![a]);
        touches.note(&a, || 0..1);
        for number in 1..=RECORDINGS_MAX {
            touches.begin(&number.to_string(), vec![a]);
        }
        assert_eq!(touches.so_far("first"), None, "the oldest gave way");
        touches.note(&a, || 7..8);
        assert_eq!(noted(&touches, "1"), [(0, 7, 1)]);
        touches.begin("1", vec![a]);
        assert_eq!(noted(&touches, "1"), [], "begun anew");
    }
}
