//! Recognising readers that will want a whole part of a blob: somebody copies a tree, or jumps about
//! in a large library.
//!
//! A blob is looked at in regions. One of which a part was demanded is brought whole; regions in a row
//! bring ever more of what follows, whatever files that belongs to: files lie in the blob in the order
//! of their layer, and who reads many of them reads them about in that order.

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
        let last = region + run.min(RUN_MAX - 1);
        for region in region..=last {
            regions.insert(region, Region::Dense);
        }
        let end = last.saturating_add(1).saturating_mul(REGION).min(count);
        Some(region * REGION..end)
    }
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
