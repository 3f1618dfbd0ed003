//! A read on its way through the cluster: parts of it from several nodes at once, each from the best one, then the next.

mod part;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ask::{Piece, Want};
use super::member::Member;
use super::swarm;
use part::Part;

/// Entries that are not divided: about a MiB, whose time is not yet its bytes'.
const PART_ENTRIES_MIN: usize = 16;
/// Parts of a read: with more, small requests cost more than they bring.
const PARTS_MAX: usize = 4;

/// How far a read goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// When it must be over.
    pub(crate) until: Instant,
    /// Nobody else is asked behind it: wait for those who are busy, have layers pulled, and try again and again.
    pub(crate) is_last: bool,
    /// A reader waits.
    pub(crate) is_demand: bool,
    /// Other nodes wait for it here: we are the one that fetches it for all.
    pub(crate) is_for_others: bool,
}

impl Member {
    /// Whether other nodes read the same, as far as is known: then they give each other what they have.
    pub(crate) fn is_shared(&self, want: &Want) -> bool {
        let known = self.known.layer(&want.layer).offered_before();
        !known.readers(&want.blob).is_empty()
    }

    /// Brings entries of `want`, each once, verified; gives those that could not be had.
    pub(crate) async fn read(
        self: &Arc<Self>,
        want: &Arc<Want>,
        entries: &[u32],
        how: How,
        pieces: mpsc::Sender<Piece>,
    ) -> Vec<u32> {
        let layer = self.known.layer(&want.layer);
        let offered = layer.offered(self, &want.layer, false).await;
        let readers = match layer.luck.is_good() && !how.is_for_others {
            true => offered.readers(&want.blob),
            false => Vec::new(),
        };
        let mut parts = JoinSet::new(); // aborts them when dropped
        for (fetcher, entries) in swarm::shares(self.node(), &readers, &want.blob, entries) {
            for entries in split(&entries) {
                let mut part = Part::new(self, want, entries, how, pieces.clone());
                part.first = fetcher.cloned();
                parts.spawn(part.bring());
            }
        }
        drop(pieces);
        let mut left = BTreeSet::new();
        while let Some(ended) = parts.join_next().await {
            // One that was cut off is as one that brought nothing: whoever counts what came knows better.
            left.extend(ended.unwrap_or_default());
        }
        left.into_iter().collect()
    }
}

/// Neighbours stay together: they are next to each other at whoever has them, too.
fn split(entries: &[u32]) -> impl Iterator<Item = &[u32]> {
    let parts = entries.len().div_ceil(PART_ENTRIES_MIN).clamp(1, PARTS_MAX);
    entries.chunks(entries.len().div_ceil(parts).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_entries_stay_together_and_many_are_dealt_out_evenly() {
        let sizes = |count: u32| {
            let entries: Vec<u32> = (0..count).collect();
            let sizes: Vec<usize> = split(&entries).map(<[u32]>::len).collect();
            assert_eq!(sizes.iter().sum::<usize>(), entries.len());
            sizes
        };
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(16), [16]);
        assert_eq!(sizes(17), [9, 8]);
        assert_eq!(sizes(64), [16, 16, 16, 16]);
        assert_eq!(sizes(1000), [250, 250, 250, 250]);
    }
}
