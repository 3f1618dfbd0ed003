//! Whom to read from: the choice of a provider, when to ask a second one, and what to do when there is none.
//!
//! Pure: one per node, fed with what became of every request; time and chance come from the caller. For one read:
//!
//! ```text
//! providers that have it ──> nearest of them, of two at random the one expected sooner ──> Peer
//!    all tried or in disgrace                            all of them busy ──> Wait (they, or others, are free soon)
//!      ▼
//! Pull: the layerstore that all nodes agree on pulls it, once for the cluster ──> Registry, when that fails as well
//! ```
//!
//! Always: who fails once in a read is not tried again in it; a peer that gave wrong bytes is not asked for long;
//! no peer is asked while it is in disgrace, unless nobody else is left; second requests are a small share of all
//! requests, so that slow times are not made slower.

mod peer;
mod speed;

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use peer::Peer;
pub use speed::Hedges;

use crate::node_id::NodeId;
use crate::random::Random;

/// How a node chooses.
#[derive(Debug, Clone)]
pub struct ChoiceConfig {
    /// Peers tried in one read before it is pulled.
    pub peers_max: usize,
    /// Requests to one peer at once; beyond that it counts as busy.
    pub in_flight_max: u32,
    /// Disgrace after a first failure; doubles with every further one.
    pub penalty: Duration,
    /// Longest disgrace after failures.
    pub penalty_max: Duration,
    /// Disgrace after wrong bytes.
    pub penalty_wrong: Duration,
    /// A peer that says it is busy is not asked for about so long; doubles each time.
    pub busy: Duration,
    /// Discovery that says to ask again is not asked for about so long; doubles each time.
    pub rationed: Duration,
    /// Longest of these waits, before chance adds to it.
    pub wait_max: Duration,
    /// How long a read waits for busy peers before it is pulled.
    pub patience: Duration,
    /// Peers remembered; the one unused longest is forgotten.
    pub peers_known_max: usize,
}

impl Default for ChoiceConfig {
    fn default() -> Self {
        Self {
            peers_max: 4,
            in_flight_max: 16,
            penalty: Duration::from_millis(500),
            penalty_max: Duration::from_secs(30),
            penalty_wrong: Duration::from_secs(600),
            busy: Duration::from_millis(50),
            rationed: Duration::from_millis(200),
            wait_max: Duration::from_millis(1600),
            patience: Duration::from_secs(30),
            peers_known_max: 4096,
        }
    }
}

/// Who has what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// Which node.
    pub id: NodeId,
    /// How far away, by what is known of the network: 0 this machine, then rack, zone, region. Nearer ones are
    /// asked first; among equals, who is expected to answer first.
    pub distance: u8,
}

/// Where to read from next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// From this peer.
    Peer(NodeId),
    /// Not now: ask discovery again after this long.
    Wait(Duration),
    /// Have this layerstore pull it, then read it there.
    Pull(NodeId),
    /// From the registry.
    Registry,
}

/// What discovery says about what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// Who has it.
    pub providers: Vec<Provider>,
    /// Layerstores that are to pull it, best first.
    pub homes: Vec<NodeId>,
    /// It named enough of us to others for now: ask again.
    pub rationed: bool,
}

/// How a request to a peer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Right bytes, after this long.
    Good(Duration),
    /// It has no time now.
    Busy,
    /// No answer, a broken one, or one that came too slowly.
    Failed,
    /// Bytes that do not match their digest.
    Wrong,
    /// Nobody waited for the end: another one was first.
    Dropped,
}

/// One read on its way to its bytes.
#[derive(Debug, Clone)]
pub struct Attempt {
    began: Duration,
    tried: Vec<NodeId>,
    pulled: Vec<NodeId>,
    /// Who pulled it for us, which discovery may not have been told yet.
    brought: Vec<NodeId>,
    waits: u32,
}

impl Attempt {
    /// One that begins now.
    pub fn new(now: Duration) -> Self {
        Self {
            began: now,
            tried: Vec::new(),
            pulled: Vec::new(),
            brought: Vec::new(),
            waits: 0,
        }
    }

    /// This node has pulled it, as it was asked to ([`Step::Pull`]): now it is one who has it.
    pub fn has_pulled(&mut self, id: &NodeId) {
        self.brought.push(id.clone());
    }

    /// This node has no more of what is wanted, also if it pulled it: it is asked again when somebody names it, and
    /// to pull it never.
    pub fn has_no_more(&mut self, id: &NodeId) {
        self.tried.retain(|tried| tried != id);
        self.brought.retain(|brought| brought != id);
    }

    /// Time has passed: those who were tried may be asked again.
    pub fn ask_all_again(&mut self) {
        self.tried.clear();
    }

    /// This node had only no time: it may be asked again.
    pub fn was_busy(&mut self, id: &NodeId) {
        self.tried.retain(|tried| tried != id);
        self.pulled.retain(|pulled| pulled != id);
    }
}

/// What this node knows of its peers.
#[derive(Debug)]
pub struct Chooser {
    config: ChoiceConfig,
    me: NodeId,
    peers: HashMap<NodeId, Peer>,
    hedges: Hedges,
}

impl Chooser {
    /// The choices of node `me`, which knows nobody yet.
    pub fn new(me: NodeId, config: ChoiceConfig) -> Self {
        Self {
            config,
            me,
            peers: HashMap::new(),
            hedges: Hedges::default(),
        }
    }

    /// Where a read goes next.
    pub fn next(
        &self,
        attempt: &mut Attempt,
        offer: &Offer,
        now: Duration,
        random: &mut Random,
    ) -> Step {
        let is_patient = now < attempt.began + self.config.patience;
        let providers = &with_brought(offer, attempt);
        if attempt.tried.len() < self.config.peers_max {
            if let Some(peer) = self.pick(attempt, providers, now, random) {
                attempt.tried.push(peer.clone());
                return Step::Peer(peer);
            }
            let busy = offer.rationed || self.some_are_busy(attempt, providers, now);
            if busy && is_patient {
                let least = if offer.rationed {
                    self.config.rationed
                } else {
                    self.config.busy
                };
                return self.wait(attempt, least, random);
            }
        }
        let home = offer
            .homes
            .iter()
            .find(|home| self.may_pull(attempt, home, now));
        match home {
            // Our own layerstore is the one: nobody is asked before the registry.
            Some(home) if *home == self.me => Step::Registry,
            Some(home) if is_patient && self.is_busy(home, now) => {
                self.wait(attempt, self.config.busy, random)
            }
            Some(home) => {
                attempt.pulled.push(home.clone());
                Step::Pull(home.clone())
            }
            None => Step::Registry,
        }
    }

    /// A second peer for a read whose first is slow; `None` when there is none that is better than waiting, or
    /// too many reads were asked for twice lately.
    pub fn hedge(
        &mut self,
        attempt: &mut Attempt,
        providers: &[Provider],
        now: Duration,
        random: &mut Random,
    ) -> Option<NodeId> {
        let peer = self.pick(attempt, providers, now, random)?;
        self.hedges.take().then(|| {
            attempt.tried.push(peer.clone());
            peer
        })
    }

    /// Whether a read whose peer is slow may go on to others: as often as a second peer may be asked.
    pub fn may_leave(&mut self) -> bool {
        self.hedges.take()
    }

    /// How long a first answer may take before a second peer is asked.
    pub fn hedge_after(&self) -> Duration {
        self.hedges.after()
    }

    /// A request goes to a peer.
    pub fn started(&mut self, id: &NodeId, now: Duration) {
        if !self.peers.contains_key(id) && self.peers.len() >= self.config.peers_known_max {
            self.forget_one();
        }
        self.peers.entry(id.clone()).or_default().started(now);
        self.hedges.earn();
    }

    /// It ended.
    pub fn finished(&mut self, id: &NodeId, outcome: Outcome, now: Duration, random: &mut Random) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if let Outcome::Good(took) = outcome {
            self.hedges.took(took);
        }
        peer.finished(outcome, &self.config, now, random);
    }

    /// Peers that are not asked now.
    pub fn in_disgrace(&self, now: Duration) -> usize {
        self.peers.values().filter(|peer| peer.is_bad(now)).count()
    }

    /// Of the nearest usable providers two at random, and of these the one expected to answer first.
    fn pick(
        &self,
        attempt: &Attempt,
        providers: &[Provider],
        now: Duration,
        random: &mut Random,
    ) -> Option<NodeId> {
        let unknown = Peer::default();
        let known = |provider: &Provider| self.peers.get(&provider.id).unwrap_or(&unknown);
        let usable = |provider: &&Provider| {
            let peer = known(provider);
            self.is_open(attempt, provider)
                && !peer.is_bad(now)
                && !peer.is_busy(now)
                && peer.in_flight() < self.config.in_flight_max
        };
        let usable: Vec<&Provider> = providers.iter().filter(usable).collect();
        let nearest = usable.iter().map(|provider| provider.distance).min()?;
        let nearest: Vec<&&Provider> = usable.iter().filter(|p| p.distance == nearest).collect();
        let first = random.below(nearest.len());
        let second = match nearest.len() {
            1 => first,
            count => (first + 1 + random.below(count - 1)) % count,
        };
        let typical = self.hedges.typical();
        let cost = |at: usize| known(nearest[at]).expected(typical);
        let best = if cost(second) < cost(first) {
            second
        } else {
            first
        };
        Some(nearest[best].id.clone())
    }

    /// Whether somebody who has it is only busy: then waiting helps.
    fn some_are_busy(&self, attempt: &Attempt, providers: &[Provider], now: Duration) -> bool {
        let mut open = providers.iter().filter(|p| self.is_open(attempt, p));
        open.any(|provider| !self.is_bad(&provider.id, now))
    }

    /// Longer each time.
    fn wait(&self, attempt: &mut Attempt, least: Duration, random: &mut Random) -> Step {
        let doubled = least.saturating_mul(1 << attempt.waits.min(5));
        let doubled = doubled.min(self.config.wait_max.max(least));
        attempt.waits += 1;
        Step::Wait(doubled / 2 + random.up_to(doubled))
    }

    fn may_pull(&self, attempt: &Attempt, home: &NodeId, now: Duration) -> bool {
        !attempt.pulled.contains(home) && !self.is_bad(home, now)
    }

    fn is_bad(&self, id: &NodeId, now: Duration) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.is_bad(now))
    }

    fn is_busy(&self, id: &NodeId, now: Duration) -> bool {
        self.peers.get(id).is_some_and(|peer| peer.is_busy(now))
    }

    fn is_open(&self, attempt: &Attempt, provider: &Provider) -> bool {
        provider.id != self.me && !attempt.tried.contains(&provider.id)
    }

    fn forget_one(&mut self) {
        let idle = self.peers.iter().filter(|(_, peer)| peer.in_flight() == 0);
        let oldest = idle.min_by(|(a, p), (b, q)| (p.used(), a).cmp(&(q.used(), b)));
        if let Some(id) = oldest.map(|(id, _)| id.clone()) {
            self.peers.remove(&id);
        }
    }
}

/// Who has it, and behind them who pulled it for us.
fn with_brought<'a>(offer: &'a Offer, attempt: &Attempt) -> Cow<'a, [Provider]> {
    let is_new = |id: &&NodeId| offer.providers.iter().all(|provider| provider.id != **id);
    let mut more = attempt.brought.iter().filter(is_new).peekable();
    if more.peek().is_none() {
        return Cow::Borrowed(&offer.providers);
    }
    let more = more.map(|id| Provider {
        id: id.clone(),
        distance: u8::MAX,
    });
    Cow::Owned(offer.providers.iter().cloned().chain(more).collect())
}

#[cfg(test)]
mod tests;
