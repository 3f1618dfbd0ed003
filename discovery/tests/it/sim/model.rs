//! The simulated cluster itself.

use std::collections::BTreeMap;
use std::time::Duration;

use lamina_discovery::beat::{Beat, HeldLayer};
use lamina_discovery::change::State;
use lamina_discovery::choose::{Attempt, ChoiceConfig, Chooser, Offer, Outcome, Provider, Step};
use lamina_discovery::pace::{Pace, Tempo};
use lamina_discovery::ration::Rations;
use lamina_discovery::registry::{Node, Registry};
use lamina_discovery::{Limits, NodeId, Now, Random};
use lamina_flist::Sha256Digest;

use super::network::{Agenda, Event, LayerNo, Manner, NodeNo, Peak, delay};

const REPLICAS: usize = 2;
/// Nodes named to pull a layer, as discovery does where nobody says how many.
const HOMES: usize = 4;
/// To send one layer when nothing else is sent: 32 MB at 1 Gbit/s.
const TRANSFER: Duration = Duration::from_millis(256);
/// To pull one from the registry.
const PULL: Duration = Duration::from_millis(1500);
/// After which a request without an answer is given up.
const DEADLINE: Duration = Duration::from_secs(2);
/// When images are started, after heartbeats have settled.
const START: Duration = Duration::from_secs(16);
/// When nothing new fails any more, and when all must be well.
const CALM: Duration = Duration::from_secs(40);
const END: Duration = Duration::from_secs(100);

/// What is simulated.
#[derive(Debug, Clone)]
pub(crate) struct Scenario {
    pub(crate) nodes: usize,
    pub(crate) layers: usize,
    /// Transfers that a node serves at once.
    pub(crate) slots: usize,
    pub(crate) named_per_s: u32,
    /// Of a thousand nodes: those that crash, serve wrong bytes, never answer.
    pub(crate) crash: usize,
    pub(crate) wrong: usize,
    pub(crate) silent: usize,
    /// Of a thousand heartbeats and questions: those that are lost.
    pub(crate) lost: usize,
    pub(crate) restarts: bool,
}

impl Scenario {
    /// Everything that can fail does.
    pub(crate) fn small(nodes: usize) -> Self {
        Self {
            crash: 60,
            wrong: 60,
            silent: 40,
            lost: 20,
            restarts: true,
            ..Self::quiet(nodes)
        }
    }

    /// Nothing fails.
    pub(crate) fn quiet(nodes: usize) -> Self {
        Self {
            nodes,
            layers: 2,
            slots: 4,
            named_per_s: 32,
            crash: 0,
            wrong: 0,
            silent: 0,
            lost: 0,
            restarts: false,
        }
    }

    pub(crate) fn has_faults(&self) -> bool {
        self.crash + self.wrong + self.silent + self.lost > 0 || self.restarts
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Report {
    pub(crate) missing: usize,
    pub(crate) replicas_agree: bool,
    pub(crate) origin_reads: usize,
    pub(crate) peer_requests_peak: usize,
    pub(crate) beats_peak: usize,
    pub(crate) finds_peak: usize,
    pub(crate) wrong_delivered: usize,
    pub(crate) wrong_received: usize,
    pub(crate) busy: usize,
    pub(crate) took: Duration,
}

struct Member {
    id: NodeId,
    alive: bool,
    manner: Manner,
    holds: Vec<bool>,
    reads: Vec<Option<Attempt>>,
    /// What it pulls from the registry, and who waits for it.
    pulls: Vec<Option<Vec<NodeNo>>>,
    paces: Vec<Pace>,
    /// The time of the heartbeat event that counts, of each replica.
    due: Vec<Duration>,
    chooser: Chooser,
    serving: usize,
    asked: Peak,
    prefers: usize,
}

struct Replica {
    registry: Registry,
    rations: Rations,
    beats: Peak,
    finds: Peak,
}

pub(crate) struct World {
    scenario: Scenario,
    random: Random,
    now: Duration,
    agenda: Agenda,
    members: Vec<Member>,
    numbers: BTreeMap<NodeId, NodeNo>,
    replicas: Vec<Replica>,
    report: Report,
}

impl World {
    pub(crate) fn new(scenario: Scenario, seed: u64) -> Self {
        let mut random = Random::from_seed(seed);
        let member = |n| Member::new(n, &scenario, &mut random);
        let members: Vec<Member> = (0..scenario.nodes).map(member).collect();
        let numbers = (0..)
            .zip(&members)
            .map(|(n, member)| (member.id.clone(), n));
        let mut world = Self {
            numbers: numbers.collect(),
            replicas: (0..REPLICAS)
                .map(|_| Replica::new(&scenario, Duration::ZERO))
                .collect(),
            members,
            random,
            now: Duration::ZERO,
            agenda: Agenda::default(),
            report: Report::default(),
            scenario,
        };
        world.plan();
        world
    }

    /// What happens by itself.
    fn plan(&mut self) {
        self.agenda.at(Duration::ZERO, Event::Tick);
        for node in 0..self.members.len() {
            for replica in 0..REPLICAS {
                let due = self.members[node].due[replica];
                self.agenda.at(due, Event::Beat(node, replica));
            }
            for layer in 0..self.scenario.layers {
                let start = START + self.random.up_to(Duration::from_millis(500));
                self.agenda.at(start, Event::Try(node, layer));
            }
            // One node at least goes on.
            if node > 0 && self.random.below(1000) < self.scenario.crash {
                let at = START + self.random.up_to(CALM.saturating_sub(START));
                self.agenda.at(at, Event::Crash(node));
            }
        }
        if self.scenario.restarts {
            for replica in 0..REPLICAS {
                // Never both at once: that is what two are for.
                let at = START + (10 * replica as u32) * Duration::from_secs(1);
                let at = at + self.random.up_to(Duration::from_secs(6));
                self.agenda.at(at, Event::Restart(replica));
            }
        }
    }

    pub(crate) fn run(mut self) -> Report {
        while let Some((now, event)) = self.agenda.next() {
            if now > END {
                break;
            }
            self.now = now;
            self.happen(event);
        }
        self.conclude()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Beat(node, replica) => self.beat(node, replica),
            Event::Try(node, layer) => self.try_read(node, layer),
            Event::Ended(node, layer, peer, outcome) => self.ended(node, layer, peer, outcome),
            Event::Served(node) => self.members[node].serving -= 1,
            Event::Pulled(node, layer) => self.pulled(node, layer),
            Event::Crash(node) => self.crash(node),
            Event::Restart(replica) => {
                self.replicas[replica] = Replica::new(&self.scenario, self.now);
            }
            Event::Tick => {
                let now = self.moment();
                for replica in &mut self.replicas {
                    replica.registry.tick(now);
                    replica.rations.sweep(now.since);
                }
                self.agenda
                    .at(self.now + Duration::from_secs(1), Event::Tick);
            }
        }
    }

    fn beat(&mut self, node: NodeNo, replica: usize) {
        let (now, moment) = (self.now, self.moment());
        let lost = self.is_lost();
        let member = &mut self.members[node];
        // Of several events the one that was planned last counts.
        if !member.alive || member.due[replica] != now {
            return;
        }
        let random = &mut self.random;
        if lost {
            member.paces[replica].failed(now, random);
        } else {
            let to = &mut self.replicas[replica];
            to.beats.count(now);
            let ttl = to.registry.limits().ttl;
            to.registry
                .beat(member.beat(), moment)
                .expect("there is room");
            member.paces[replica].succeeded(now, ttl, random);
        }
        self.plan_beat(node, replica);
    }

    fn plan_beat(&mut self, node: NodeNo, replica: usize) {
        let member = &mut self.members[node];
        let due = member.paces[replica].due().max(self.now);
        if member.due[replica] != due || due == self.now {
            member.due[replica] = due;
            self.agenda.at(due, Event::Beat(node, replica));
        }
    }

    fn try_read(&mut self, node: NodeNo, layer: LayerNo) {
        let member = &self.members[node];
        if !member.alive || member.holds[layer] || member.pulls[layer].is_some() {
            return;
        }
        let mut offer = self.ask(node, layer);
        let (now, random) = (self.now, &mut self.random);
        let member = &mut self.members[node];
        let attempt = member.reads[layer].get_or_insert_with(|| Attempt::new(now));
        let mut step = member.chooser.next(attempt, &offer, now, random);
        if step == Step::Registry && !offer.rationed {
            // Only now it matters who is to pull it.
            offer.homes = self.replicas[member.prefers].homes(layer);
            step = member.chooser.next(attempt, &offer, now, random);
        }
        match step {
            Step::Wait(wait) => self.agenda.at(now + wait, Event::Try(node, layer)),
            Step::Registry => self.pull(node, layer),
            Step::Peer(peer) => {
                member.chooser.started(&peer, now);
                self.request(node, layer, self.numbers[&peer]);
            }
            Step::Pull(home) => {
                member.chooser.started(&home, now);
                self.request_pull(node, layer, self.numbers[&home]);
            }
        }
    }

    /// Asks one replica, and the other one when that has no answer.
    fn ask(&mut self, node: NodeNo, layer: LayerNo) -> Offer {
        let moment = self.moment();
        for _ in 0..REPLICAS {
            let lost = self.is_lost();
            let prefers = self.members[node].prefers;
            let asker = (node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let replica = &mut self.replicas[prefers];
            replica.finds.count(moment.since);
            if !lost && let Some(offer) = replica.find(layer, asker, moment) {
                return offer;
            }
            self.members[node].prefers = (prefers + 1) % REPLICAS;
        }
        // Nobody knows: what a node does then is wait, and ask again.
        Offer {
            rationed: true,
            ..Offer::default()
        }
    }

    fn request(&mut self, node: NodeNo, layer: LayerNo, peer: NodeNo) {
        let back = self.now + delay(&mut self.random) + delay(&mut self.random);
        let slots = self.scenario.slots;
        let to = &mut self.members[peer];
        to.asked.count(self.now);
        let (when, outcome) = if !to.alive || to.manner == Manner::Silent {
            (self.now + DEADLINE, Outcome::Failed)
        } else if !to.holds[layer] {
            (back, Outcome::Failed)
        } else if to.serving >= slots {
            (back, Outcome::Busy)
        } else {
            to.serving += 1;
            // The link is shared.
            let took = self.random.around(TRANSFER * slots as u32, 0.3);
            self.agenda.at(self.now + took, Event::Served(peer));
            let outcome = match to.manner {
                Manner::Wrong => Outcome::Wrong,
                _ => Outcome::Good(took),
            };
            (back + took, outcome)
        };
        self.agenda
            .at(when, Event::Ended(node, layer, peer, outcome));
    }

    fn ended(&mut self, node: NodeNo, layer: LayerNo, peer: NodeNo, outcome: Outcome) {
        // Who crashed meanwhile has not sent all of it.
        let outcome = match (self.members[peer].alive, outcome) {
            (false, Outcome::Good(_) | Outcome::Wrong | Outcome::Busy) => Outcome::Failed,
            (_, outcome) => outcome,
        };
        let id = self.members[peer].id.clone();
        let member = &mut self.members[node];
        if !member.alive {
            return;
        }
        member
            .chooser
            .finished(&id, outcome, self.now, &mut self.random);
        match outcome {
            Outcome::Good(_) => {
                let wrong = self.members[peer].manner == Manner::Wrong;
                self.report.wrong_delivered += usize::from(wrong);
                self.have(node, layer);
            }
            Outcome::Busy => {
                self.report.busy += 1;
                if let Some(attempt) = &mut member.reads[layer] {
                    attempt.was_busy(&id);
                }
                self.try_read(node, layer);
            }
            Outcome::Wrong => {
                self.report.wrong_received += 1;
                self.try_read(node, layer);
            }
            Outcome::Failed | Outcome::Dropped => self.try_read(node, layer),
        }
    }

    /// A node asks a home to pull; it is answered when the home has it.
    fn request_pull(&mut self, node: NodeNo, layer: LayerNo, home: NodeNo) {
        let to = &mut self.members[home];
        to.asked.count(self.now);
        if !to.alive || to.manner == Manner::Silent {
            let when = self.now + DEADLINE;
            self.agenda
                .at(when, Event::Ended(node, layer, home, Outcome::Failed));
            return;
        }
        if to.holds[layer] {
            let when = self.now + delay(&mut self.random);
            self.told_pulled(node, layer, home);
            self.agenda.at(when, Event::Try(node, layer));
            return;
        }
        self.pull(home, layer);
        let waiting = self.members[home].pulls[layer].as_mut();
        waiting.expect("it pulls").push(node);
    }

    /// From the registry, once however many ask.
    fn pull(&mut self, node: NodeNo, layer: LayerNo) {
        if self.members[node].pulls[layer].is_none() {
            self.members[node].pulls[layer] = Some(Vec::new());
            self.report.origin_reads += 1;
            let took = self.random.around(PULL, 0.3);
            self.agenda.at(self.now + took, Event::Pulled(node, layer));
        }
    }

    fn pulled(&mut self, node: NodeNo, layer: LayerNo) {
        let waiting = self.members[node].pulls[layer].take().unwrap_or_default();
        if !self.members[node].alive {
            return;
        }
        self.have(node, layer);
        for waits in waiting {
            let when = self.now + delay(&mut self.random);
            self.told_pulled(waits, layer, node);
            self.agenda.at(when, Event::Try(waits, layer));
        }
    }

    /// A home answers that it has what it was to pull.
    fn told_pulled(&mut self, node: NodeNo, layer: LayerNo, home: NodeNo) {
        let home = self.members[home].id.clone();
        let (now, random) = (self.now, &mut self.random);
        let member = &mut self.members[node];
        member
            .chooser
            .finished(&home, Outcome::Dropped, now, random);
        if let Some(attempt) = &mut member.reads[layer] {
            attempt.has_pulled(&home);
        }
    }

    fn have(&mut self, node: NodeNo, layer: LayerNo) {
        let member = &mut self.members[node];
        if member.holds[layer] {
            return;
        }
        member.holds[layer] = true;
        member.reads[layer] = None;
        self.report.took = self.now.saturating_sub(START);
        for replica in 0..REPLICAS {
            let pace = &mut self.members[node].paces[replica];
            pace.changed(self.now, &mut self.random);
            self.plan_beat(node, replica);
        }
    }

    fn crash(&mut self, node: NodeNo) {
        self.members[node].alive = false;
        for layer in 0..self.scenario.layers {
            let waiting = self.members[node].pulls[layer].take().unwrap_or_default();
            for waits in waiting {
                let when = self.now + delay(&mut self.random);
                self.agenda
                    .at(when, Event::Ended(waits, layer, node, Outcome::Failed));
            }
        }
    }

    fn conclude(mut self) -> Report {
        let alive = || self.members.iter().filter(|member| member.alive);
        let has_all = |member: &&Member| member.holds.iter().all(|holds| *holds);
        self.report.missing = alive().count() - alive().filter(has_all).count();
        let want: Vec<Beat> = {
            let mut beats: Vec<Beat> = alive().map(Member::beat).collect();
            beats.sort_by(|a, b| a.node_id.cmp(&b.node_id));
            beats
        };
        let agrees = |replica: &Replica| {
            let told = |node: &Node| (node.id().clone(), node.layers().to_vec());
            let known = replica.registry.every().map(told);
            known.eq(want
                .iter()
                .map(|beat| (beat.node_id.clone(), beat.layers.clone())))
        };
        self.report.replicas_agree = self.replicas.iter().all(agrees);
        let peaks = self.members.iter().map(|member| member.asked.most);
        self.report.peer_requests_peak = peaks.max().unwrap_or(0);
        let most = |peak: fn(&Replica) -> usize| self.replicas.iter().map(peak).max().unwrap_or(0);
        self.report.beats_peak = most(|replica| replica.beats.most);
        self.report.finds_peak = most(|replica| replica.finds.most);
        self.report
    }

    fn is_lost(&mut self) -> bool {
        self.random.below(1000) < self.scenario.lost
    }

    fn moment(&self) -> Now {
        Now {
            since: self.now,
            unix_s: 0,
        }
    }
}

impl Member {
    fn new(number: NodeNo, scenario: &Scenario, random: &mut Random) -> Self {
        let id = NodeId::parse(&format!("n{number}")).expect("a name");
        let manner = match random.below(1000) {
            // One node at least is good.
            _ if number == 0 => Manner::Good,
            n if n < scenario.wrong => Manner::Wrong,
            n if n < scenario.wrong + scenario.silent => Manner::Silent,
            _ => Manner::Good,
        };
        let mut pace = || Pace::new(Tempo::default(), Duration::ZERO, random);
        let paces: Vec<Pace> = (0..REPLICAS).map(|_| pace()).collect();
        Self {
            chooser: Chooser::new(id.clone(), ChoiceConfig::default()),
            id,
            alive: true,
            manner,
            holds: vec![false; scenario.layers],
            reads: vec![None; scenario.layers],
            pulls: vec![None; scenario.layers],
            due: paces.iter().map(Pace::due).collect(),
            paces,
            serving: 0,
            asked: Peak::default(),
            prefers: number % REPLICAS,
        }
    }

    fn beat(&self) -> Beat {
        let held = (0..).zip(&self.holds).filter(|(_, holds)| **holds);
        Beat {
            node_id: self.id.clone(),
            endpoint: "10.0.0.1:7071".into(),
            layers: held
                .map(|(layer, _)| HeldLayer {
                    digest: digest(layer),
                    bytes: 1,
                })
                .collect(),
            images: Vec::new(),
            state: State::default(),
            cache_bytes_max: 0,
        }
    }
}

impl Replica {
    fn new(scenario: &Scenario, now: Duration) -> Self {
        let limits = Limits {
            providers_max: 16,
            named_per_s: scenario.named_per_s,
            ..Limits::default()
        };
        let now = Now {
            since: now,
            unix_s: 0,
        };
        Self {
            rations: Rations::new(limits.named_per_s),
            registry: Registry::new(limits, now),
            beats: Peak::default(),
            finds: Peak::default(),
        }
    }

    /// As the service answers: nothing, unless it knows.
    fn find(&mut self, layer: LayerNo, asker: u64, now: Now) -> Option<Offer> {
        let digest = digest(layer);
        let holders = self.registry.holders(&digest);
        if holders == 0 && !self.registry.is_warm(now) {
            return None;
        }
        // One question of a node is for both, holders and homes; of what nobody holds, those for homes are counted.
        if !self.rations.take(&digest, holders.max(1), now.since) {
            return Some(Offer {
                rationed: true,
                ..Offer::default()
            });
        }
        let provider = |node: &Node| Provider {
            id: node.id().clone(),
            distance: 0,
        };
        let found = self.registry.with_layer(&digest, asker);
        Some(Offer {
            providers: found.into_iter().map(provider).collect(),
            ..Offer::default()
        })
    }

    fn homes(&self, layer: LayerNo) -> Vec<NodeId> {
        let homes = self.registry.homes(&digest(layer), &[], HOMES);
        homes.into_iter().map(|node| node.id().clone()).collect()
    }
}

fn digest(layer: usize) -> Sha256Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(layer as u64).to_be_bytes());
    Sha256Digest::from_bytes(bytes)
}
