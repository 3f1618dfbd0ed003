//! One batch of entries on its way: from one place after the other, each through its lane, into the cache.
//!
//! ```text
//! stores that are directories ──> other nodes ──> stores of one flist after the other ──> whoever pulls the layer
//! ```

use super::{FetchError, Fetcher, Landing, Outcome, Urgency, Via};
use crate::agent::cluster::{Giver, How, Image, Member, Piece, Want};
use crate::agent::sources::{Provider, Source};
use crate::agent::space::Reservation;
use futures::StreamExt;
use lamina_store::{ChunkSource, ReadError, StoreOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

/// How long a batch may take, waiting for its turn and for room included, plus what its bytes take on
/// a slow line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// At the stores of one flist, while another flist may say where else the data is.
    pub(crate) another: Duration,
    /// Until the last one has failed: below the minute a reader waits, so that it hears the reason.
    pub(crate) last: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            another: Duration::from_secs(20),
            last: Duration::from_secs(45),
        }
    }
}

/// Entries of one blob, fetched by one task.
pub(super) struct Batch<'a> {
    fetcher: &'a Fetcher,
    source: &'a Arc<Source>,
    urgency: Urgency,
    landing: Landing<'a>,
    room: Option<Reservation>,
}

/// Where entries are looked for.
#[derive(Clone, Copy)]
enum Place<'p> {
    /// A flist's stores.
    Stores(&'p Provider),
    /// Nodes that have its layer.
    Nodes(&'p Provider),
    /// The same, waiting for them, and whoever is to pull it.
    NodesAtLast(&'p Provider),
}

/// Chunks from nodes that wait to be written: with the largest ones 2 MiB.
const ARRIVED_MAX: usize = 8;

/// What could not be had, and why.
type Failures = BTreeMap<u32, FetchError>;

/// Why a stream ended early.
enum Cut {
    Failed(ReadError),
    Late,
}

impl<'a> Batch<'a> {
    pub(super) fn new(
        fetcher: &'a Fetcher,
        source: &'a Arc<Source>,
        claimed: Vec<(u32, watch::Sender<Outcome>)>,
        urgency: Urgency,
    ) -> Self {
        let landing = Landing {
            fetcher,
            blob: source.id,
            open: claimed.into_iter().collect(),
        };
        Self {
            fetcher,
            source,
            urgency,
            landing,
            room: None,
        }
    }

    /// Fetches entries until each has landed: from one place, and what that cannot give from the next one. Stores that
    /// lately were late come last.
    pub(super) async fn bring(mut self) {
        let mut entries: Vec<u32> = self.landing.open.keys().copied().collect();
        // What nobody may be asked for stays so.
        let mut failures = self.unplaced(&entries);
        let mut providers = self.source.providers();
        providers.sort_by_key(|provider| provider.lane.is_late());
        let patience = &self.fetcher.patience;
        let extra = self.slow_line(&entries);
        let end = Instant::now() + patience.last + extra;
        let another = patience.another + extra;
        let places = places(&providers, self.fetcher.is_in_cluster());
        for (at, place) in places.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            let limit = share(left, places.len() - at, another);
            let failed = match place {
                Place::Stores(provider) => self.bring_via(provider, &entries, limit).await,
                Place::Nodes(provider) => self.ask_nodes(provider, &entries, limit, false).await,
                Place::NodesAtLast(provider) => {
                    self.ask_nodes(provider, &entries, limit, true).await
                }
            };
            entries = failed.keys().copied().collect();
            failures = worse(&failures, failed);
            if failures.is_empty() {
                return;
            }
        }
        for (entry, error) in failures {
            self.landing.one(entry, Err(error));
        }
    }

    /// What other nodes have, verified there ([`crate::agent::cluster`]).
    async fn ask_nodes(
        &mut self,
        provider: &Provider,
        entries: &[u32],
        limit: Duration,
        is_last: bool,
    ) -> Failures {
        let deadline = Instant::now() + limit;
        let Some(layer) = provider.layer else {
            return self.unplaced(entries);
        };
        let blob = self.source.id;
        let bytes: u64 = entries.iter().map(|&e| self.source.entry_len(e)).sum();
        let nothing = || FetchError::Nodes { blob, layer };
        let is_for_others = self.urgency == Urgency::Others;
        // In a lane of their own, what is fetched for others never waits behind what waits for them.
        let lane = match is_for_others {
            true => &provider.for_nodes,
            false => &provider.nodes,
        };
        let entering = timeout_at(deadline, lane.enter(bytes));
        let Ok(_underway) = entering.await else {
            return entries.iter().map(|&e| (e, nothing())).collect();
        };
        let taken = |_late| Err(FetchError::NoRoom(self.fetcher.space.taken()));
        let room = timeout_at(deadline, self.make_room(entries)).await;
        if let Err(error) = room.unwrap_or_else(taken) {
            self.landing.all(&error);
            return Failures::new();
        }
        let want = Arc::new(Want {
            layer,
            blob,
            image: Image::clone(&provider.image),
            chunks: entries.iter().map(|&e| (e, self.source.chunk(e))).collect(),
        });
        let how = How {
            until: deadline,
            is_last,
            is_demand: self.urgency == Urgency::Demand,
            is_for_others,
        };
        let mut missing = entries.to_vec();
        // Once, or again where the certificates have become others meanwhile.
        while let Some(member) = self.fetcher.cluster.member() {
            provider.nodes.note_shared(member.is_shared(&want));
            self.read_from(&member, &want, &missing, how).await;
            missing.retain(|entry| self.landing.open.contains_key(entry));
            if missing.is_empty() || !member.is_over() || Instant::now() >= deadline {
                break;
            }
        }
        missing.iter().map(|&e| (e, nothing())).collect()
    }

    async fn read_from(
        &mut self,
        member: &Arc<Member>,
        want: &Arc<Want>,
        entries: &[u32],
        how: How,
    ) {
        let (sender, mut pieces) = mpsc::channel(ARRIVED_MAX);
        let reading = member.read(want, entries, how, sender);
        // What arrives is written while more is asked for.
        let landing = async {
            while let Some(piece) = pieces.recv().await {
                self.land_piece(piece).await;
            }
        };
        tokio::join!(reading, landing);
    }

    async fn land_piece(&mut self, piece: Piece) {
        let via = match piece.giver {
            Giver::Peer | Giver::OwnCopy => Via::Peer,
            Giver::OwnPull => Via::Registry,
        };
        self.land(piece.entry, piece.plain, piece.stored_len, via)
            .await;
    }

    fn unplaced(&self, entries: &[u32]) -> Failures {
        let blob = self.source.id;
        let unplaced = |entry: &u32| (*entry, FetchError::Unplaced { blob });
        entries.iter().map(unplaced).collect()
    }

    fn slow_line(&self, entries: &[u32]) -> Duration {
        let bytes: u64 = entries.iter().map(|&e| self.source.entry_len(e)).sum();
        Duration::from_millis(bytes.saturating_mul(1000) / StoreOptions::BYTES_PER_SECOND_MIN)
    }

    /// One provider's try, in its lane; gives what it could not bring in time.
    async fn bring_via(
        &mut self,
        provider: &Provider,
        entries: &[u32],
        limit: Duration,
    ) -> Failures {
        let bytes: u64 = entries.iter().map(|&e| self.source.entry_len(e)).sum();
        let deadline = Instant::now() + limit;
        let entering = timeout_at(deadline, provider.lane.enter(bytes));
        let Ok(_underway) = entering.await else {
            return self.late(provider, entries, limit);
        };
        let taken = |_late| Err(FetchError::NoRoom(self.fetcher.space.taken()));
        let room = timeout_at(deadline, self.make_room(entries)).await;
        if let Err(error) = room.unwrap_or_else(taken) {
            self.landing.all(&error);
            return Failures::new();
        }
        self.bring_from(provider, entries, limit, deadline).await
    }

    /// Once, and only when it is this batch's turn: what waits for a slow store keeps no room.
    async fn make_room(&mut self, entries: &[u32]) -> Result<(), FetchError> {
        if self.room.is_none() {
            let bytes = entries.iter().map(|&e| self.source.entry_cost(e)).sum();
            let room = self.fetcher.space.reserve(bytes, self.urgency).await;
            self.room = Some(room.map_err(FetchError::NoRoom)?);
        }
        Ok(())
    }

    /// A failed request says which chunk could not be had; the others of the batch are asked for again
    /// without it.
    async fn bring_from(
        &mut self,
        provider: &Provider,
        entries: &[u32],
        limit: Duration,
        deadline: Instant,
    ) -> Failures {
        let mut entries = entries.to_vec();
        let mut failures = Failures::new();
        while !entries.is_empty() {
            let located: Option<Vec<_>> = entries.iter().map(|&e| provider.locate(e)).collect();
            let Some(wanted) = located else {
                failures.extend(self.unplaced(&entries));
                return failures;
            };
            match self.stream(provider, &entries, &wanted, deadline).await {
                None => return failures,
                Some(Cut::Late) => {
                    entries.retain(|entry| self.landing.open.contains_key(entry));
                    failures.extend(self.late(provider, &entries, limit));
                    return failures;
                }
                Some(Cut::Failed(error)) => {
                    self.note_failure(error, &entries, &wanted, &mut failures);
                }
            }
            entries.retain(|entry| {
                self.landing.open.contains_key(entry) && !failures.contains_key(entry)
            });
        }
        failures
    }

    fn note_failure(
        &self,
        error: ReadError,
        entries: &[u32],
        wanted: &[ChunkSource],
        failures: &mut Failures,
    ) {
        let (blob, chunk) = (self.source.id, error.chunk);
        tracing::warn!(%blob, %chunk, error = crate::chain(&error), "fetch");
        let source = Arc::new(error);
        for (&entry, wanted) in entries.iter().zip(wanted) {
            if wanted.chunk.id == chunk {
                let source = Arc::clone(&source);
                failures.insert(entry, FetchError::Store { blob, source });
            }
        }
    }

    fn late(&self, provider: &Provider, entries: &[u32], limit: Duration) -> Failures {
        provider.lane.note_late();
        let error = FetchError::Late {
            blob: self.source.id,
            stores: provider.lane.to_string(),
            limit,
        };
        tracing::warn!(%error, "fetch");
        entries.iter().map(|&e| (e, error.clone())).collect()
    }

    /// Lands entries as their chunks arrive, until all did, a request failed, or it is late.
    async fn stream(
        &mut self,
        provider: &Provider,
        entries: &[u32],
        wanted: &[ChunkSource],
        deadline: Instant,
    ) -> Option<Cut> {
        let reader = provider.reader.as_ref()?;
        let mut arriving = std::pin::pin!(reader.stream(wanted));
        loop {
            match timeout_at(deadline, arriving.next()).await {
                Ok(Some(Ok((at, plain)))) => {
                    let stored = wanted[at].chunk.stored_len;
                    self.land(entries[at], plain, stored, Via::Store).await;
                }
                Ok(Some(Err(error))) => return Some(Cut::Failed(error)),
                Ok(None) => return None,
                Err(_late) => return Some(Cut::Late),
            }
        }
    }

    async fn land(&mut self, entry: u32, plain: bytes::Bytes, stored_len: u32, via: Via) {
        let how = (via, self.urgency);
        let kept = self.source.keep(entry, plain, stored_len, how).await;
        if let (Ok(true), Some(room)) = (&kept, &mut self.room) {
            room.land(self.source.entry_cost(entry));
        }
        self.landing.one(entry, kept.map(drop));
    }
}

/// Where a batch looks, in this order. A directory is nearer than any node; what is further away is asked when no node
/// has it, so that it is read once for all of them.
fn places(providers: &[Provider], is_in_cluster: bool) -> Vec<Place<'_>> {
    let (near, far): (Vec<&Provider>, Vec<&Provider>) = providers
        .iter()
        .filter(|provider| provider.reader.is_some())
        .partition(|provider| provider.is_near());
    let of_layer = providers
        .iter()
        .find(|p| p.layer.is_some() && is_in_cluster);
    let mut places: Vec<Place<'_>> = near.into_iter().map(Place::Stores).collect();
    if let Some(provider) = of_layer.filter(|_| !far.is_empty()) {
        places.push(Place::Nodes(provider));
    }
    places.extend(far.into_iter().map(Place::Stores));
    places.extend(of_layer.map(Place::NodesAtLast));
    places
}

/// Of what failed and what failed again, why: a store says more than that no node has it.
fn worse(before: &Failures, again: Failures) -> Failures {
    let worse = |(entry, error): (u32, FetchError)| match (before.get(&entry), &error) {
        (
            Some(store @ (FetchError::Store { .. } | FetchError::Late { .. })),
            FetchError::Nodes { .. },
        ) => (entry, store.clone()),
        _ => (entry, error),
    };
    again.into_iter().map(worse).collect()
}

/// What the next of `providers` may take of the time left: each of them gets its part of it.
fn share(left: Duration, providers: usize, another: Duration) -> Duration {
    match u32::try_from(providers) {
        Ok(providers @ 2..) => another.min(left / providers),
        _ => left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_batch_is_shared_and_never_exceeded() {
        let seconds = Duration::from_secs;
        let another = seconds(20);
        assert_eq!(share(seconds(45), 1, another), seconds(45));
        assert_eq!(share(seconds(45), 2, another), seconds(20));
        assert_eq!(share(seconds(45), 3, another), seconds(15));
        for providers in 1..10 {
            let mut left = seconds(45);
            for rest in (1..=providers).rev() {
                left -= share(left, rest, another);
            }
            assert_eq!(left, Duration::ZERO);
        }
    }
}
