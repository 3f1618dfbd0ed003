//! Readers that go from front to back: how much to fetch beyond what they ask for.

use std::ops::Range;

/// Entries fetched beyond a sequential demand at most: about 4 MiB, enough to keep a 1 Gbit/s link
/// with 10 ms round trips busy.
const AHEAD_MAX: u32 = 64;

/// Recognises readers that go through a blob from front to back. The kernel does not read ahead on
/// direct I/O, so without this every miss of a sequential reader would wait for a round trip.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// First entry of the last demand.
    last: u32,
    /// End of what was fetched for the last demand, with what was fetched beyond it.
    until: u32,
    window: u32,
}

impl Sequence {
    /// What to fetch beyond a demand for `entries` of a blob of `count`.
    pub(super) fn next(&mut self, entries: &Range<u32>, count: u32) -> Option<Range<u32>> {
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
pub(super) fn within_file(
    end: u32,
    ahead: Range<u32>,
    goes_on: impl Fn(usize) -> bool,
) -> Option<Range<u32>> {
    let mut file = end..ahead.end;
    let file_end = file
        .find(|&entry| entry == 0 || !goes_on(entry as usize))
        .unwrap_or(ahead.end);
    (ahead.start < file_end).then_some(ahead.start..file_end)
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
