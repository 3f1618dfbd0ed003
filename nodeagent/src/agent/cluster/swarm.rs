//! Many nodes that read one layer at the same time: each chunk is fetched from the few that have it by one of them, and
//! passed on to the others.
//!
//! Which one is agreed upon without a word: entries are dealt out in runs, each to the reader with the highest hash of
//! its name and the run (rendezvous hashing: Thaler and Ravishankar, 1998). The others ask that one first, and it
//! fetches what it lacks. Whoever does not get what was asked for that way fetches for itself, and soon does not ask so
//! any more.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::NodeId;
use lamina_flist::BlobId;

use super::ask::SILENCE_WAITING;

/// Entries of a run, about 128 KiB: what is read ahead at once are runs of many nodes, whose cables then all carry some.
const RUN: u32 = 2;
/// How long whoever fetches may be about to have something, while a reader waits and while nobody does.
const WAIT_DEMAND: Duration = Duration::from_millis(80);
const WAIT_AHEAD: Duration = Duration::from_secs(20);
/// Nothing of a request for so long, and it is time to ask others.
pub(super) const SLOW: Duration = Duration::from_secs(3);
/// Disappointments are remembered for so long, and so many outweigh all successes before.
const SULK: Duration = Duration::from_secs(3);
const LUCK_MAX: i32 = 8;
/// What whoever has not asked so yet believes.
const LUCK_FIRST: i32 = 6;
/// One of them weighs as much as this many successes.
const DISAPPOINTMENT: i32 = 2;

/// How long who is to fetch may take until it has something.
pub(super) fn wait(is_demand: bool) -> Duration {
    if is_demand { WAIT_DEMAND } else { WAIT_AHEAD }
}

/// How long nothing may come from it meanwhile.
pub(super) fn silence(is_demand: bool) -> Duration {
    if is_demand {
        WAIT_DEMAND
    } else {
        SILENCE_WAITING
    }
}

/// Entries by who is to fetch them for all; `None`: we are.
pub(super) fn shares<'n>(
    me: &NodeId,
    readers: &[&'n NodeId],
    blob: &BlobId,
    entries: &[u32],
) -> BTreeMap<Option<&'n NodeId>, Vec<u32>> {
    let mut shares: BTreeMap<Option<&NodeId>, Vec<u32>> = BTreeMap::new();
    for &entry in entries {
        let run = entry / RUN;
        let best = readers
            .iter()
            .max_by_key(|reader| (score(reader, blob, run), **reader));
        let own = score(me, blob, run);
        let best = best.filter(|reader| (score(reader, blob, run), **reader) > (own, me));
        shares.entry(best.copied()).or_default().push(entry);
    }
    shares
}

fn score(reader: &NodeId, blob: &BlobId, run: u32) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(blob.as_bytes()).update(&run.to_le_bytes());
    *hasher
        .update(reader.as_str().as_bytes())
        .finalize()
        .as_bytes()
}

/// Whether those who were to fetch for us did, lately.
#[derive(Debug)]
pub(super) struct Luck(Mutex<(i32, Option<Instant>)>);

impl Default for Luck {
    fn default() -> Self {
        Self(Mutex::new((LUCK_FIRST, None)))
    }
}

impl Luck {
    /// Whether it is worth asking so.
    pub(super) fn is_good(&self) -> bool {
        let (luck, bad) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        luck >= 0 || bad.is_none_or(|at| at.elapsed() >= SULK)
    }

    pub(super) fn note(&self, is_good: bool) {
        let mut luck = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let step = if is_good { 1 } else { -DISAPPOINTMENT };
        luck.0 = (luck.0 + step).clamp(-DISAPPOINTMENT, LUCK_MAX);
        if !is_good {
            luck.1 = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_names_the_same_one_and_the_work_is_even() {
        let ids: Vec<NodeId> = (0..8)
            .map(|n| NodeId::parse(&format!("n{n}")).unwrap())
            .collect();
        let (blob, entries) = (BlobId::of(b"any"), (0..RUN * 800).collect::<Vec<u32>>());
        let mut fetched_by = BTreeMap::new();
        for me in &ids {
            let others: Vec<&NodeId> = ids.iter().filter(|id| *id != me).collect();
            let shares = shares(me, &others, &blob, &entries);
            assert_eq!(shares.values().map(Vec::len).sum::<usize>(), entries.len());
            for (fetcher, entries) in shares {
                let fetcher = fetcher.unwrap_or(me);
                let known = fetched_by.entry(fetcher).or_insert_with(|| entries.clone());
                assert_eq!(*known, entries, "{me} says otherwise of {fetcher}");
            }
        }
        for (id, entries) in &fetched_by {
            let runs = entries.len() as u32 / RUN;
            assert!((60..=140).contains(&runs), "{id}: {runs} of 100");
        }
        let alone = shares(&ids[0], &[], &blob, &entries);
        assert_eq!(alone[&None].len(), entries.len());
    }

    #[test]
    fn who_is_disappointed_soon_fetches_for_itself() {
        let luck = Luck::default();
        (0..4).for_each(|_| {
            assert!(luck.is_good());
            luck.note(false);
        });
        assert!(!luck.is_good());
        (0..20).for_each(|_| luck.note(true));
        (0..4).for_each(|_| luck.note(false));
        assert!(luck.is_good(), "as often as it was good before");
        luck.note(false);
        assert!(!luck.is_good());
    }
}
