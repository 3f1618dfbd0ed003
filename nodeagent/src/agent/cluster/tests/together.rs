//! Many nodes that begin to read one layer at the same moment.

use super::node::{Discovery, Fault, Node};
use super::*;
use crate::node::chunks::Bring;
use crate::node::partials;
use lamina_discovery::client::{Client, ClientConfig};
use std::path::PathBuf;
use std::sync::OnceLock;

const READERS: usize = 8;

/// One of them: it reads, and lets the others read what it has.
struct Reader {
    source: Arc<Source>,
    fetcher: Arc<Fetcher>,
    server: Node,
    reporting: tokio::task::JoinHandle<()>,
    _sources: Sources,
}

/// What its node tells to fetch for others.
#[derive(Default)]
struct Agent(OnceLock<(Arc<Fetcher>, Arc<Source>, tokio::runtime::Handle)>);

impl Bring for Agent {
    fn bring(&self, blob: &BlobId, entries: &[u32]) -> bool {
        let Some((fetcher, source, runtime)) = self.0.get() else {
            return false;
        };
        let _runtime = runtime.enter();
        source.id == *blob && fetcher.bring_for_others(source, entries)
    }
}

impl Reader {
    async fn start(number: usize, dir: PathBuf, sample: &Sample, discovery: &Discovery) -> Self {
        let (run_dir, cache) = (dir.join("run"), CacheDir::new(dir.join("cache")));
        let space = Arc::new(Space::open(cache.root()).unwrap());
        // As the agent keeps its flists: they say which layer a blob is of.
        let copy = format!("flists/{}.fl", sample.flist.digest());
        std::fs::write(cache.root().join(copy), sample.flist.as_bytes()).unwrap();
        let sources = Sources::new(cache.clone(), Arc::clone(&space));
        let trust = |_: &BlobId| Trust::Closed;
        let source = sources
            .open(&sample.flist, None, &Way::default(), None, trust)
            .unwrap()
            .remove(0);
        let id = format!("r{number}");
        let agent = Arc::new(Agent::default());
        let bring: Arc<dyn Bring> = Arc::clone(&agent) as _;
        let server = Node::of_cache(&id, cache.clone(), bring);
        discovery.told(&server, &sample.layer, false).await;
        let replicas = vec![discovery.at.to_string()];
        let client = Client::start(ClientConfig::new(replicas)).unwrap();
        let reporting = tokio::spawn(partials::report(Arc::new(client), id.clone(), cache));
        std::fs::create_dir(&run_dir).unwrap();
        let file = ClusterFile {
            node: id,
            endpoint: server.at.to_string(),
            discovery: vec![discovery.at.to_string()],
            tls: None,
            server_names: ServerNames::default(),
            socket: dir.join("node.sock"),
        };
        let text = serde_json::to_string(&file).unwrap();
        std::fs::write(ClusterFile::path(&run_dir), text).unwrap();
        let cluster = Cluster::open(&run_dir);
        let fetcher = Fetcher::new(space, cluster, Patience::default());
        let runtime = tokio::runtime::Handle::current();
        let brings = (Arc::clone(&fetcher), Arc::clone(&source), runtime);
        assert!(agent.0.set(brings).is_ok());
        Self {
            source,
            fetcher,
            server,
            reporting,
            _sources: sources,
        }
    }

    /// From front to back, as a start that is the same everywhere does.
    fn read(&self, urgency: Urgency) -> tokio::task::JoinHandle<()> {
        let (fetcher, source) = (Arc::clone(&self.fetcher), Arc::clone(&self.source));
        tokio::spawn(async move {
            for first in (0..source.entries()).step_by(4) {
                let entries = first..(first + 4).min(source.entries());
                let read = fetcher.ensure(&source, entries, urgency).await;
                read.unwrap();
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.reporting.abort();
    }
}

/// Readers that know each other, and the home of the layer.
struct Place {
    readers: Vec<Reader>,
    home: Node,
    sample: Sample,
    _discovery: Discovery,
    dir: tempfile::TempDir,
    runtime: Runtime,
}

impl Place {
    fn new(count: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let sample = Sample::make(dir.path(), 24, 400_000, runtime.handle());
        let inside = runtime.enter();
        let discovery = Discovery::start();
        let home = Node::start("home", &sample, Fault::Slow);
        runtime.block_on(discovery.told(&home, &sample.layer, true));
        drop(inside);
        let readers: Vec<Reader> = (0..count)
            .map(|number| {
                let dir = dir.path().join(number.to_string());
                std::fs::create_dir(&dir).unwrap();
                runtime.block_on(Reader::start(number, dir, &sample, &discovery))
            })
            .collect();
        runtime.block_on(discovery.knows_parts(&sample.layer, count));
        Self {
            readers,
            home,
            sample,
            _discovery: discovery,
            dir,
            runtime,
        }
    }
}

#[test]
fn a_node_fetches_for_others_what_it_reads_later_or_never() {
    let place = Place::new(2);
    let inside = place.runtime.enter();
    let reading = place.readers[1].read(Urgency::Ahead);
    drop(inside);
    place.runtime.block_on(reading).unwrap();
    assert!(place.readers[1].source.is_complete());
    let (drawn, from_idle) = (place.home.given(), place.readers[0].server.given());
    let stored: u64 = place.sample.whole.flist.packs().map(|pack| pack.len).sum();
    assert!(
        from_idle > 0 && drawn < stored * 3 / 2,
        "{drawn}, {from_idle}"
    );
    // What it fetched for the other one, it has.
    assert!(place.readers[0].source.bytes_local() > 0);
    assert!(!place.readers[0].source.is_complete());
}

/// How much all of them drew from the home, and of how much.
fn start_together(urgency: Urgency) -> (u64, u64) {
    let Place {
        readers,
        home,
        sample,
        _discovery,
        dir,
        runtime,
    } = Place::new(READERS);
    let inside = runtime.enter();
    let reading: Vec<_> = readers.iter().map(|r| r.read(urgency)).collect();
    drop(inside);
    for read in reading {
        runtime.block_on(read).unwrap();
    }
    let mut from_each_other = 0;
    for reader in &readers {
        assert!(reader.source.is_complete());
        for entry in 0..reader.source.entries() {
            let plain = sample.plain(entry);
            let mut got = vec![0; plain.len()];
            let offset = reader.source.file.map().get(entry as usize).offset;
            reader.source.file.read_at(&mut got, offset).unwrap();
            assert!(got == plain, "entry {entry}");
        }
        from_each_other += reader.server.given();
    }
    let stored: u64 = sample.whole.flist.packs().map(|pack| pack.len).sum();
    let drawn = home.given();
    println!("{drawn} of {stored} from the home, {from_each_other} from each other");
    assert!(from_each_other > 0);
    drop(dir);
    (drawn, stored)
}

#[test]
fn nodes_that_fetch_ahead_together_draw_a_layer_little_more_than_once_from_its_home() {
    let (drawn, stored) = start_together(Urgency::Ahead);
    assert!(drawn < 2 * stored, "{drawn} bytes of a layer of {stored}");
}

/// How long a demand waits for another node is short beside what a busy machine may do to a test: how much is saved is
/// not certain, that nothing is lost is.
#[test]
fn nodes_that_read_together_get_much_from_each_other() {
    let (drawn, stored) = start_together(Urgency::Demand);
    let alone = READERS as u64 * stored;
    assert!(drawn < alone, "{drawn} bytes of a layer of {stored}");
}
