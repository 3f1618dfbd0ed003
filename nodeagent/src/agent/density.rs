//! Recognising readers that will want a whole part of a blob: somebody copies a tree, or jumps about
//! in a large library.
//!
//! A blob is looked at in regions. One of which a part was demanded is brought whole; regions in a row
//! bring ever more of what follows, whatever files that belongs to: files lie in the blob in the order
//! of their layer, and who reads many of them reads them about in that order. A reader that has caught up
//! with what is on its way has the next of it begun before it gets to the end.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Entries of a region: about 2 MiB.
const REGION: u32 = 32;
/// Demanded entries that make a region dense: a quarter. Fewer would fetch much that nobody reads.
const DENSE: u32 = 8;
/// The same right behind a dense region.
const DENSE_NEXT: u32 = 2;
/// Regions brought at once at most: about 32 MiB.
const RUN_MAX: u32 = 16;

/// What was demanded of one blob.
#[derive(Debug, Default)]
pub(crate) struct Density(Mutex<HashMap<u32, Region>>);

#[derive(Debug, Clone, Copy)]
enum Region {
    /// So many of its entries were demanded.
    Demanded(u32),
    /// It was asked for as a whole.
    Dense,
}

impl Density {
    /// A demand for an entry met what is on its way already; what should be brought behind that, of a blob with `count`
    /// entries.
    pub(crate) fn caught_up(&self, entry: u32, count: u32) -> Option<Range<u32>> {
        let mut regions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let region = entry / REGION;
        let is_dense = |region: &u32| matches!(regions.get(region), Some(Region::Dense));
        let end = count.div_ceil(REGION);
        let dense = (region..end).take_while(is_dense).count() as u32;
        let next = region + dense;
        let run = dense_before(&regions, next);
        // One of them alone may be all that is read.
        if dense == 0 || run < 2 || dense > run.div_ceil(2) || next >= end {
            return None;
        }
        Some(bring(&mut regions, next..next + run, count))
    }

    /// Notes a demand for an entry; what should be brought because of it, of a blob with `count`
    /// entries.
    pub(crate) fn note(&self, entry: u32, count: u32) -> Option<Range<u32>> {
        let mut regions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let region = entry / REGION;
        let demanded = match regions.get(&region) {
            Some(Region::Dense) => return None,
            Some(Region::Demanded(before)) => before + 1,
            None => 1,
        };
        let run = dense_before(&regions, region);
        if demanded < if run > 0 { DENSE_NEXT } else { DENSE } {
            regions.insert(region, Region::Demanded(demanded));
            return None;
        }
        Some(bring(&mut regions, region..region + run + 1, count))
    }
}

/// Notes that regions are asked for; their entries, of a blob with `count` of them.
fn bring(regions: &mut HashMap<u32, Region>, which: Range<u32>, count: u32) -> Range<u32> {
    let entries = which.start * REGION..which.end.saturating_mul(REGION).min(count);
    regions.extend(which.map(|region| (region, Region::Dense)));
    entries
}

/// Dense regions right before one, up to the number that matters.
fn dense_before(regions: &HashMap<u32, Region>, region: u32) -> u32 {
    let dense = |before: &u32| {
        let there = region.checked_sub(*before).and_then(|at| regions.get(&at));
        matches!(there, Some(Region::Dense))
    };
    (1..RUN_MAX).take_while(dense).count() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_brought_when_a_quarter_of_it_was_demanded() {
        let density = Density::default();
        for entry in 0..DENSE - 1 {
            assert_eq!(density.note(entry * 4, 1000), None);
        }
        assert_eq!(density.note(30, 1000), Some(0..REGION));
        assert_eq!(density.note(31, 1000), None, "once");
    }

    #[test]
    fn regions_in_a_row_bring_ever_more_of_what_follows() {
        let density = Density::default();
        let brought = |entries: Range<u32>| -> Vec<Range<u32>> {
            entries
                .filter_map(|entry| density.note(entry, 10_000))
                .collect()
        };
        assert_eq!(brought(0..8), vec![0..32]);
        assert_eq!(brought(32..34), vec![32..96]);
        assert_eq!(brought(96..98), vec![96..224]);
        assert_eq!(brought(224..226), vec![224..480]);
    }

    #[test]
    fn a_reader_that_catches_up_has_the_next_run_begun_in_the_middle_of_the_last() {
        let density = Density::default();
        assert_eq!(density.caught_up(0, 10_000), None, "nothing is on its way");
        let note = |entries: Range<u32>| entries.filter_map(|at| density.note(at, 10_000)).count();
        assert_eq!(note(0..8), 1);
        assert_eq!(density.caught_up(31, 10_000), None, "one alone");
        assert_eq!(note(32..34), 1);
        // Regions 0 to 2 are dense.
        assert_eq!(density.caught_up(10, 10_000), None, "far from the end");
        assert_eq!(density.caught_up(40, 10_000), Some(96..192));
        assert_eq!(density.caught_up(70, 10_000), None, "once");
        assert_eq!(density.caught_up(96, 10_000), Some(192..384));
        assert_eq!(density.caught_up(192, 384), None, "the blob ends");
        assert_eq!(density.caught_up(383, 390), Some(384..390));
    }

    #[test]
    fn nothing_past_the_end_and_never_more_than_a_run() {
        let density = Density::default();
        let brought: Vec<_> = (0..20)
            .filter_map(|entry| density.note(entry, 20))
            .collect();
        assert_eq!(brought, vec![0..20]);
        let density = Density::default();
        let longest = (0..40 * REGION).filter_map(|entry| density.note(entry, u32::MAX));
        assert_eq!(longest.map(|range| range.len()).max(), Some(512));
        assert_eq!(Density::default().note(u32::MAX - 1, u32::MAX), None);
    }

    #[test]
    fn scattered_demands_bring_nothing() {
        let density = Density::default();
        for entry in (0..100_000).step_by(REGION as usize) {
            assert_eq!(density.note(entry, 100_000), None);
        }
    }
}
