//! Who has which layer, as discovery said last.
//!
//! Always: discovery is asked once for a layer however many want to know; what it said stays, however old, while it
//! cannot be asked, and then those are asked as well who had a layer without being named for it, and who had only parts:
//! they may have more by now; names and addresses that make no sense are left out.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_discovery::NodeId;
use lamina_discovery::choose::Provider;
use lamina_discovery::client::AskError;
use lamina_discovery::node_id::check_endpoint;
use lamina_discovery::sections::Sections;
use lamina_flist::{BlobId, Sha256Digest};
use lamina_proto::lamina::v1::PartialHolder;

use super::member::Member;
use super::swarm::Luck;

/// What discovery said is true for about so long.
const FRESH: Duration = Duration::from_secs(5);
/// It is not asked about one layer more often.
const ASK_GAP: Duration = Duration::from_millis(200);
/// Layers remembered; the one asked about longest ago is forgotten.
const LAYERS_MAX: usize = 4096;
/// While no more nodes than this have a layer whole, those who have parts are asked first, and are asked about more
/// often: then many read at once.
const FEW: usize = 3;
const FRESH_FEW: Duration = Duration::from_secs(2);
/// At the beginning, while nobody else seems to read it: who began at the same time is about to be known.
const FRESH_ALONE: Duration = Duration::from_millis(250);
const BEGINNING: Duration = Duration::from_secs(3);
/// Nodes remembered that had a layer and are not named for it.
const ONCE_MAX: usize = 8;
/// Who asks about it after so long begins anew.
const ANEW: Duration = Duration::from_secs(30);

/// Every layer that somebody wanted to read.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<Sha256Digest, Arc<Layer>>>);

/// One layer.
#[derive(Default)]
pub(super) struct Layer {
    said: Mutex<Said>,
    asking: tokio::sync::Mutex<()>,
    /// Held by the one that has it pulled.
    pub(super) pulling: tokio::sync::Mutex<()>,
    /// How it went with those who were to fetch for us.
    pub(super) luck: Luck,
    /// Who pulled it for us last: discovery may not know yet.
    brought: Mutex<Option<(Holder, Instant)>>,
}

#[derive(Default)]
struct Said {
    offered: Arc<Offered>,
    asked: Option<Instant>,
    /// The first time of those that followed each other closely.
    began: Option<Instant>,
    in_doubt: bool,
    /// Discovery did not answer the last time.
    failed: bool,
    /// Who had all of it and is not named: it pulled it for us a moment ago, or discovery lost sight of it.
    once: VecDeque<Holder>,
}

/// Who has a layer.
#[derive(Debug, Clone, Default)]
pub(super) struct Offered {
    holders: Vec<Holder>,
    /// Our own layerstore has it.
    pub(super) own: bool,
    /// Discovery asks us to come again.
    pub(super) rationed: bool,
    /// Discovery is silent since.
    unheard: bool,
}

/// A node that has a layer.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) id: NodeId,
    pub(super) endpoint: String,
    /// What it has of which blobs; `None`: everything.
    parts: Option<Vec<(BlobId, u32, Sections)>>,
}

impl Known {
    /// One layer; the same for everybody.
    pub(super) fn layer(&self, digest: &Sha256Digest) -> Arc<Layer> {
        let mut layers = lock(&self.0);
        if layers.len() >= LAYERS_MAX && !layers.contains_key(digest) {
            let oldest = layers
                .iter()
                .min_by_key(|(_, layer)| lock(&layer.said).asked);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                layers.remove(&oldest);
            }
        }
        Arc::clone(layers.entry(*digest).or_default())
    }
}

impl Layer {
    /// Who has it. What is old is asked for anew, and waited for only when nothing is known, and not while discovery is
    /// silent; with `afresh` always, unless it was asked a moment ago.
    pub(super) async fn offered(
        self: &Arc<Self>,
        member: &Arc<Member>,
        digest: &Sha256Digest,
        afresh: bool,
    ) -> Arc<Offered> {
        let (offered, age, in_doubt, failed) = self.look();
        let fresh = offered.fresh(self.is_beginning());
        let is_fresh = age.is_some_and(|age| age < fresh && !in_doubt);
        let is_new = age.is_some_and(|age| age < ASK_GAP);
        if is_new || (is_fresh && !afresh) {
            return offered;
        }
        if !afresh && (failed || !offered.holders.is_empty()) {
            let (layer, member, digest) = (Arc::clone(self), Arc::clone(member), *digest);
            tokio::spawn(async move {
                if let Ok(_asking) = layer.asking.try_lock() {
                    layer.ask(&member, &digest).await;
                }
            });
            return offered;
        }
        let _asking = self.asking.lock().await;
        // Somebody else may have asked while we waited for our turn.
        let (offered, age_now, ..) = self.look();
        if age_now.is_some_and(|now| now < ASK_GAP || age.is_none_or(|before| now < before)) {
            return offered;
        }
        self.ask(member, digest).await;
        self.look().0
    }

    /// Who had it when that was asked last.
    pub(super) fn offered_before(&self) -> Arc<Offered> {
        self.look().0
    }

    /// Somebody who was to have it does not give it.
    pub(super) fn doubt(&self) {
        lock(&self.said).in_doubt = true;
    }

    /// This node has pulled it.
    pub(super) fn was_brought(&self, holder: Holder) {
        lock(&self.said).remember(&holder);
        *lock(&self.brought) = Some((holder, Instant::now()));
    }

    /// Who has pulled it since.
    pub(super) fn brought_since(&self, moment: Instant) -> Option<Holder> {
        let brought = lock(&self.brought);
        let since = brought.as_ref().filter(|(_, at)| *at >= moment);
        since.map(|(holder, _)| holder.clone())
    }

    /// Whether it was not asked about until a moment ago.
    fn is_beginning(&self) -> bool {
        let began = lock(&self.said).began;
        began.is_some_and(|began| began.elapsed() < BEGINNING)
    }

    /// What was said, how long ago, whether somebody was found not to have it, and whether discovery is silent.
    fn look(&self) -> (Arc<Offered>, Option<Duration>, bool, bool) {
        let said = lock(&self.said);
        let age = said.asked.map(|at| at.elapsed());
        (Arc::clone(&said.offered), age, said.in_doubt, said.failed)
    }

    async fn ask(&self, member: &Member, digest: &Sha256Digest) {
        let (whole, parts) = tokio::join!(
            member.discovery.find_provider(digest),
            member.discovery.find_partials(digest)
        );
        let parts = parts.unwrap_or_else(|error| {
            tracing::debug!(%error, layer = %digest, "ask who has parts of a layer");
            Vec::new()
        });
        let before = self.look().0;
        let offered = match whole {
            Ok(services) => {
                let whole = services.into_iter();
                let whole = whole.map(|service| (service.node_id, service.endpoint));
                Some(Offered::of(member.node(), whole, parts, false))
            }
            Err(error) if error.is_rationed() => {
                let named = before.whole();
                let named = named.map(|holder| (holder.id.to_string(), holder.endpoint.clone()));
                let offered = Offered::of(member.node(), named, parts, true);
                Some(offered.with_own(before.own))
            }
            Err(error) => {
                note(&error, digest);
                None
            }
        };
        let mut said = lock(&self.said);
        if said.asked.is_none_or(|asked| asked.elapsed() > ANEW) {
            said.began = Some(Instant::now());
        }
        (said.asked, said.failed) = (Some(Instant::now()), offered.is_none());
        match offered {
            Some(offered) => {
                said.replace(offered);
                said.in_doubt = false;
            }
            None => said.name_all(),
        }
    }
}

impl Said {
    fn replace(&mut self, offered: Offered) {
        let before = std::mem::replace(&mut self.offered, Arc::new(offered));
        let named = Arc::clone(&self.offered);
        self.once.retain(|holder| !named.names(&holder.id));
        before.whole().for_each(|holder| self.remember(holder));
    }

    /// It had all of it, whether it is named or not.
    fn remember(&mut self, holder: &Holder) {
        if self.offered.names(&holder.id) {
            return;
        }
        self.once.retain(|other| other.id != holder.id);
        self.once.push_back(holder.clone());
        if self.once.len() > ONCE_MAX {
            self.once.pop_front();
        }
    }

    /// Nobody says who has it now: whoever had it may have it still.
    fn name_all(&mut self) {
        if self.offered.unheard && self.once.is_empty() {
            return;
        }
        let mut offered = Offered::clone(&self.offered);
        // Nobody will say more however long that is waited for.
        (offered.unheard, offered.rationed) = (true, false);
        let ids: HashSet<NodeId> = self.once.iter().map(|holder| holder.id.clone()).collect();
        offered.holders.retain(|holder| !ids.contains(&holder.id));
        offered.holders.extend(self.once.drain(..));
        self.offered = Arc::new(offered);
    }
}

fn note(error: &AskError, layer: &Sha256Digest) {
    tracing::debug!(%error, %layer, "ask who has a layer");
}

impl Offered {
    fn of(
        me: &NodeId,
        whole: impl Iterator<Item = (String, String)>,
        parts: Vec<PartialHolder>,
        rationed: bool,
    ) -> Self {
        let mut holders: Vec<Holder> = whole
            .filter_map(|(id, endpoint)| Holder::new(&id, endpoint, None))
            .collect();
        let own = holders.iter().any(|holder| holder.id == *me);
        let seen: HashSet<NodeId> = holders.iter().map(|holder| holder.id.clone()).collect();
        let parts = parts.into_iter().filter_map(Holder::of_parts);
        holders.extend(parts.filter(|holder| !seen.contains(&holder.id)));
        holders.retain(|holder| holder.id != *me);
        Self {
            holders,
            own,
            rationed,
            unheard: false,
        }
    }

    /// As before: who asks is left out of the names.
    fn with_own(mut self, own: bool) -> Self {
        self.own = own;
        self
    }

    /// Whether this node is said to have all of it.
    fn names(&self, id: &NodeId) -> bool {
        self.whole().any(|holder| holder.id == *id)
    }

    fn whole(&self) -> impl Iterator<Item = &Holder> {
        self.holders.iter().filter(|holder| holder.parts.is_none())
    }

    fn fresh(&self, is_beginning: bool) -> Duration {
        match self.whole().count() {
            _ if self.rationed => ASK_GAP,
            few @ 0..=FEW if is_beginning && few == self.holders.len() => FRESH_ALONE,
            0..=FEW => FRESH_FEW,
            _ => FRESH,
        }
    }

    /// Who may have some of these entries: the nearer, the sooner asked.
    pub(super) fn providers(
        &self,
        blob: &BlobId,
        entries: &BTreeSet<u32>,
        without: &HashSet<NodeId>,
    ) -> Vec<Provider> {
        let are_few = self.whole().count() <= FEW;
        let usable = self
            .holders
            .iter()
            .filter(|holder| !without.contains(&holder.id))
            .map(|holder| (holder, holder.may_have(blob, entries)))
            .filter(|(_, may_have)| *may_have || self.unheard);
        let provider = |(holder, may_have): (&Holder, bool)| Provider {
            id: holder.id.clone(),
            distance: match may_have {
                true if holder.parts.is_none() && are_few => 2,
                true => 1,
                false => 3,
            },
        };
        usable.map(provider).collect()
    }

    /// Who reads this blob as well and may have it pass on what it has: nobody while enough nodes have the layer whole, or
    /// we do.
    pub(super) fn readers(&self, blob: &BlobId) -> Vec<&NodeId> {
        if self.own || self.whole().count() > FEW {
            return Vec::new();
        }
        let reads = |holder: &&Holder| {
            let mut parts = holder.parts.iter().flatten();
            parts.any(|(id, ..)| id == blob)
        };
        let readers = self.holders.iter().filter(reads);
        readers.map(|holder| &holder.id).collect()
    }

    /// Where a node is reached.
    pub(super) fn endpoint(&self, id: &NodeId) -> Option<&str> {
        let holder = self.holders.iter().find(|holder| holder.id == *id)?;
        Some(&holder.endpoint)
    }
}

impl Holder {
    /// One that has everything, or these parts; `None` if it cannot be one.
    pub(super) fn new(
        id: &str,
        endpoint: String,
        parts: Option<Vec<(BlobId, u32, Sections)>>,
    ) -> Option<Self> {
        check_endpoint(&endpoint).ok()?;
        Some(Self {
            id: NodeId::parse(id).ok()?,
            endpoint,
            parts,
        })
    }

    fn of_parts(holder: PartialHolder) -> Option<Self> {
        let part = |part: lamina_proto::lamina::v1::PartialBlob| {
            let blob = <[u8; 32]>::try_from(part.blob).ok()?;
            let sections = Sections::parse(&part.sections)?;
            Some((BlobId::from_bytes(blob), part.entries, sections))
        };
        let parts = holder.blobs.into_iter().filter_map(part).collect();
        Self::new(&holder.node_id, holder.endpoint, Some(parts))
    }

    fn may_have(&self, blob: &BlobId, entries: &BTreeSet<u32>) -> bool {
        let Some(parts) = &self.parts else {
            return true;
        };
        let of_blob = parts.iter().filter(|(id, ..)| id == blob);
        let mut of_blob = of_blob.flat_map(|part| entries.iter().map(move |entry| (part, *entry)));
        of_blob.any(|((_, count, sections), entry)| sections.may_have(*count, entry))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_to_ask_again_does_not_wait_for_a_discovery_that_is_gone() {
        let me = NodeId::parse("me").unwrap();
        let named = [("me", "127.0.0.1:1"), ("other", "127.0.0.1:2")];
        let named = named.map(|(id, endpoint)| (id.to_owned(), endpoint.to_owned()));
        let mut said = Said::default();
        said.replace(Offered::of(&me, named.into_iter(), Vec::new(), true));
        assert!(said.offered.rationed && said.offered.own);
        said.name_all();
        assert!(!said.offered.rationed && said.offered.own);
        assert!(said.offered.names(&NodeId::parse("other").unwrap()));
    }
}
