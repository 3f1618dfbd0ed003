//! Bringing missing blob entries: one fetch per entry however many ask, demand before prefetch.
//!
//! ```text
//!  mount daemon ──fill──> ensure(Demand) ─┐
//!  profile, `lamina prefetch` ─> ensure(Ahead) ─┴─> claim ──> lane ──> ChunkReader ──> BlobFile ──> wake all
//! ```
//!
//! An entry is claimed by the first who wants it; everybody else waits for the same flight. Flights
//! run in tasks of their own: a caller that goes away does not stop them, the closing of the blob does.
//! Where from: stores that are directories, then other nodes ([`super::cluster`]), then stores, then whoever pulls the
//! layer ([`batch`]).
//! What is fetched ahead goes in smaller steps while anybody waits on demand ([`super::ahead`]).

mod batch;
mod counts;

use crate::agent::cluster::{Cluster, Member};
use crate::agent::sources::Source;
use crate::agent::space::{NoRoom, Space};
use crate::api::PeerCounts;
use batch::Batch;
pub(crate) use batch::Patience;
pub(crate) use counts::{FetchCounts, Via};
use lamina_flist::{BlobId, Sha256Digest};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Who asks for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A reader waits.
    Demand,
    /// Nobody waits yet, but a reader that goes from front to back is just behind.
    Follow,
    /// Nobody waits yet.
    Ahead,
    /// The same, and somebody asked for just this: not a guess.
    Asked,
    /// Nobody waits here, but other nodes do.
    Others,
}

/// Why an entry could not be brought. Shared by everybody who waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("fetch data of blob {blob}")]
    Store {
        blob: BlobId,
        source: Arc<lamina_store::ReadError>,
    },
    #[error("write data of blob {blob} into the cache")]
    Cache {
        blob: BlobId,
        source: Arc<lamina_mount::cache::CacheError>,
    },
    #[error("no data of blob {blob} from {stores} within {limit:?}")]
    Late {
        blob: BlobId,
        stores: String,
        limit: Duration,
    },
    #[error(transparent)]
    NoRoom(NoRoom),
    #[error("no other node gives data of blob {blob} of layer {layer}, and nobody pulled it")]
    Nodes { blob: BlobId, layer: Sha256Digest },
    #[error("no flist in use says where data of blob {blob} is stored")]
    Unplaced { blob: BlobId },
    #[error("blob {blob} was closed while its data was fetched")]
    Closed { blob: BlobId },
    #[error("the fetch of blob {blob} ended without a result")]
    Lost { blob: BlobId },
}

type Outcome = Option<Result<(), FetchError>>;
type Flights = HashMap<(BlobId, u32), watch::Receiver<Outcome>>;

/// Entries of one blob fetched by one task at most: 4 MiB of plain data at the average chunk size.
pub(crate) const BATCH_ENTRIES: usize = 64;
/// Entries under way for other nodes: 32 MiB at the average chunk size.
const FOR_OTHERS_MAX: usize = 512;
/// A demand that joined somebody else's fetch, and fails with it, tries this often: as a demand it may push out more,
/// and that one may have been near the end of its time.
const DEMAND_TRIES: usize = 3;

/// Brings entries.
pub(crate) struct Fetcher {
    flights: Mutex<Flights>,
    space: Arc<Space>,
    cluster: Arc<Cluster>,
    patience: Patience,
    for_others: Arc<Semaphore>,
}

/// A flight somebody waits for.
struct Awaited {
    outcome: watch::Receiver<Outcome>,
    /// Somebody else began it.
    joined: bool,
}

impl Fetcher {
    pub(crate) fn new(space: Arc<Space>, cluster: Arc<Cluster>, patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            flights: Mutex::default(),
            space,
            cluster,
            patience,
            for_others: Arc::new(Semaphore::new(FOR_OTHERS_MAX)),
        })
    }

    /// This machine's place among other nodes, if there are any.
    pub(crate) fn member(&self) -> Option<Arc<Member>> {
        self.cluster.member()
    }

    /// Requests to other nodes so far.
    pub(crate) fn peer_counts(&self) -> PeerCounts {
        self.cluster.counts()
    }

    /// Whether there are other nodes to ask, even since a moment ago. Inside a runtime.
    pub(crate) fn is_in_cluster_now(&self) -> bool {
        self.cluster.member_now().is_some()
    }

    /// Whether there are other nodes to ask.
    pub(crate) fn is_in_cluster(&self) -> bool {
        self.cluster.member().is_some()
    }

    /// Returns when every entry of the range is local, or with the first failure.
    ///
    /// There is no deadline here: the caller has one, and dropping the future is safe.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: Range<u32>,
        urgency: Urgency,
    ) -> Result<(), FetchError> {
        let ensured = self.ensure_open(source, entries, urgency);
        unless_closed(source, ensured).await
    }

    async fn ensure_open(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: Range<u32>,
        urgency: Urgency,
    ) -> Result<(), FetchError> {
        let lane = source.lane();
        let demand = urgency == Urgency::Demand;
        // Before the claim: a demand that joins a flight must find it flying, not queued.
        let _ahead = match &lane {
            Some(lane) if !demand => lane.enter_ahead().await,
            _ => None,
        };
        let _waiting = lane.as_ref().filter(|_| demand).map(|lane| lane.waits());
        let _hold = demand.then(|| source.holds.begin(entries.clone()));
        if demand {
            let needed = source.missing_cost(&entries);
            self.space.check_fits(needed).map_err(FetchError::NoRoom)?;
        }
        for _ in 1..DEMAND_TRIES {
            match self.fetch(source, entries.clone(), urgency).await {
                Err((_, true)) if demand && !source.is_closed() => {}
                outcome => return outcome.map_err(|(error, _)| error),
            }
        }
        let outcome = self.fetch(source, entries, urgency).await;
        outcome.map_err(|(error, _)| error)
    }

    /// The same for entries nobody waits for, which need not be neighbours.
    pub(crate) async fn ensure_ahead(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: &[u32],
        urgency: Urgency,
    ) -> Result<(), FetchError> {
        let fetched = async {
            let lane = source.lane();
            let _ahead = match &lane {
                Some(lane) => lane.enter_ahead().await,
                None => None,
            };
            let fetched = self.fetch(source, entries.iter().copied(), urgency);
            fetched.await.map_err(|(error, _)| error)
        };
        unless_closed(source, fetched).await
    }

    /// Sees to it that entries come because other nodes wait for them here; says whether all of them do. Inside a
    /// runtime.
    pub(crate) fn bring_for_others(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: &[u32],
    ) -> bool {
        let known = entries.iter().copied();
        let (new, _) = self.look(source, known.filter(|entry| *entry < source.entries()));
        let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
        let Ok(turn) = Arc::clone(&self.for_others).try_acquire_many_owned(count) else {
            return false;
        };
        if new.is_empty() {
            return true;
        }
        let (fetcher, source) = (Arc::clone(self), Arc::clone(source));
        tokio::spawn(async move {
            let _turn = turn;
            let fetched = fetcher.fetch(&source, new, Urgency::Others);
            let fetched = async { fetched.await.map_err(|(error, _)| error) };
            if let Err(error) = unless_closed(&source, fetched).await {
                tracing::debug!(%error, "fetch for other nodes");
            }
        });
        true
    }

    /// Those of the entries that are neither local nor on their way, and the first that is on its way.
    pub(crate) fn look(
        &self,
        source: &Source,
        entries: impl IntoIterator<Item = u32>,
    ) -> (Vec<u32>, Option<u32>) {
        let flights = self.flights.lock().expect("no panic while claiming");
        let absent = entries.into_iter().filter(|&entry| !source.has(entry));
        let (flying, new): (Vec<u32>, Vec<u32>) =
            absent.partition(|&entry| flights.contains_key(&(source.id, entry)));
        (new, flying.first().copied())
    }

    /// Claims and waits; an error comes with whether somebody else's flight failed.
    async fn fetch(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: impl IntoIterator<Item = u32>,
        urgency: Urgency,
    ) -> Result<(), (FetchError, bool)> {
        for mut flight in self.claim(source, entries, urgency) {
            let outcome = flight.outcome.wait_for(Option::is_some).await;
            outcome
                .ok()
                .and_then(|outcome| outcome.clone())
                .unwrap_or(Err(FetchError::Lost { blob: source.id }))
                .map_err(|error| (error, flight.joined))?;
        }
        Ok(())
    }

    /// Joins flights under way and starts flights for what nobody fetches yet.
    fn claim(
        self: &Arc<Self>,
        source: &Arc<Source>,
        entries: impl IntoIterator<Item = u32>,
        urgency: Urgency,
    ) -> Vec<Awaited> {
        let mut pending = Vec::new();
        let mut mine = Vec::new();
        let mut flights = self.flights.lock().expect("no panic while claiming");
        for entry in entries {
            if source.has(entry) {
                continue;
            }
            let key = (source.id, entry);
            if let Some(flight) = flights.get(&key) {
                pending.push(Awaited {
                    outcome: flight.clone(),
                    joined: true,
                });
                continue;
            }
            let (sender, receiver) = watch::channel(None);
            flights.insert(key, receiver.clone());
            pending.push(Awaited {
                outcome: receiver,
                joined: false,
            });
            mine.push((entry, sender));
        }
        drop(flights);
        while !mine.is_empty() {
            let rest = mine.split_off(mine.len().min(BATCH_ENTRIES));
            let batch = std::mem::replace(&mut mine, rest);
            let (fetcher, source) = (Arc::clone(self), Arc::clone(source));
            tokio::spawn(async move {
                // What is cut off here lands as lost; those who wait for it end, too.
                tokio::select! {
                    () = Batch::new(&fetcher, &source, batch, urgency).bring() => {}
                    () = source.closed() => {}
                }
            });
        }
        pending
    }
}

/// What comes of it, unless the blob is closed before: what still wants its data must not keep it open.
async fn unless_closed(
    source: &Source,
    work: impl Future<Output = Result<(), FetchError>>,
) -> Result<(), FetchError> {
    let closed = || FetchError::Closed { blob: source.id };
    tokio::select! {
        outcome = work => outcome.map_err(|error| match error {
            // A flight that was cut off may be seen first, and that no flist is left.
            FetchError::Lost { .. } | FetchError::Unplaced { .. } if source.is_closed() => closed(),
            other => other,
        }),
        () = source.closed() => Err(closed()),
    }
}

/// Flights of one batch; whatever is left when it drops has failed, so that nobody waits for ever.
struct Landing<'a> {
    fetcher: &'a Fetcher,
    blob: BlobId,
    open: BTreeMap<u32, watch::Sender<Outcome>>,
}

impl Landing<'_> {
    fn one(&mut self, entry: u32, outcome: Result<(), FetchError>) {
        if let Some(sender) = self.open.remove(&entry) {
            self.fetcher
                .flights
                .lock()
                .expect("no panic while landing")
                .remove(&(self.blob, entry));
            sender.send_replace(Some(outcome));
        }
    }

    /// All flights are gone before anybody hears: who tries again would join the rest of them.
    fn all(&mut self, error: &FetchError) {
        let open = std::mem::take(&mut self.open);
        if open.is_empty() {
            return;
        }
        let mut flights = self.fetcher.flights.lock().expect("no panic while landing");
        for entry in open.keys() {
            flights.remove(&(self.blob, *entry));
        }
        drop(flights);
        for sender in open.into_values() {
            sender.send_replace(Some(Err(error.clone())));
        }
    }
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.all(&FetchError::Lost { blob: self.blob });
    }
}

#[cfg(test)]
mod tests;
