use super::*;

const MS: Duration = Duration::from_millis(1);

fn id(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn near(names: &[&str]) -> Vec<Provider> {
    let provider = |name: &&str| Provider {
        id: id(name),
        distance: 0,
    };
    names.iter().map(provider).collect()
}

struct Node {
    chooser: Chooser,
    random: Random,
    now: Duration,
}

impl Node {
    fn new() -> Self {
        Self {
            chooser: Chooser::new(id("me"), ChoiceConfig::default()),
            random: Random::from_seed(1),
            now: 1000 * MS,
        }
    }

    fn next(&mut self, attempt: &mut Attempt, providers: &[Provider], homes: &[NodeId]) -> Step {
        let offer = Offer {
            providers: providers.to_vec(),
            homes: homes.to_vec(),
            rationed: false,
        };
        let Self {
            chooser,
            random,
            now,
        } = self;
        chooser.next(attempt, &offer, *now, random)
    }

    fn ended(&mut self, peer: &str, outcome: Outcome) {
        self.chooser.started(&id(peer), self.now);
        self.chooser
            .finished(&id(peer), outcome, self.now, &mut self.random);
    }

    /// Where `count` reads go, each left under way.
    fn spread(&mut self, providers: &[Provider], count: usize) -> HashMap<String, usize> {
        let mut asked = HashMap::new();
        for _ in 0..count {
            let mut attempt = Attempt::new(self.now);
            let Step::Peer(peer) = self.next(&mut attempt, providers, &[]) else {
                panic!("there are peers");
            };
            self.chooser.started(&peer, self.now);
            *asked.entry(peer.to_string()).or_default() += 1;
        }
        asked
    }
}

#[test]
fn a_read_goes_from_peers_to_a_pull_to_the_registry_and_tries_nobody_twice() {
    let mut node = Node::new();
    let providers = near(&["a", "b", "me"]);
    let homes = [id("h1"), id("h2")];
    let mut attempt = Attempt::new(node.now);
    let mut steps = Vec::new();
    for _ in 0..5 {
        let step = node.next(&mut attempt, &providers, &homes);
        if let Step::Peer(peer) = &step {
            node.ended(peer.as_str(), Outcome::Failed);
        }
        steps.push(step);
    }
    steps[..2].sort_by_key(|step| format!("{step:?}"));
    let want = [
        Step::Peer(id("a")),
        Step::Peer(id("b")),
        Step::Pull(id("h1")),
        Step::Pull(id("h2")),
        Step::Registry,
    ];
    assert_eq!(steps, want);
}

#[test]
fn the_home_of_a_layer_asks_the_registry_itself() {
    let mut node = Node::new();
    let mut attempt = Attempt::new(node.now);
    assert_eq!(
        node.next(&mut attempt, &[], &[id("me"), id("h2")]),
        Step::Registry
    );
}

#[test]
fn load_is_spread_and_slow_peers_get_less_of_it() {
    let mut node = Node::new();
    let providers = near(&["a", "b", "c", "d"]);
    let even = node.spread(&providers, 40);
    assert!(
        even.values().all(|count| (8..=12).contains(count)),
        "{even:?}"
    );

    let mut node = Node::new();
    for _ in 0..20 {
        for (peer, ms) in [("a", 90), ("b", 10), ("c", 10), ("d", 10)] {
            node.ended(peer, Outcome::Good(ms * MS));
        }
    }
    let uneven = node.spread(&providers, 40);
    assert!(uneven.get("a").copied().unwrap_or(0) <= 4, "{uneven:?}");
}

#[test]
fn nearer_peers_are_asked_until_they_have_enough_to_do() {
    let mut node = Node::new();
    let mut providers = near(&["far1", "far2", "near"]);
    providers[0].distance = 2;
    providers[1].distance = 2;
    let asked = node.spread(&providers, 20);
    assert_eq!(asked["near"], 16, "as many as one may have");
    assert_eq!(asked.values().sum::<usize>(), 20);
}

#[test]
fn wrong_bytes_cost_one_request_and_trust_for_long() {
    let mut node = Node::new();
    node.ended("a", Outcome::Wrong);
    node.now += 599_000 * MS;
    assert_eq!(node.spread(&near(&["a", "b"]), 10)["b"], 10);
    node.now += 2_000 * MS;
    assert!(node.spread(&near(&["a", "b"]), 10).contains_key("a"));
}

#[test]
fn failures_in_a_row_cost_more_and_a_good_answer_forgives() {
    let mut node = Node::new();
    let mut waits = Vec::new();
    for _ in 0..12 {
        node.ended("a", Outcome::Failed);
        let began = node.now;
        while node.chooser.in_disgrace(node.now) > 0 {
            node.now += 10 * MS;
        }
        waits.push(node.now.saturating_sub(began));
    }
    assert!(
        waits[0] <= 700 * MS && waits[11] <= 38_000 * MS,
        "{waits:?}"
    );
    assert!(waits[4] > 4 * waits[0], "{waits:?}");
    node.ended("a", Outcome::Good(MS));
    node.ended("a", Outcome::Failed);
    node.now += 700 * MS;
    assert_eq!(node.chooser.in_disgrace(node.now), 0);
}

#[test]
fn busy_peers_are_waited_for_and_not_for_ever() {
    let mut node = Node::new();
    let (providers, homes) = (near(&["a"]), [id("h")]);
    let mut attempt = Attempt::new(node.now);
    let (began, mut asked) = (node.now, 0);
    loop {
        match node.next(&mut attempt, &providers, &homes) {
            Step::Peer(peer) => {
                node.ended(peer.as_str(), Outcome::Busy);
                attempt.was_busy(&peer);
                asked += 1;
            }
            Step::Wait(wait) => {
                assert!(wait >= 25 * MS && wait <= 2400 * MS, "{wait:?}");
                node.now += wait;
            }
            step => {
                assert_eq!(step, Step::Pull(id("h")));
                break;
            }
        }
    }
    let waited = node.now.saturating_sub(began);
    assert!(waited >= 30_000 * MS && waited <= 32_400 * MS, "{waited:?}");
    assert!((10..=40).contains(&asked), "{asked}");
}

#[test]
fn who_is_told_to_ask_again_waits_and_a_busy_home_is_waited_for() {
    let mut node = Node::new();
    let mut attempt = Attempt::new(node.now);
    let offer = Offer {
        rationed: true,
        ..Offer::default()
    };
    let Node {
        chooser,
        random,
        now,
    } = &mut node;
    let step = chooser.next(&mut attempt, &offer, *now, random);
    assert!(matches!(step, Step::Wait(_)), "{step:?}");
    *now += 31_000 * MS;
    let step = chooser.next(&mut attempt, &offer, *now, random);
    assert_eq!(step, Step::Registry, "patience ends");

    let mut attempt = Attempt::new(node.now);
    let homes = [id("h1"), id("h2")];
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Pull(id("h1")));
    node.ended("h1", Outcome::Busy);
    attempt.was_busy(&id("h1"));
    let step = node.next(&mut attempt, &[], &homes);
    assert!(matches!(step, Step::Wait(_)), "not the next one: {step:?}");
    node.now += 100 * MS;
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Pull(id("h1")));
}

#[test]
fn who_pulled_it_for_us_is_asked_before_discovery_knows_of_it() {
    let mut node = Node::new();
    let mut attempt = Attempt::new(node.now);
    let homes = [id("h1"), id("h2")];
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Pull(id("h1")));
    attempt.has_pulled(&id("h1"));
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Peer(id("h1")));
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Pull(id("h2")));
    attempt.has_pulled(&id("h2"));
    let step = node.next(&mut attempt, &near(&["a", "h2"]), &homes);
    assert!(matches!(step, Step::Peer(_)), "{step:?}");
}

#[test]
fn who_pulled_it_and_has_nothing_is_asked_once() {
    let mut node = Node::new();
    let mut attempt = Attempt::new(node.now);
    let homes = [id("h1"), id("h2")];
    for home in &homes {
        assert_eq!(
            node.next(&mut attempt, &[], &homes),
            Step::Pull(home.clone())
        );
        attempt.has_pulled(home);
        assert_eq!(
            node.next(&mut attempt, &[], &homes),
            Step::Peer(home.clone())
        );
        node.ended(home.as_str(), Outcome::Dropped);
        attempt.has_no_more(home);
    }
    assert_eq!(node.next(&mut attempt, &[], &homes), Step::Registry);
    // Somebody names it after all.
    let step = node.next(&mut attempt, &near(&["h1"]), &homes);
    assert_eq!(step, Step::Peer(id("h1")));
}

#[test]
fn second_requests_follow_the_p95_and_stay_few() {
    let mut node = Node::new();
    assert_eq!(node.chooser.hedge_after(), 250 * MS);
    for n in 0..128 {
        let took = if n % 10 == 0 { 400 * MS } else { 20 * MS };
        node.ended("a", Outcome::Good(took));
    }
    assert_eq!(node.chooser.hedge_after(), 400 * MS);
    let providers = near(&["b", "c"]);
    let mut second = 0;
    for _ in 0..1000 {
        node.ended("a", Outcome::Good(20 * MS));
        let mut attempt = Attempt::new(node.now);
        let Node {
            chooser,
            random,
            now,
        } = &mut node;
        second += u32::from(
            chooser
                .hedge(&mut attempt, &providers, *now, random)
                .is_some(),
        );
    }
    assert!((100..=115).contains(&second), "{second} of 1000");
}

#[test]
fn peers_are_forgotten_but_not_those_under_way() {
    let mut node = Node::new();
    node.chooser.config.peers_known_max = 2;
    node.chooser.started(&id("a"), node.now);
    for n in 0..10 {
        node.now += MS;
        node.ended(&format!("b{n}"), Outcome::Good(MS));
    }
    let mut known: Vec<_> = node.chooser.peers.keys().map(NodeId::as_str).collect();
    known.sort_unstable();
    assert_eq!(known, ["a", "b9"]);
}

#[test]
fn requests_that_fail_together_are_one_failure() {
    let mut node = Node::new();
    for _ in 0..16 {
        node.chooser.started(&id("a"), node.now);
    }
    for _ in 0..16 {
        let Node {
            chooser,
            random,
            now,
        } = &mut node;
        chooser.finished(&id("a"), Outcome::Failed, *now, random);
    }
    assert_eq!(node.chooser.in_disgrace(node.now), 1);
    node.now += 2 * node.chooser.config.penalty;
    assert_eq!(node.chooser.in_disgrace(node.now), 0);
    // One that fails again is left for longer.
    node.ended("a", Outcome::Failed);
    node.now += node.chooser.config.penalty;
    assert_eq!(node.chooser.in_disgrace(node.now), 1);
}
