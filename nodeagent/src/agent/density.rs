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
    /// Notes a demand; what should be brought because of it, of a blob with `count` entries.
    pub(crate) fn note(&self, demand: &Range<u32>, count: u32) -> Vec<Range<u32>> {
        let mut regions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = Vec::new();
        for region in demand.start / REGION..demand.end.div_ceil(REGION) {
            let span = region * REGION..region.saturating_add(1).saturating_mul(REGION).min(count);
            let here = demand
                .end
                .min(span.end)
                .saturating_sub(demand.start.max(span.start));
            let before = match regions.get(&region) {
                Some(Region::Dense) => continue,
                Some(Region::Demanded(before)) => *before,
                None => 0,
            };
            let run = dense_before(&regions, region);
            let enough = if run > 0 { DENSE_NEXT } else { DENSE };
            if before + here < enough {
                regions.insert(region, Region::Demanded(before + here));
                continue;
            }
            let last = region + run.min(RUN_MAX - 1);
            for region in region..=last {
                regions.insert(region, Region::Dense);
            }
            let end = last.saturating_add(1).saturating_mul(REGION).min(count);
            wanted.push(span.start..end.max(span.start));
        }
        wanted
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

    /// What a demand brings, as first entry and end.
    fn brought(density: &Density, demand: Range<u32>, count: u32) -> Vec<(u32, u32)> {
        let ranges = density.note(&demand, count);
        ranges
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    }

    #[test]
    fn a_region_is_brought_when_a_quarter_of_it_was_demanded() {
        let density = Density::default();
        for entry in 0..DENSE - 1 {
            assert_eq!(brought(&density, entry * 4..entry * 4 + 1, 1000), []);
        }
        assert_eq!(brought(&density, 30..31, 1000), [(0, REGION)]);
        assert_eq!(brought(&density, 31..32, 1000), [], "once");
    }

    #[test]
    fn regions_in_a_row_bring_ever_more_of_what_follows() {
        let density = Density::default();
        assert_eq!(brought(&density, 0..DENSE, 10_000), [(0, 32)]);
        assert_eq!(brought(&density, 32..33, 10_000), []);
        assert_eq!(brought(&density, 40..41, 10_000), [(32, 96)]);
        assert_eq!(brought(&density, 96..98, 10_000), [(96, 224)]);
        assert_eq!(brought(&density, 224..226, 10_000), [(224, 480)]);
    }

    #[test]
    fn nothing_past_the_end_and_never_more_than_a_run() {
        let density = Density::default();
        assert_eq!(brought(&density, 0..20, 20), [(0, 20)]);
        let density = Density::default();
        for region in 0..40 {
            let first = region * REGION;
            for (start, end) in brought(&density, first..first + DENSE, u32::MAX) {
                assert!(end - start <= RUN_MAX * REGION);
            }
        }
        assert_eq!(
            brought(&Density::default(), u32::MAX - 1..u32::MAX, u32::MAX),
            []
        );
    }

    #[test]
    fn scattered_demands_bring_nothing() {
        let density = Density::default();
        for entry in (0..100_000).step_by(REGION as usize) {
            assert_eq!(brought(&density, entry..entry + 1, 100_000), []);
        }
    }
}
