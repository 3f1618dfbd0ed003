use super::*;
use crate::beat::{HeldImage, HeldLayer};
use crate::random::Random;

const TTL: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Now {
    Now {
        since: Duration::from_secs(seconds),
        unix_s: 1_000_000 + i64::try_from(seconds).unwrap(),
    }
}

fn digest(n: u32) -> Sha256Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Sha256Digest::from_bytes(bytes)
}

fn key(n: u32) -> ImageKey {
    ImageKey::parse(&format!("q.io/i{n}|1|linux|amd64|")).unwrap()
}

fn beat(id: &str, layers: &[u32], images: &[u32]) -> Beat {
    let layers = layers.iter().map(|n| HeldLayer {
        digest: digest(*n),
        bytes: u64::from(*n),
    });
    let images = images.iter().map(|n| HeldImage {
        key: key(*n),
        said: key(*n).as_str().into(),
    });
    Beat {
        node_id: NodeId::parse(id).unwrap(),
        endpoint: format!("{id}:1").into(),
        layers: layers.collect(),
        images: images.collect(),
        cache_bytes_max: 1,
        state: State::default(),
    }
}

fn names(nodes: &[&Node]) -> Vec<String> {
    nodes.iter().map(|node| node.id().to_string()).collect()
}

fn registry(limits: Limits) -> Registry {
    Registry::new(limits, at(0))
}

#[test]
fn a_node_lives_until_its_time_is_over_and_no_longer() {
    let mut registry = registry(Limits::with_ttl(TTL));
    registry.beat(beat("a", &[1], &[1]), at(0)).unwrap();
    for second in 1..30 {
        assert_eq!(registry.tick(at(second)), 0);
        assert_eq!(names(&registry.with_layer(&digest(1), 0)), ["a"]);
    }
    registry.beat(beat("b", &[1], &[]), at(29)).unwrap();
    assert_eq!(registry.tick(at(30)), 1);
    assert_eq!(names(&registry.with_layer(&digest(1), 0)), ["b"]);
    assert!(registry.with_image(&key(1), 0).is_empty());
    for second in 31..60 {
        registry.tick(at(second));
    }
    assert_eq!(registry.totals(), Totals::default());
    assert_eq!(registry.expired(), 2);
}

#[test]
fn a_heartbeat_replaces_what_was_said_before() {
    let mut registry = registry(Limits::default());
    registry.beat(beat("a", &[1, 2, 3], &[1]), at(0)).unwrap();
    registry.beat(beat("b", &[2], &[]), at(0)).unwrap();
    registry.beat(beat("a", &[2, 4], &[2]), at(1)).unwrap();
    for (layer, holders) in [
        (1, vec![]),
        (2, vec!["a", "b"]),
        (3, vec![]),
        (4, vec!["a"]),
    ] {
        assert_eq!(
            names(&registry.with_layer(&digest(layer), 0)),
            holders,
            "{layer}"
        );
    }
    assert!(registry.with_image(&key(1), 0).is_empty());
    assert_eq!(names(&registry.with_both(&key(2), &digest(4), 0)), ["a"]);
    assert!(registry.with_both(&key(2), &digest(1), 0).is_empty());
    let told = registry.get(&NodeId::parse("a").unwrap()).unwrap().whole();
    assert_eq!(
        told.layer_digests,
        [digest(2).to_string(), digest(4).to_string()]
    );
    assert_eq!(
        (told.last_seen_unix, told.endpoint.as_str()),
        (1_000_001, "a:1")
    );
}

#[test]
fn a_full_registry_refuses_newcomers_and_drops_nobody_before_his_time() {
    let mut registry = registry(Limits {
        nodes_max: 2,
        items_max: 4,
        ..Limits::with_ttl(TTL)
    });
    registry.beat(beat("a", &[1], &[]), at(0)).unwrap();
    registry.beat(beat("b", &[1], &[]), at(5)).unwrap();
    assert_eq!(
        registry.beat(beat("c", &[], &[]), at(9)),
        Err(Full::Nodes(2))
    );
    let greedy = beat("b", &[1, 2, 3, 4], &[]);
    assert_eq!(registry.beat(greedy, at(9)), Err(Full::Items(4)));
    assert_eq!(names(&registry.with_layer(&digest(1), 0)), ["a", "b"]);
    for second in 10..30 {
        registry.tick(at(second));
    }
    registry.beat(beat("c", &[], &[]), at(30)).unwrap();
    assert_eq!(names(&registry.every().collect::<Vec<_>>()), ["b", "c"]);
}

#[test]
fn a_replica_that_was_stopped_takes_nobody_for_dead() {
    let mut registry = registry(Limits::with_ttl(TTL));
    registry.beat(beat("a", &[1], &[]), at(0)).unwrap();
    registry.tick(at(1));
    assert_eq!(registry.tick(at(600)), 0);
    for second in 601..628 {
        assert_eq!(registry.tick(at(second)), 0, "{second}");
    }
    assert_eq!(registry.tick(at(630)), 1, "awake, it expires as ever");
}

#[test]
fn looks_that_are_a_little_late_let_nobody_live_for_ever() {
    let mut registry = registry(Limits::with_ttl(Duration::from_secs(3)));
    registry.beat(beat("a", &[1], &[]), at(0)).unwrap();
    let late = |tick: u64| Now {
        since: Duration::from_millis(1_010 * tick),
        unix_s: 0,
    };
    let gone: usize = (1..=3).map(|tick| registry.tick(late(tick))).sum();
    assert_eq!(gone, 1);
}

#[test]
fn many_askers_are_spread_over_all_holders() {
    let mut registry = registry(Limits {
        providers_max: 16,
        ..Limits::default()
    });
    for node in 0..100 {
        registry
            .beat(beat(&format!("n{node:03}"), &[1], &[]), at(0))
            .unwrap();
    }
    let mut random = Random::from_seed(1);
    let mut asked = BTreeMap::new();
    for _ in 0..1000 {
        let asker = random.next_u64();
        let part = names(&registry.with_layer(&digest(1), asker));
        assert_eq!(part.len(), 16);
        assert!(part.is_sorted_by(|a, b| a < b), "by id, each once");
        assert_eq!(
            part,
            names(&registry.with_layer(&digest(1), asker)),
            "the same again"
        );
        for id in part {
            *asked.entry(id).or_insert(0) += 1;
        }
    }
    assert_eq!(asked.len(), 100);
    assert!(
        asked.values().all(|count| (80..=240).contains(count)),
        "{asked:?}"
    );
}

#[test]
fn indexes_agree_with_a_plain_list_after_any_history() {
    for seed in 0..50 {
        let mut random = Random::from_seed(seed);
        let mut registry = registry(Limits::with_ttl(TTL));
        let mut model: BTreeMap<String, (u64, Vec<u32>)> = BTreeMap::new();
        for second in 0..200 {
            let id = format!("n{}", random.below(6));
            let layers: Vec<u32> = (0..8).filter(|_| random.below(3) == 0).collect();
            registry.beat(beat(&id, &layers, &[]), at(second)).unwrap();
            model.insert(id, (second, layers));
            model.retain(|_, (seen, _)| *seen + 30 > second);
            let items: usize = model.values().map(|(_, layers)| layers.len()).sum();
            assert_eq!(registry.totals().items, items);
            for layer in 0..8 {
                let holds = |(id, (_, layers)): (&String, &(u64, Vec<u32>))| {
                    layers.contains(&layer).then(|| id.clone())
                };
                let want: Vec<String> = model.iter().filter_map(holds).collect();
                assert_eq!(names(&registry.with_layer(&digest(layer), 0)), want);
            }
        }
    }
}

/// Seconds pass; how many nodes go.
fn pass(registry: &mut Registry, seconds: std::ops::RangeInclusive<u64>) -> usize {
    seconds.map(|second| registry.tick(at(second))).sum()
}

fn state(number: u64) -> State {
    State::parse("state", &number.to_be_bytes()).unwrap()
}

/// A change from holding `old` to holding `new`.
fn change(id: &str, states: (u64, u64), old: &[u32], new: &[u32]) -> Change {
    let only = |these: &[u32], those: &[u32]| -> Vec<u32> {
        let these = these.iter().copied();
        these.filter(|n| !those.contains(n)).collect()
    };
    Change {
        since: state(states.0),
        added: Beat {
            state: state(states.1),
            ..beat(id, &only(new, old), &only(new, old))
        },
        removed_layers: only(old, new).into_iter().map(digest).collect(),
        removed_images: only(old, new).into_iter().map(key).collect(),
    }
}

#[test]
fn changes_come_to_the_same_as_saying_everything() {
    for seed in 0..50 {
        let mut random = Random::from_seed(seed);
        let (mut whole, mut told) = (registry(Limits::default()), registry(Limits::default()));
        let first = |beat: Beat| Beat {
            state: state(0),
            ..beat
        };
        for registry in [&mut whole, &mut told] {
            registry.beat(first(beat("n", &[], &[])), at(0)).unwrap();
            registry.beat(beat("other", &[1, 2], &[1]), at(0)).unwrap();
        }
        let mut old = Vec::new();
        for turn in 1..40 {
            let new: Vec<u32> = (0..8).filter(|_| random.below(3) > 0).collect();
            let named = Beat {
                state: state(turn),
                ..beat("n", &new, &new)
            };
            whole.beat(named, at(turn / 2)).unwrap();
            let change = change("n", (turn - 1, turn), &old, &new);
            assert_eq!(told.change(change, at(turn / 2)), Ok(state(turn)));
            old = new;
            assert_eq!(told.totals(), whole.totals());
            let told: Vec<_> = told.every().map(Node::whole).collect();
            assert_eq!(told, whole.every().map(Node::whole).collect::<Vec<_>>());
        }
        for n in 0..8 {
            let layer = |registry: &Registry| names(&registry.with_layer(&digest(n), 0));
            let image = |registry: &Registry| names(&registry.with_image(&key(n), 0));
            assert_eq!(layer(&told), layer(&whole));
            assert_eq!(image(&told), image(&whole));
        }
    }
}

#[test]
fn a_change_since_another_state_is_not_taken_in() {
    let mut registry = registry(Limits::with_ttl(TTL));
    let stranger = change("a", (1, 2), &[1], &[1, 2]);
    assert_eq!(
        registry.change(stranger.clone(), at(0)),
        Ok(State::default())
    );
    assert_eq!(registry.totals(), Totals::default());
    registry.beat(beat("a", &[1], &[1]), at(0)).unwrap();
    assert_eq!(registry.change(stranger, at(0)), Ok(State::default()));
    let unnamed = Change {
        since: State::default(),
        ..change("a", (0, 2), &[1], &[1, 2])
    };
    assert_eq!(registry.change(unnamed, at(0)), Ok(State::default()));
    let named = Beat {
        state: state(7),
        ..beat("a", &[1], &[1])
    };
    registry.beat(named, at(0)).unwrap();
    assert_eq!(pass(&mut registry, 1..=20), 0);
    let older = change("a", (6, 8), &[1], &[1, 2]);
    assert_eq!(registry.change(older, at(20)), Ok(state(7)));
    assert!(registry.with_layer(&digest(2), 0).is_empty());
    assert_eq!(pass(&mut registry, 21..=29), 0);
    let gone = pass(&mut registry, 30..=30);
    assert_eq!(gone, 1, "it was no sign of life");
}

#[test]
fn a_node_that_holds_what_it_held_stays_alive_and_may_move() {
    let mut registry = registry(Limits::with_ttl(TTL));
    let named = Beat {
        state: state(1),
        ..beat("a", &[1], &[1])
    };
    registry.beat(named, at(0)).unwrap();
    assert_eq!(pass(&mut registry, 1..=20), 0);
    let mut same = change("a", (1, 1), &[1], &[1]);
    same.added.endpoint = "moved:1".into();
    assert_eq!(registry.change(same, at(20)), Ok(state(1)));
    assert_eq!(pass(&mut registry, 21..=49), 0);
    assert_eq!(registry.with_layer(&digest(1), 0)[0].endpoint(), "moved:1");
    assert_eq!(pass(&mut registry, 50..=50), 1);
}

#[test]
fn changes_are_bounded_as_heartbeats_are() {
    let mut registry = registry(Limits {
        layers_max: 2,
        ..Limits::default()
    });
    let named = Beat {
        state: state(1),
        ..beat("a", &[1, 2], &[])
    };
    registry.beat(named, at(0)).unwrap();
    let more = registry.change(change("a", (1, 2), &[1, 2], &[1, 2, 3]), at(1));
    assert!(
        matches!(more, Err(Full::OfNode { layers: 2, .. })),
        "{more:?}"
    );
    assert!(registry.with_layer(&digest(3), 0).is_empty());
}

#[test]
fn parts_are_of_live_nodes_and_go_with_them() {
    let limits = Limits {
        all_parts_max: 3,
        ..Limits::with_ttl(TTL)
    };
    let mut registry = registry(limits);
    let part = |layer: u32, blob: u8| Part {
        layer: digest(layer),
        blob: lamina_flist::BlobId::from_bytes([blob; 32]),
        entries: 1,
        sections: crate::sections::Sections::of(1, |_| true),
    };
    let parts = |id: &str, parts: &[Part]| Parts {
        node_id: NodeId::parse(id).unwrap(),
        parts: parts.to_vec(),
    };
    let both = parts("a", &[part(1, 1), part(2, 2)]);
    let refused = registry.put_parts(both.clone(), at(0));
    assert_eq!(refused, Err(NoParts::NotAlive));
    registry.beat(beat("a", &[], &[]), at(0)).unwrap();
    (1..=20).for_each(|second| {
        registry.tick(at(second));
    });
    registry.beat(beat("b", &[2], &[]), at(20)).unwrap();
    registry.put_parts(both, at(20)).unwrap();
    registry
        .put_parts(parts("b", &[part(2, 2)]), at(20))
        .unwrap();
    let full = parts("b", &[part(2, 2), part(2, 3)]);
    assert_eq!(registry.put_parts(full, at(20)), Err(NoParts::Full(3)));
    let told = |registry: &Registry, layer: u32| {
        let found = registry.with_parts(&digest(layer), 0).into_iter();
        let named = found.map(|(node, parts)| (node.id().to_string(), parts.len()));
        named.collect::<Vec<_>>()
    };
    assert_eq!(told(&registry, 1), [("a".into(), 1)]);
    assert_eq!(told(&registry, 2), [("a".into(), 1), ("b".into(), 1)]);
    assert_eq!(names(&registry.with_layer(&digest(2), 0)), ["b"], "whole");
    registry
        .put_parts(parts("a", &[part(2, 2)]), at(21))
        .unwrap();
    assert_eq!(told(&registry, 1), []);
    (22..=31).for_each(|second| {
        registry.tick(at(second));
    });
    assert_eq!(told(&registry, 2), [("b".into(), 1)], "a is gone");
    registry.put_parts(parts("b", &[]), at(32)).unwrap();
    assert_eq!(told(&registry, 2), []);
}

#[test]
fn layers_that_are_wanted_together_have_a_best_home_each() {
    let mut registry = registry(Limits::with_ttl(TTL));
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        registry.beat(beat(name, &[], &[]), at(0)).unwrap();
    }
    let mut alone_twice = 0;
    for image in 0..50 {
        let layers: Vec<Sha256Digest> = (0..4).map(|n| digest(image * 4 + n)).collect();
        let best = |layer: &Sha256Digest, beside: &[Sha256Digest]| {
            let homes = names(&registry.homes(layer, beside, 4));
            assert_eq!(homes.len(), 4);
            assert_eq!(homes.iter().collect::<BTreeSet<_>>().len(), 4, "each once");
            homes[0].clone()
        };
        let distinct = |beside: &[Sha256Digest]| {
            let all: BTreeSet<String> = layers.iter().map(|layer| best(layer, beside)).collect();
            all.len()
        };
        alone_twice += usize::from(distinct(&[]) < 4);
        assert_eq!(distinct(&layers), 4);
        // Whoever leaves the layer itself out, or says them in another order, hears the same.
        let others: Vec<Sha256Digest> = layers[1..].iter().rev().copied().collect();
        assert_eq!(best(&layers[0], &others), best(&layers[0], &layers));
    }
    assert!(alone_twice > 10, "it makes a difference: {alone_twice}");
}

#[test]
fn more_layers_than_nodes_are_dealt_out_evenly() {
    let mut registry = registry(Limits::with_ttl(TTL));
    for name in ["a", "b", "c"] {
        registry.beat(beat(name, &[], &[]), at(0)).unwrap();
    }
    let layers: Vec<Sha256Digest> = (0..9).map(digest).collect();
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for layer in &layers {
        let homes = names(&registry.homes(layer, &layers, 4));
        *times.entry(homes[0].clone()).or_default() += 1;
    }
    assert_eq!(times.into_values().collect::<Vec<_>>(), [3, 3, 3]);
}
