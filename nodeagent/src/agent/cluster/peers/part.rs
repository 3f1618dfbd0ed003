//! One part of a read: a node at a time, a second one beside it when the first is slow, until everything came.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use lamina_discovery::NodeId;
use lamina_discovery::choose::{Attempt, Offer, Outcome, Provider, Step};
use lamina_proto::lamina::v1::Home;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;

use super::super::ask::{self, Ended, Event, Piece, Want};
use super::super::known::{Layer, Offered};
use super::super::member::Member;
use super::super::pull::{Brought, id_of};
use super::super::pulse::Pulse;
use super::super::swarm;
use super::How;

/// Chunks that arrived and were not taken yet, of one request.
const ARRIVED_MAX: usize = 4;
/// Between two rounds through everybody; doubles.
const ROUND: Duration = Duration::from_millis(100);
const ROUND_MAX: Duration = Duration::from_secs(2);
/// While somebody pulls, others are asked again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long whoever pulls a layer for all is waited for before our own layerstore does.
const PATIENCE: Duration = Duration::from_secs(30);

/// Entries on their way.
pub(super) struct Part {
    member: Arc<Member>,
    want: Arc<Want>,
    layer: Arc<Layer>,
    missing: BTreeSet<u32>,
    how: How,
    pieces: mpsc::Sender<Piece>,
    attempt: Attempt,
    /// Who had nothing of it: not asked again in this round.
    without: HashSet<NodeId>,
    homes: Option<Vec<Home>>,
    began: Instant,
    /// Where those are reached who pulled it, and homes.
    endpoints: HashMap<NodeId, String>,
    own_was_asked: bool,
    /// Those in disgrace are asked, for want of others.
    is_at_last: bool,
    /// Who is to fetch it for all that read the blob now: to be asked before anybody else.
    pub(super) first: Option<NodeId>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Another node.
    Peers,
    /// Another node, which may wait so long for what it is about to have.
    Waiting(Duration),
    /// Our own layerstore.
    Own,
}

impl Part {
    pub(super) fn new(
        member: &Arc<Member>,
        want: &Arc<Want>,
        entries: &[u32],
        how: How,
        pieces: mpsc::Sender<Piece>,
    ) -> Self {
        Self {
            member: Arc::clone(member),
            want: Arc::clone(want),
            layer: member.known.layer(&want.layer),
            missing: entries.iter().copied().collect(),
            how,
            pieces,
            attempt: member.choices.begin(),
            without: HashSet::new(),
            homes: None,
            began: Instant::now(),
            endpoints: HashMap::new(),
            own_was_asked: false,
            is_at_last: false,
            first: None,
        }
    }

    /// Gives what could not be had.
    pub(super) async fn bring(mut self) -> BTreeSet<u32> {
        if let Some(first) = self.first.take() {
            let _ = tokio::time::timeout_at(self.how.until, self.ask_first(first)).await;
            if self.is_done() {
                return self.missing;
            }
        }
        let mut pause = ROUND;
        loop {
            let until = self.how.until;
            let round = tokio::time::timeout_at(until, self.round()).await;
            let is_over = self.is_done() || round.is_err() || self.member.is_over();
            if is_over || !self.how.is_last || Instant::now() + pause >= until {
                return self.missing;
            }
            // Whoever was in disgrace, had nothing, or was cut off may do now; discovery may know more.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ROUND_MAX);
            self.layer.doubt();
            (self.attempt, self.homes) = (self.member.choices.begin(), None);
            self.without.clear();
            (self.own_was_asked, self.is_at_last) = (false, false);
        }
    }

    /// Once through everybody, best first.
    async fn round(&mut self) {
        let mut afresh = false;
        loop {
            let (layer, member) = (Arc::clone(&self.layer), Arc::clone(&self.member));
            let offered = layer.offered(&member, &self.want.layer, afresh).await;
            if offered.own && !self.own_was_asked {
                self.ask_own().await;
            }
            if self.is_done() {
                return;
            }
            let offer = self.offer(&offered);
            let step = member.choices.next(&mut self.attempt, &offer);
            afresh = matches!(step, Step::Wait(_) | Step::Registry);
            match step {
                Step::Peer(peer) => self.ask_peer(peer, &offered, &offer).await,
                Step::Wait(time) if self.how.is_last => tokio::time::sleep(time).await,
                Step::Pull(home) => self.pull_at(&home).await,
                Step::Registry if self.how.is_last && self.homes.is_none() => {
                    self.find_homes(&offered).await;
                }
                Step::Registry if self.how.is_last => return self.at_last(&offered).await,
                Step::Wait(_) | Step::Registry => return,
            }
        }
    }

    fn offer(&self, offered: &Offered) -> Offer {
        let blob = &self.want.blob;
        let homes = self.homes.iter().flatten().filter_map(id_of);
        Offer {
            providers: offered.providers(blob, &self.missing, &self.without),
            homes: homes.collect(),
            rationed: offered.rationed,
        }
    }

    /// What is left when everybody was tried as is right: our own layerstore, and then those in disgrace.
    async fn at_last(&mut self, offered: &Arc<Offered>) {
        if !self.own_was_asked {
            self.ask_own().await;
        }
        if self.is_done() {
            return;
        }
        self.is_at_last = true;
        self.ask_everybody(offered).await;
        if self.is_done() {
            return;
        }
        let (member, want) = (Arc::clone(&self.member), Arc::clone(&self.want));
        let pulling = member.pull_own(&want.layer, &want.image, self.how.until);
        self.unless_others_have_it(pulling).await;
    }

    /// Waits for a pull, and asks others beside it: a registry that is away may take all the time there is.
    async fn unless_others_have_it(&mut self, pulling: impl Future<Output = Option<Brought>>) {
        let pulled = tokio::select! {
            pulled = pulling => pulled,
            () = self.ask_again_and_again() => None,
        };
        self.brought(pulled).await;
    }

    /// Asks others once a second, whoever that is by then, until everything came.
    async fn ask_again_and_again(&mut self) {
        let (layer, member) = (Arc::clone(&self.layer), Arc::clone(&self.member));
        while !self.is_done() {
            tokio::time::sleep(AGAIN).await;
            self.without.clear();
            self.attempt.ask_all_again();
            layer.doubt();
            let offered = layer.offered(&member, &self.want.layer, false).await;
            while let Some((peer, offer)) = self.another(&offered) {
                self.ask_peer(peer, &offered, &offer).await;
            }
            if self.is_at_last {
                self.ask_everybody(&offered).await;
            }
        }
    }

    /// Whom to ask now, without waiting for anybody, or having it pulled.
    fn another(&mut self, offered: &Offered) -> Option<(NodeId, Offer)> {
        if self.is_done() {
            return None;
        }
        let offer = Offer {
            homes: Vec::new(),
            ..self.offer(offered)
        };
        match self.member.choices.next(&mut self.attempt, &offer) {
            Step::Peer(peer) => Some((peer, offer)),
            _ => None,
        }
    }

    /// Those in disgrace, too.
    async fn ask_everybody(&mut self, offered: &Offered) {
        for provider in self.offer(offered).providers {
            if !self.is_done() {
                let nobody = Offer::default();
                self.ask_peer(provider.id, offered, &nobody).await;
            }
        }
    }

    async fn find_homes(&mut self, offered: &Offered) {
        // Our own layerstore may have it although discovery does not say so.
        if !self.own_was_asked && !offered.own {
            self.ask_own().await;
        }
        let (homes, again) = self.member.homes(&self.want.layer).await;
        if again && self.began.elapsed() < PATIENCE {
            // Enough others were sent there: whoever pulls it is about to be named as one that has it.
            tokio::time::sleep(ROUND * 2).await;
            return;
        }
        for home in &homes {
            if let Some(id) = id_of(home) {
                self.endpoints.insert(id, home.endpoint.clone());
            }
        }
        self.homes = Some(homes);
    }

    async fn pull_at(&mut self, id: &NodeId) {
        let mut homes = self.homes.iter().flatten();
        let Some(home) = homes.find(|home| home.node_id == id.as_str()).cloned() else {
            return;
        };
        let (member, want) = (Arc::clone(&self.member), Arc::clone(&self.want));
        let pulling = member.pull_at(&home, &want.layer, &want.image, self.how.until);
        self.unless_others_have_it(pulling).await;
    }

    async fn brought(&mut self, pulled: Option<Brought>) {
        match pulled {
            Some(Brought::Own) => self.ask_own().await,
            Some(Brought::Peer(holder)) => {
                self.attempt.has_pulled(&holder.id);
                self.endpoints.insert(holder.id, holder.endpoint);
            }
            None => {}
        }
    }

    /// From the one that fetches this for all, who may be about to have it. No longer than that is worth: then it is
    /// fetched as if there were nobody else.
    async fn ask_first(&mut self, first: NodeId) {
        let wait = swarm::wait(self.how.is_demand);
        let (layer, member) = (Arc::clone(&self.layer), Arc::clone(&self.member));
        let offered = layer.offered(&member, &self.want.layer, false).await;
        let offer = Offer {
            providers: vec![Provider {
                id: first.clone(),
                distance: 0,
            }],
            ..Offer::default()
        };
        let endpoint = offered.endpoint(&first);
        let channel = endpoint.and_then(|endpoint| member.pool.to(endpoint).ok());
        let mut attempt = member.choices.begin();
        let step = member.choices.next(&mut attempt, &offer);
        // One in disgrace, or busy, is not waited for.
        let (Some(channel), Step::Peer(_)) = (channel, step) else {
            return;
        };
        let (sender, events) = mpsc::channel(ARRIVED_MAX);
        let pulse = member.choices.pulse(&first);
        self.start(first, channel, sender, Whose::Waiting(wait));
        let before = self.missing.len();
        self.take_until_slow(events, &pulse, wait).await;
        layer.luck.note(self.missing.len() < before);
    }

    /// Takes what comes until it ends, nothing comes from that node for anybody, or others may be faster.
    async fn take_until_slow(
        &mut self,
        mut events: mpsc::Receiver<Event>,
        pulse: &Pulse,
        wait: Duration,
    ) {
        let silence = swarm::silence(self.how.is_demand) + self.member.choices.hedge_after();
        let began = Instant::now();
        let silent_at = || (pulse.last().max(began) + silence).min(began + wait + silence);
        let mut slow_at = began + swarm::SLOW;
        loop {
            let look_at = silent_at().min(slow_at);
            match tokio::time::timeout_at(look_at, events.recv()).await {
                Ok(Some(Event::Piece(piece))) => {
                    self.take(piece).await;
                    slow_at = Instant::now() + swarm::SLOW;
                }
                Ok(Some(Event::Ended(..))) => {}
                Ok(None) => return,
                Err(_) => {
                    let now = Instant::now();
                    let is_slow = now >= slow_at;
                    // Not all leave at once: they would make those slow that are asked instead.
                    if now >= silent_at() || (is_slow && self.member.choices.may_leave()) {
                        return;
                    }
                    if is_slow {
                        slow_at = now + swarm::SLOW;
                    }
                }
            }
        }
    }

    async fn ask_own(&mut self) {
        self.own_was_asked = true;
        let (sender, mut events) = mpsc::channel(ARRIVED_MAX);
        let own = self.member.node().clone();
        self.start(own, self.member.own.clone(), sender, Whose::Own);
        while let Some(event) = events.recv().await {
            if let Event::Piece(piece) = event {
                self.take(piece).await;
            }
        }
    }

    /// From this node, and from a second one beside it when it is slow.
    async fn ask_peer(&mut self, first: NodeId, offered: &Offered, offer: &Offer) {
        let (sender, mut events) = mpsc::channel(ARRIVED_MAX);
        let mut spare = Some(sender);
        let pulse = self.member.choices.pulse(&first);
        let mut running = usize::from(self.ask(first, offered, spare.as_ref()));
        let after = self.member.choices.hedge_after();
        let mut slow_at = Instant::now() + after;
        while running > 0 && !self.is_done() {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Piece(piece)) => {
                        slow_at = Instant::now() + after;
                        self.take(piece).await;
                    }
                    Some(Event::Ended(peer, ended)) => {
                        running -= 1;
                        self.note(&peer, ended);
                    }
                    None => return,
                },
                () = sleep_until(slow_at), if spare.is_some() => {
                    // What nobody waits for is not asked for twice while the node has others to serve.
                    let heard = pulse.last() + after;
                    if !self.how.is_demand && heard > Instant::now() {
                        slow_at = heard;
                        continue;
                    }
                    let sender = spare.take();
                    let choices = &self.member.choices;
                    let second = choices.hedge(&mut self.attempt, &offer.providers);
                    if let Some(second) = second {
                        running += usize::from(self.ask(second, offered, sender.as_ref()));
                    }
                }
            }
        }
        // Requests that go on notice with their next chunk that nobody listens.
    }

    /// Asks a node for everything that is missing; says whether it could be.
    fn ask(
        &mut self,
        peer: NodeId,
        offered: &Offered,
        sender: Option<&mpsc::Sender<Event>>,
    ) -> bool {
        let known = self.endpoints.get(&peer).map(String::as_str);
        let endpoint = offered.endpoint(&peer).or(known);
        let channel = endpoint.and_then(|endpoint| self.member.pool.to(endpoint).ok());
        let (Some(channel), Some(sender)) = (channel, sender) else {
            self.without.insert(peer);
            return false;
        };
        self.start(peer, channel, sender.clone(), Whose::Peers);
        true
    }

    /// In a task of its own: a node that is left in favour of a faster one is still to be known for what it did.
    fn start(&self, peer: NodeId, channel: Channel, sender: mpsc::Sender<Event>, whose: Whose) {
        let is_own = whose == Whose::Own;
        let asked = ask::Asked {
            channel,
            pulse: match is_own {
                true => Arc::new(Pulse::new()),
                false => self.member.choices.pulse(&peer),
            },
            is_own,
            // Who is slow because all ask is not left where there is nobody faster.
            is_demand: self.how.is_demand && !self.is_at_last,
            wait: match whose {
                Whose::Waiting(time) => time,
                Whose::Own | Whose::Peers => Duration::ZERO,
            },
        };
        let (member, want) = (Arc::clone(&self.member), Arc::clone(&self.want));
        let entries: Vec<u32> = self.missing.iter().copied().collect();
        tokio::spawn(async move {
            if !is_own {
                member.choices.started(&peer);
            }
            let ended = ask::ask(asked, &want, &entries, &sender).await;
            if !is_own {
                member.choices.finished(&peer, ended.outcome);
            }
            if matches!(ended.outcome, Outcome::Failed | Outcome::Wrong) {
                let (layer, blob) = (&want.layer, &want.blob);
                let outcome = ended.outcome;
                match is_own {
                    true => {
                        tracing::warn!(?outcome, %layer, %blob, "read from our own layerstore");
                    }
                    false => {
                        tracing::warn!(%peer, ?outcome, %layer, %blob, "read from another node");
                    }
                }
            }
            let _ = sender.send(Event::Ended(peer, ended)).await;
        });
    }

    fn note(&mut self, peer: &NodeId, ended: Ended) {
        match ended.outcome {
            Outcome::Busy => self.attempt.was_busy(peer),
            Outcome::Good(_) | Outcome::Dropped => {
                // It has no more of it. That is no failure, and does not count as a try.
                self.attempt.has_no_more(peer);
                self.without.insert(peer.clone());
            }
            Outcome::Failed | Outcome::Wrong => {
                self.without.insert(peer.clone());
                self.layer.doubt();
            }
        }
    }

    async fn take(&mut self, piece: Piece) {
        hand_over(&mut self.missing, &self.pieces, piece).await;
    }

    fn is_done(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Hands a piece over that is missing. It is so until that is done: who is called off while it waits has not got it.
async fn hand_over(missing: &mut BTreeSet<u32>, pieces: &mpsc::Sender<Piece>, piece: Piece) {
    let entry = piece.entry;
    if missing.contains(&entry) {
        // An error: the blob was closed, and nobody takes it any more.
        let _ = pieces.send(piece).await;
        missing.remove(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ask::Giver;
    use super::*;

    #[tokio::test]
    async fn a_piece_that_was_not_taken_in_time_is_still_missing() {
        let (sender, mut taken) = mpsc::channel(1);
        let mut missing = BTreeSet::from([1, 2]);
        let piece = |entry| Piece {
            entry,
            plain: Vec::new().into(),
            stored_len: 0,
            giver: Giver::Peer,
        };
        hand_over(&mut missing, &sender, piece(1)).await;
        let waits = hand_over(&mut missing, &sender, piece(2));
        let called_off = tokio::time::timeout(Duration::ZERO, waits).await;
        assert!(called_off.is_err());
        assert_eq!(missing, BTreeSet::from([2]));
        assert_eq!(taken.recv().await.unwrap().entry, 1);
        hand_over(&mut missing, &sender, piece(2)).await;
        assert!(missing.is_empty());
    }
}
