//! Reading through nodes of this process that misbehave: whatever they do, only right bytes are delivered, and as long
//! as one of them is sound nothing fails.

mod node;
mod together;

use super::*;
use crate::agent::fetch::{FetchError, Fetcher, Patience, Urgency};
use crate::agent::sources::{Source, Sources};
use crate::agent::space::Space;
use crate::agent::stores::Way;
use crate::cluster_file::ServerNames;
use crate::sample::Sample;
use lamina_discovery::service::{Identity, Service};
use lamina_discovery::{Clock, Limits, NodeId};
use lamina_flist::{BlobId, FlistDigest, ProfileRange};
use lamina_mount::cache::{CacheDir, Trust};
use lamina_store::{ChunkReader, ReadOptions, StoreOptions, StoreSet};
use node::{Fault, Node};
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio::runtime::Runtime;

/// A reader's machine, and what it reads.
struct Scene {
    runtime: Runtime,
    dir: tempfile::TempDir,
    sample: Arc<Sample>,
    discovery: node::Discovery,
    nodes: Vec<Node>,
    sources: Sources,
    fetcher: Arc<Fetcher>,
    cluster: Arc<Cluster>,
}

impl Scene {
    /// Nodes that have the layer and these faults.
    fn new(faults: &[Fault]) -> Self {
        Self::with(faults, Patience::default())
    }

    fn with(faults: &[Fault], patience: Patience) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let sample = Sample::make(dir.path(), 16, 400_000, runtime.handle());
        let sample = Arc::new(sample);
        let inside = runtime.enter();
        let discovery = node::Discovery::start();
        let nodes: Vec<Node> = (0..)
            .zip(faults)
            .map(|(at, fault)| Node::start(&format!("n{at}"), &sample, *fault))
            .collect();
        for node in &nodes {
            runtime.block_on(discovery.told(node, &sample.layer, true));
        }
        let run_dir = dir.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        let file = ClusterFile {
            node: "me".into(),
            endpoint: "127.0.0.1:1".into(),
            discovery: vec![discovery.at.to_string()],
            tls: None,
            server_names: ServerNames::default(),
            socket: dir.path().join("node.sock"),
        };
        let text = serde_json::to_string(&file).unwrap();
        std::fs::write(ClusterFile::path(&run_dir), text).unwrap();
        let cluster = Cluster::open(&run_dir);
        assert!(cluster.member().is_some());
        drop(inside);
        let space = Arc::new(Space::open(&dir.path().join("cache")).unwrap());
        let cache = CacheDir::new(dir.path().join("cache"));
        Self {
            sources: Sources::new(cache, Arc::clone(&space)),
            fetcher: Fetcher::new(space, Arc::clone(&cluster), patience),
            runtime,
            dir,
            sample,
            discovery,
            nodes,
            cluster,
        }
    }

    /// The blob, of a flist without stores.
    fn source(&self) -> Arc<Source> {
        self.source_with(None)
    }

    fn source_with(&self, store: Option<&str>) -> Arc<Source> {
        let set = |url: &str| {
            let options = StoreOptions::default();
            let set = StoreSet::open(&[url.parse().unwrap()], options).unwrap();
            ChunkReader::new(set, ReadOptions::default())
        };
        let reader = store.map(set);
        let trust = |_: &BlobId| Trust::Closed;
        let opened = self.sources.open(
            &self.sample.flist,
            reader.as_ref(),
            &Way::default(),
            None,
            trust,
        );
        opened.unwrap().remove(0)
    }

    /// Reads everything, as `readers` at once that begin at different places and want overlapping pieces.
    fn read_all(&self, source: &Arc<Source>, readers: u32) -> Vec<FetchError> {
        let count = source.entries();
        let read = |reader: u32| {
            let (fetcher, source) = (Arc::clone(&self.fetcher), Arc::clone(source));
            self.runtime.spawn(async move {
                let mut failures = Vec::new();
                for step in 0..count.div_ceil(3) {
                    let first = (step * 3 + reader * count / readers) % count;
                    let entries = first..(first + 4).min(count);
                    let read = fetcher.ensure(&source, entries, Urgency::Demand).await;
                    failures.extend(read.err());
                }
                failures
            })
        };
        let reading: Vec<_> = (0..readers).map(read).collect();
        let failures = reading.into_iter().map(|read| self.runtime.block_on(read));
        failures.flat_map(Result::unwrap).collect()
    }

    /// Everything is here and is what it must be.
    fn assert_whole(&self, source: &Source) {
        for entry in 0..source.entries() {
            assert!(source.has(entry), "entry {entry}");
            let plain = self.sample.plain(entry);
            let mut got = vec![0; plain.len()];
            let offset = source.file.map().get(entry as usize).offset;
            source.file.read_at(&mut got, offset).unwrap();
            assert!(got == plain, "entry {entry}");
        }
    }

    fn assert_reads(&self, source: &Arc<Source>) {
        let failures = self.read_all(source, 8);
        assert!(
            failures.is_empty(),
            "{} failed: {}",
            failures.len(),
            failures[0]
        );
        self.assert_whole(source);
    }

    fn peer_bytes(source: &Source) -> u64 {
        source.counts.peer_bytes()
    }
}

#[test]
fn a_flist_without_stores_is_read_from_nodes_alone() {
    let scene = Scene::new(&[Fault::None, Fault::None, Fault::None]);
    let source = scene.source();
    scene.assert_reads(&source);
    assert_eq!(Scene::peer_bytes(&source), source.bytes_total());
    let asked = scene.nodes.iter().filter(|node| node.asked() > 0).count();
    assert!(asked >= 2, "the work is shared");
    let given: u64 = scene.nodes.iter().map(Node::given).sum();
    let travelled = source.counts.stored_bytes();
    assert!(given < travelled + travelled / 4, "{given} for {travelled}");
}

#[test]
fn wrong_bytes_are_never_delivered_and_their_giver_is_left() {
    for wrong in [
        Fault::OtherBytes,
        Fault::OtherEntry,
        Fault::OtherCodec,
        Fault::Bomb,
    ] {
        // Chance may leave it out.
        let read = |_| {
            let scene = Scene::new(&[wrong, Fault::None]);
            let source = scene.source();
            scene.assert_reads(&source);
            (scene.nodes[0].asked() > 0).then_some(scene)
        };
        let scene = (0..20).find_map(read);
        let scene = scene.expect("the one with wrong bytes is asked");
        // Once by each of those who asked it before the first had found out.
        let asked = scene.nodes[0].asked();
        assert!(asked <= 16, "{wrong:?}: {asked}");
        let member = scene.cluster.member().unwrap();
        assert_eq!(member.choices.in_disgrace(), 1, "{wrong:?}");
        let counts = scene.cluster.counts();
        assert!((1..=asked).contains(&counts.wrong), "{counts:?}");
        assert!(counts.good > 0, "{counts:?}");
        assert_eq!(
            (counts.busy, counts.failed),
            (0, 0),
            "{wrong:?}: {counts:?}"
        );
    }
}

#[test]
fn one_sound_node_among_bad_ones_is_enough() {
    let faults = [
        Fault::OtherBytes,
        Fault::Cut,
        Fault::Dead,
        Fault::Refuses,
        Fault::Cut,
        Fault::None,
        Fault::Dead,
        Fault::OtherBytes,
    ];
    let scene = Scene::new(&faults);
    let source = scene.source();
    scene.assert_reads(&source);
}

#[test]
fn a_node_that_trickles_or_says_nothing_is_left_within_two_seconds() {
    for slow in [Fault::Trickle, Fault::Silent, Fault::BlackHole] {
        let scene = Scene::new(&[slow, Fault::None]);
        let source = scene.source();
        let began = Instant::now();
        let entries = source.entries();
        for entry in (0..entries).step_by(5) {
            let fetching = scene
                .fetcher
                .ensure(&source, entry..entry + 1, Urgency::Demand);
            scene.runtime.block_on(fetching).unwrap();
        }
        // Without leaving it, every other read would take two seconds.
        assert!(began.elapsed() < Duration::from_secs(20), "{slow:?}");
        scene.assert_reads(&source);
    }
}

#[test]
fn a_busy_node_is_waited_for_when_there_is_nobody_else() {
    let scene = Scene::new(&[Fault::Busy(12)]);
    let source = scene.source();
    scene.assert_reads(&source);
}

#[test]
fn nodes_that_die_while_they_are_read_fail_nothing() {
    let mut scene = Scene::new(&[Fault::Slow, Fault::Slow, Fault::Slow]);
    let source = scene.source();
    let dying = scene.nodes.pop().unwrap();
    let first = scene.nodes.remove(0);
    let (asked, dead) = (dying.asks(), scene.runtime.handle().clone());
    let killer = std::thread::spawn(move || {
        let deadline = Instant::now() + Duration::from_secs(30);
        while asked.load(Ordering::Relaxed) == 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let _inside = dead.enter();
        drop(dying);
        drop(first);
    });
    scene.assert_reads(&source);
    killer.join().unwrap();
}

#[test]
fn without_discovery_the_nodes_known_so_far_are_asked() {
    let mut scene = Scene::new(&[Fault::None, Fault::None]);
    let source = scene.source();
    let first = scene.fetcher.ensure(&source, 0..1, Urgency::Demand);
    scene.runtime.block_on(first).unwrap();
    scene.discovery.end();
    scene.assert_reads(&source);
}

#[test]
fn without_discovery_those_are_asked_that_it_did_not_name_but_had_it() {
    #[derive(PartialEq)]
    enum Known {
        /// Has just pulled it for us.
        Brought,
        /// Discovery lost sight of it.
        LostSight,
        /// Discovery knew only a part of what it has.
        Part,
    }
    for known in [Known::Brought, Known::LostSight, Known::Part] {
        let mut scene = Scene::new(&[]);
        let inside = scene.runtime.enter();
        let fault = match known {
            Known::Part => Fault::None,
            _ => Fault::Empty,
        };
        let node = Node::start("n0", &scene.sample, fault);
        let told = |has| scene.discovery.told(&node, &scene.sample.layer, has);
        scene.runtime.block_on(told(false));
        drop(inside);
        let source = scene.source();
        if known == Known::Part {
            let parts = scene
                .discovery
                .has_part(&node, &scene.sample, source.entries());
            scene.runtime.block_on(parts);
        }
        let read = |entry| {
            let read = scene
                .fetcher
                .ensure(&source, entry..entry + 1, Urgency::Demand);
            scene.runtime.block_on(read).unwrap();
        };
        read(0);
        let member = scene.cluster.member().unwrap();
        let layer = member.known.layer(&scene.sample.layer);
        let ask = || {
            let asked = layer.offered(&member, &scene.sample.layer, true);
            scene.runtime.block_on(asked)
        };
        if known == Known::LostSight {
            for has in [true, false] {
                scene.runtime.block_on(told(has));
                std::thread::sleep(Duration::from_millis(250));
                assert_eq!(ask().endpoint(&NodeId::parse("n0").unwrap()).is_some(), has);
            }
        }
        assert_eq!(node.pulls(), u64::from(known != Known::Part));
        scene.nodes.push(node);
        scene.discovery.end();
        scene.assert_reads(&source);
    }
}

#[test]
fn stores_are_read_when_no_node_gives_anything() {
    let scene = Scene::new(&[Fault::OtherBytes, Fault::Dead]);
    let far = node::Web::serve(&scene.dir.path().join("store"));
    let source = scene.source_with(Some(&far.url()));
    scene.assert_reads(&source);
    assert_eq!(Scene::peer_bytes(&source), 0);
}

#[test]
fn a_store_far_away_is_left_alone_while_nodes_have_the_data_and_a_directory_is_nearer() {
    let scene = Scene::new(&[Fault::None]);
    let far = node::Web::serve(&scene.dir.path().join("store"));
    let source = scene.source_with(Some(&far.url()));
    scene.assert_reads(&source);
    assert_eq!(far.requests(), 0);
    assert_eq!(Scene::peer_bytes(&source), source.bytes_total());

    let scene = Scene::new(&[Fault::None]);
    let source = scene.source_with(Some(&scene.sample.store));
    scene.assert_reads(&source);
    assert_eq!(scene.nodes[0].asked(), 0);
}

#[test]
fn what_nobody_has_is_pulled_once_by_its_home_and_read_there() {
    let mut scene = Scene::new(&[]);
    let inside = scene.runtime.enter();
    let home = Node::start("home", &scene.sample, Fault::Empty);
    scene
        .runtime
        .block_on(scene.discovery.told(&home, &scene.sample.layer, false));
    drop(inside);
    scene.nodes.push(home);
    let source = scene.source();
    scene.assert_reads(&source);
    assert_eq!(scene.nodes[0].pulls(), 1);
    assert_eq!(Scene::peer_bytes(&source), source.bytes_total());
}

#[test]
fn our_own_layerstore_is_the_last_to_be_asked_and_its_bytes_are_no_peers() {
    let scene = Scene::new(&[]);
    let inside = scene.runtime.enter();
    let own = Node::own(&scene.dir.path().join("node.sock"), &scene.sample);
    drop(inside);
    let source = scene.source();
    scene.assert_reads(&source);
    assert_eq!(own.pulls(), 1);
    assert_eq!(Scene::peer_bytes(&source), 0);
}

#[test]
fn a_home_that_says_it_pulled_and_gives_nothing_keeps_nobody_from_the_data() {
    let mut scene = Scene::new(&[]);
    let inside = scene.runtime.enter();
    let home = Node::start("home", &scene.sample, Fault::Forgets);
    let own = Node::own(&scene.dir.path().join("node.sock"), &scene.sample);
    scene
        .runtime
        .block_on(scene.discovery.told(&home, &scene.sample.layer, false));
    drop(inside);
    scene.nodes.push(home);
    let source = scene.source();
    scene.assert_reads(&source);
    assert_eq!(own.pulls(), 1);
    // Not for as long as somebody waits.
    assert!(scene.nodes[0].asked() < 100, "{}", scene.nodes[0].asked());
}

#[test]
fn who_has_it_by_now_is_asked_while_a_home_pulls_from_a_registry_that_is_away() {
    let scene = Scene::new(&[]);
    let inside = scene.runtime.enter();
    let home = Node::start("home", &scene.sample, Fault::Pulls);
    let late = Node::start("late", &scene.sample, Fault::None);
    let layer = &scene.sample.layer;
    scene
        .runtime
        .block_on(scene.discovery.told(&home, layer, false));
    drop(inside);
    let source = scene.source();
    let (fetcher, read) = (Arc::clone(&scene.fetcher), Arc::clone(&source));
    let reading = scene
        .runtime
        .spawn(async move { fetcher.ensure(&read, 0..2, Urgency::Demand).await });
    while home.pulls() == 0 {
        std::thread::yield_now();
    }
    scene
        .runtime
        .block_on(scene.discovery.told(&late, layer, true));
    scene.runtime.block_on(reading).unwrap().unwrap();
    assert!(late.asked() > 0);
    scene.assert_reads(&source);
}

#[test]
fn when_nobody_has_it_readers_hear_so_in_time() {
    let patience = Patience {
        another: Duration::from_millis(50),
        last: Duration::from_millis(500),
    };
    let scene = Scene::with(&[Fault::Dead], patience);
    let source = scene.source();
    let fetching = scene.fetcher.ensure(&source, 0..2, Urgency::Demand);
    let failed = scene.runtime.block_on(fetching).unwrap_err();
    assert!(matches!(failed, FetchError::Nodes { .. }), "{failed}");
    assert!(failed.to_string().contains(&scene.sample.layer.to_string()));
}

#[test]
fn the_cluster_is_found_lost_and_found_by_its_file() {
    let scene = Scene::new(&[]);
    let _inside = scene.runtime.enter();
    let run_dir = scene.dir.path().join("run");
    let path = ClusterFile::path(&run_dir);
    let before = scene.cluster.member().unwrap();
    scene.cluster.look();
    let same = scene.cluster.member().unwrap();
    assert!(Arc::ptr_eq(&before, &same), "nothing changed");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, "half of").unwrap();
    scene.cluster.look();
    assert!(
        scene.cluster.member().is_some(),
        "it may be half of a change"
    );
    std::fs::write(&path, text.replace("\"me\"", "\"other\"")).unwrap();
    scene.cluster.look();
    assert_eq!(scene.cluster.member().unwrap().node().as_str(), "other");
    std::fs::remove_file(&path).unwrap();
    scene.cluster.look();
    assert!(scene.cluster.member().is_none());
}

fn service() -> Service {
    let limits = Limits {
        warm_up: Duration::ZERO,
        named_per_s: 1_000_000,
        ..Limits::default()
    };
    let clock = Clock::system();
    let upstream = lamina_discovery::resolve::RegistryUpstream {
        credentials: lamina_image::registry::CredentialSource::Explicit(
            lamina_image::registry::Credentials::Anonymous,
        ),
        insecure: Vec::new(),
        limits: lamina_image::Limits::default(),
    };
    let config = lamina_discovery::resolve::ResolveConfig::default();
    let resolver = lamina_discovery::resolve::Resolver::new(upstream, config, clock.clone());
    Service::new(limits, Identity::Anyone, resolver, clock, "test").unwrap()
}

#[test]
fn what_a_start_read_is_known_to_others() {
    let scene = Scene::new(&[]);
    let member = scene.cluster.member().unwrap();
    let (flist, other) = (scene.sample.flist.digest(), FlistDigest::of(b"another"));
    let range = |first_entry| ProfileRange {
        blob: 0,
        first_entry,
        count: 2,
    };
    let ask = |flist| scene.runtime.block_on(member.profile(flist));
    assert_eq!(ask(&flist), []);
    let start = [range(7), range(1)];
    let telling = member.tell_profile(&flist, &start, &[0]);
    scene.runtime.block_on(telling);
    assert_eq!(ask(&flist), start, "in the order of first use");
    assert_eq!(ask(&other), []);
}
