//! Who may fetch how much at once: a lane per set of stores, and one bound for all of them.
//!
//! A store that hangs keeps what was asked of it for as long as its deadlines allow. In a lane of its
//! own it keeps only those who want its data; readers of other stores do not queue behind it, however
//! many hang at once: a lane never waits for others for its fair share of the bound ([`total`]).

mod total;

use lamina_flist::Sha256Digest;
use lamina_store::ChunkReader;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit};
use total::{Share, Taken, Total};

/// Batches under way at once in a lane: enough to fill a fast link at 10 ms.
const BATCHES_MAX: usize = 16;
/// Of them for data nobody waits for: what is in flight ahead delays a demand read by its length.
const AHEAD_MAX: usize = 6;
/// The same to other nodes: of a batch from many of them most is soon there, and the rest a good deal later.
const BATCHES_TO_NODES_MAX: usize = 24;
const AHEAD_TO_NODES_MAX: usize = 14;
/// Plain data in flight in a lane, in KiB: two of the largest batches, sixteen of ordinary ones.
const LANE_KIB: u32 = 32 << 10;
/// Plain data in flight in all lanes, in KiB: bounds the agent's memory, but for the fair shares of many
/// lanes at once.
const TOTAL_KIB: u32 = 256 << 10;

/// Stores that were late are asked last for this long.
const LATE_FOR: Duration = Duration::from_secs(30);

/// Every lane in use.
#[derive(Debug)]
pub(crate) struct Lanes {
    open: Mutex<HashMap<String, Weak<Lane>>>,
    total: Arc<Total>,
}

/// What is at the end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Stores,
    Nodes,
}

/// The way to one set of stores.
#[derive(Debug)]
pub(crate) struct Lane {
    stores: String,
    /// Many nodes at its end read what we do.
    is_shared: AtomicBool,
    slots: Semaphore,
    ahead: Semaphore,
    kib: Semaphore,
    share: Share,
    /// Readers waiting on demand.
    waiting: AtomicU64,
    /// When a batch last ran out of time.
    late: Mutex<Option<Instant>>,
}

/// The right to have a batch under way; ends on drop.
#[derive(Debug)]
pub(crate) struct Underway<'a> {
    _slot: Option<SemaphorePermit<'a>>,
    _own: Option<SemaphorePermit<'a>>,
    _total: Taken<'a>,
}

/// One reader waiting on demand.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a AtomicU64);

impl Lanes {
    pub(crate) fn new() -> Self {
        Self {
            open: Mutex::default(),
            total: Arc::new(Total::new(TOTAL_KIB)),
        }
    }

    /// The lane to the nodes that have a layer: one that nobody has, and that has to be pulled, keeps only its own
    /// readers waiting.
    pub(crate) fn to_nodes(&self, layer: Option<&Sha256Digest>) -> Arc<Lane> {
        self.nodes("other nodes", layer)
    }

    /// The same for what is fetched on behalf of other nodes.
    pub(crate) fn for_nodes(&self, layer: Option<&Sha256Digest>) -> Arc<Lane> {
        self.nodes("other nodes on behalf of others", layer)
    }

    fn nodes(&self, whose: &str, layer: Option<&Sha256Digest>) -> Arc<Lane> {
        let layer = layer.map_or_else(|| "no layer".to_owned(), Sha256Digest::to_string);
        self.named(format!("{whose}, for {layer}"), End::Nodes)
    }

    /// The lane to a reader's stores: the same for everybody who reads from these.
    pub(crate) fn of(&self, reader: &ChunkReader) -> Arc<Lane> {
        let mut names: Vec<String> = reader
            .stores()
            .stores()
            .map(|(_, store)| store.name().to_owned())
            .collect();
        names.sort();
        names.dedup();
        self.named(names.join(", "), End::Stores)
    }

    fn named(&self, stores: String, end: End) -> Arc<Lane> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, lane| lane.strong_count() > 0);
        if let Some(lane) = open.get(&stores).and_then(Weak::upgrade) {
            return lane;
        }
        let (slots, ahead) = match end {
            End::Stores => (BATCHES_MAX, AHEAD_MAX),
            End::Nodes => (BATCHES_TO_NODES_MAX, AHEAD_TO_NODES_MAX),
        };
        let lane = Arc::new(Lane {
            is_shared: AtomicBool::new(false),
            stores: stores.clone(),
            slots: Semaphore::new(slots),
            ahead: Semaphore::new(ahead),
            kib: Semaphore::new(LANE_KIB as usize),
            share: Share::of(&self.total),
            waiting: AtomicU64::new(0),
            late: Mutex::default(),
        });
        open.insert(stores, Arc::downgrade(&lane));
        lane
    }
}

impl Lane {
    /// Waits for the right to fetch `bytes` of plain data. Its own lane first: who waits there keeps
    /// nothing from the others.
    pub(crate) async fn enter(&self, bytes: u64) -> Underway<'_> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(LANE_KIB);
        let kib = kib.clamp(1, LANE_KIB);
        // Nobody closes these semaphores.
        let slot = self.slots.acquire().await.ok();
        let own = self.kib.acquire_many(kib).await.ok();
        Underway {
            _slot: slot,
            _own: own,
            _total: self.share.take(kib).await,
        }
    }

    /// Waits for the right to fetch what nobody waits for.
    pub(crate) async fn enter_ahead(&self) -> Option<SemaphorePermit<'_>> {
        self.ahead.acquire().await.ok()
    }

    /// Notes a reader that waits, until the value returned is dropped.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    /// Notes that a batch ran out of time here.
    pub(crate) fn note_late(&self) {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether one did lately: if somebody else has the data, they should be asked first.
    pub(crate) fn is_late(&self) -> bool {
        let late = *self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.is_some_and(|at| at.elapsed() < LATE_FOR)
    }

    /// Notes whether other nodes at its end read what we do, and give each other what they have.
    pub(crate) fn note_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    /// Whether they do.
    pub(crate) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    /// Whether a reader waits on demand.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Display for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.stores)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn a_full_lane_does_not_keep_others_waiting() {
        let lanes = Lanes::new();
        let (dead, healthy) = (
            lanes.named("dead".into(), End::Stores),
            lanes.named("healthy".into(), End::Stores),
        );
        let held: Vec<_> = (0..BATCHES_MAX)
            .map(|_| dead.enter(1 << 20).now_or_never().unwrap())
            .collect();
        assert!(dead.enter(1).now_or_never().is_none());
        assert!(healthy.enter(1 << 20).now_or_never().is_some());
        drop(held);
        assert!(dead.enter(1).now_or_never().is_some());
    }

    #[test]
    fn however_many_sets_of_stores_hang_another_gets_its_share() {
        let lanes = Lanes::new();
        let hanging: Vec<_> = (0..3 * TOTAL_KIB / LANE_KIB)
            .map(|lane| lanes.named(lane.to_string(), End::Stores))
            .collect();
        let mut held = Vec::new();
        for lane in &hanging {
            while let Some(underway) = lane.enter(4 << 20).now_or_never() {
                held.push(underway);
            }
        }
        let healthy = lanes.named("healthy".into(), End::Stores);
        let largest = 16 << 20;
        assert!(healthy.enter(largest).now_or_never().is_some());
        assert!(hanging[0].enter(1).now_or_never().is_none());
    }

    #[test]
    fn the_same_stores_share_a_lane_while_it_is_used() {
        let lanes = Lanes::new();
        let lane = lanes.named("a".into(), End::Stores);
        assert!(Arc::ptr_eq(&lane, &lanes.named("a".into(), End::Stores)));
        assert!(!Arc::ptr_eq(&lane, &lanes.named("b".into(), End::Stores)));
        let _another = lanes.named("c".into(), End::Stores);
        assert!(!lanes.open.lock().unwrap().contains_key("b"), "unused");
    }
}
