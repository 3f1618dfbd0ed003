//! A cluster of real processes on a network: nodes, two replicas of discovery, a registry, certificates for all.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;

use lamina_proto::lamina::v1 as api;
use lamina_proto::lamina::v1::node_client::NodeClient;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::{PruneCacheRequest, PullImageRequest};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::network::{Network, Place};
use super::proxy::Proxy;
use super::readers::Files;
use crate::authority::Authority;
use crate::machine::{DEADLINE, Machine, wait_until};
use crate::node::connect;
use crate::node::images::server::{Server, noise, tar};

/// Ports of every machine.
const REGISTRY: u16 = 5000;
const DISCOVERY: u16 = 7070;
const DISCOVERY_HTTP: u16 = 7071;
pub(crate) const NODE: u16 = 7150;
const PROXIES: u16 = 9000;
/// How long discovery believes a node; it says that nobody holds something after half of it.
const TTL: &str = "6s";

/// What a cluster is like.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) nodes: u16,
    /// What the cable of a node carries each way.
    pub(crate) mbit: u32,
    pub(crate) has_tls: bool,
    /// Nodes reach each other through proxies only.
    pub(crate) has_proxies: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodes: 8,
            mbit: 200,
            has_tls: true,
            has_proxies: false,
        }
    }
}

/// Everything of it ends with this.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) discoveries: Vec<Discovery>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) registry: Registry,
    pub(crate) authority: Authority,
    pub(crate) dir: tempfile::TempDir,
    network: Network,
}

impl Cluster {
    /// Nodes who know each other.
    pub(crate) fn start(shape: Shape) -> Self {
        let (mut network, authority) = (Network::new(), Authority::new());
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(network.machine(None));
        let tls = |name: &str, names: &[&str]| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            authority.issue(&path, names);
            shape.has_tls.then_some(path)
        };
        let discoveries: Vec<Discovery> = (0..2)
            .map(|number| {
                let tls = tls(
                    &format!("discovery-{number}"),
                    &["discovery.lamina.internal"],
                );
                Discovery::start(network.machine(None), tls)
            })
            .collect();
        let cables = network.machine(None);
        let runtime = Arc::new(Runtime::new().unwrap());
        let (mut nodes, mut proxies) = (Vec::new(), Vec::new());
        for number in 0..shape.nodes {
            let place = network.machine(Some(shape.mbit));
            let name = format!("node-{number}");
            let tls = tls(&name, &node_names(&name));
            let mut endpoint = place.at(NODE);
            if shape.has_proxies {
                let proxy = Proxy::start(&cables, PROXIES + number, endpoint, number.into());
                endpoint = proxy.at;
                proxies.push(proxy);
            }
            let mut node = Node::new(name, place, Arc::clone(&runtime));
            node.words = node.words_for(endpoint, tls.as_deref(), &registry, &discoveries);
            node.spawn();
            nodes.push(node);
        }
        let cluster = Self {
            nodes,
            discoveries,
            proxies,
            registry,
            authority,
            dir,
            network,
        };
        cluster.nodes.iter().for_each(Node::wait);
        cluster.wait_for_nodes(cluster.nodes.len());
        cluster
    }

    /// Until every replica of discovery that runs knows so many nodes, and says that nobody holds something.
    pub(crate) fn wait_for_nodes(&self, count: usize) {
        let count = format!("lamina_discovery_nodes {count}");
        self.wait_for_metrics(&[&count, "lamina_discovery_warm 1"]);
    }

    /// Until it knows who has so many layers.
    pub(crate) fn wait_for_layers(&self, count: usize) {
        self.wait_for_metrics(&[&format!("lamina_discovery_layers {count}")]);
    }

    /// Until it knows so many blobs that nodes read, each of each node.
    pub(crate) fn wait_for_parts(&self, count: usize) {
        self.wait_for_metrics(&[&format!("lamina_discovery_parts {count}")]);
    }

    /// Until it knows what so many flists' starts read.
    pub(crate) fn wait_for_profiles(&self, count: usize) {
        self.wait_for_metrics(&[&format!("lamina_discovery_profiles {count}")]);
    }

    fn wait_for_metrics(&self, lines: &[&str]) {
        let knows = |discovery: &Discovery| {
            let metrics = discovery.metrics();
            let has = |line: &&str| metrics.lines().any(|one| one == *line);
            lines.iter().all(has)
        };
        let running = self.discoveries.iter().filter(|one| one.serving.is_some());
        for discovery in running {
            assert!(wait_until(|| knows(discovery)), "{}", discovery.metrics());
        }
    }

    /// One more machine, with nothing on it.
    pub(crate) fn machine(&mut self) -> Place {
        self.network.machine(None)
    }

    /// Publishes an image on some nodes, all at the same time; gives where.
    pub(crate) fn publish(&self, nodes: &[usize], volume: &str, image: &Image) -> Vec<PathBuf> {
        std::thread::scope(|scope| {
            let publish = |number: &usize| {
                let node = &self.nodes[*number];
                scope.spawn(move || node.publish(volume, image).unwrap())
            };
            let publishing: Vec<_> = nodes.iter().map(publish).collect();
            let published = publishing.into_iter().map(|one| one.join().unwrap());
            published.collect()
        })
    }

    /// Bytes that some nodes fetched for their volumes so far: all, and from others.
    pub(crate) fn fetched(&self, nodes: &[usize]) -> (u64, u64) {
        let volumes = nodes.iter().flat_map(|node| self.nodes[*node].volumes());
        volumes.fold((0, 0), |(all, peers), volume| {
            assert_eq!(volume.reads_failed, 0, "{}", volume.last_error);
            (all + volume.bytes_fetched, peers + volume.bytes_from_peers)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.nodes.iter().for_each(Node::show_log);
        }
        // Each takes a moment to be sure that nothing of it is left.
        std::thread::scope(|scope| {
            for node in self.nodes.drain(..) {
                scope.spawn(move || drop(node));
            }
        });
    }
}

/// The names in a node's certificate.
pub(crate) fn node_names(name: &str) -> [&str; 3] {
    [name, "node.lamina.internal", "peer.lamina.internal"]
}

/// An image in the registry, and what is in it.
pub(crate) struct Image {
    pub(crate) reference: String,
    pub(crate) files: Files,
    pub(crate) layers: Vec<String>,
}

impl Image {
    /// So many layers, each a file of so many bytes that do not compress.
    pub(crate) fn push(server: &Server, tag: &str, layers: u64, bytes: usize) -> Self {
        let seed = u64::from(crc32c::crc32c(tag.as_bytes())) << 8;
        let file = |number| {
            let name = format!("file-{number}");
            (name, noise(seed + number, bytes))
        };
        let files: Vec<_> = (0..layers).map(file).collect();
        let tars: Vec<_> = files.iter().map(|(name, bytes)| tar(name, bytes)).collect();
        server.push(tag, &tars);
        let digest = |tar: &Vec<u8>| lamina_image::manifest::sha256(tar).to_string();
        Self {
            reference: server.image(&format!(":{tag}")),
            files: Arc::new(files),
            layers: tars.iter().map(digest).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// The registry, on a machine of its own.
pub(crate) struct Registry {
    pub(crate) place: Place,
    pub(crate) server: Server,
}

impl Registry {
    fn start(place: Place) -> Self {
        let server = Server::start_at(place.listen(REGISTRY));
        Self { place, server }
    }

    /// Pushes an image there.
    pub(crate) fn push(&self, tag: &str, layers: u64, bytes: usize) -> Image {
        Image::push(&self.server, tag, layers, bytes)
    }

    /// How often each layer was read.
    pub(crate) fn reads(&self, image: &Image) -> Vec<usize> {
        let count = |layer: &String| self.server.count(&format!("GET /v2/a/b/blobs/{layer}"));
        image.layers.iter().map(count).collect()
    }
}

/// A replica of discovery.
pub(crate) struct Discovery {
    place: Place,
    tls: Option<PathBuf>,
    serving: Option<Child>,
}

impl Discovery {
    fn start(place: Place, tls: Option<PathBuf>) -> Self {
        let mut discovery = Self {
            place,
            tls,
            serving: None,
        };
        discovery.spawn();
        discovery
    }

    pub(crate) fn spawn(&mut self) {
        let mut command = self.place.command(env!("CARGO_BIN_EXE_lamina"));
        let (listen, http) = (self.at(), self.place.at(DISCOVERY_HTTP));
        command.args(["discovery", "--ttl", TTL, "--listen", &listen.to_string()]);
        command.args(["--http", &http.to_string()]);
        match &self.tls {
            Some(dir) => command.arg("--tls-dir").arg(dir),
            None => command.arg("--insecure"),
        };
        command.env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stderr(Stdio::null());
        self.serving = Some(command.spawn().unwrap());
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.place.at(DISCOVERY)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            let _ = serving.kill();
            let _ = serving.wait();
        }
    }

    /// Empty when it does not answer.
    fn metrics(&self) -> String {
        let at = self.place.at(DISCOVERY_HTTP);
        self.place.inside(move || get(at).unwrap_or_default())
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.kill();
    }
}

fn get(at: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A node: `lamina node`, its daemons, its mounts.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) place: Place,
    words: Vec<String>,
    serving: Option<Child>,
    runtime: Arc<Runtime>,
    // Last: torn down when nobody serves any more.
    pub(crate) machine: Machine,
}

impl Node {
    fn new(name: String, place: Place, runtime: Arc<Runtime>) -> Self {
        let machine = Machine::new();
        machine.dir("kubelet/plugins");
        Self {
            name,
            place,
            words: Vec::new(),
            serving: None,
            runtime,
            machine,
        }
    }

    fn words_for(
        &self,
        endpoint: SocketAddr,
        tls: Option<&Path>,
        registry: &Registry,
        discoveries: &[Discovery],
    ) -> Vec<String> {
        let path = |name: &str| self.machine.path(name).display().to_string();
        let mut words = [
            ("--node-name", self.name.clone()),
            ("--state", path("state")),
            ("--run-dir", path("run")),
            ("--kubelet-dir", path("kubelet")),
            ("--layers-size", "1GiB".into()),
            ("--listen", self.place.at(NODE).to_string()),
            ("--endpoint", endpoint.to_string()),
            (
                "--insecure-registry",
                registry.place.at(REGISTRY).to_string(),
            ),
        ]
        .to_vec();
        let replicas = discoveries.iter().map(Discovery::at);
        words.extend(replicas.map(|at| ("--discovery", at.to_string())));
        words.extend(tls.map(|dir| ("--tls-dir", dir.display().to_string())));
        let words = words
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value]);
        words
            .chain(tls.is_none().then(|| "--insecure".to_owned()))
            .collect()
    }

    /// Starts its process.
    fn spawn(&mut self) {
        let path = self.machine.path("node.log");
        let log = File::options().create(true).append(true).open(path);
        let mut command = self.place.command(env!("CARGO_BIN_EXE_lamina"));
        command.arg("node").args(&self.words).env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stderr(log.unwrap());
        self.serving = Some(command.spawn().unwrap());
    }

    /// Until it answers.
    fn wait(&self) {
        let answers = || {
            let channel = connect(&self.runtime, &self.machine.path("run/node.sock"))?;
            let mut client = NodeClient::new(channel);
            let asked = client.get_info(api::GetInfoRequest {});
            self.runtime.block_on(asked).ok()
        };
        assert!(wait_until(|| answers().is_some()), "{}", self.log());
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn();
        self.wait();
    }

    /// SIGKILL of the process that serves others; mounts and their daemons stay.
    pub(crate) fn kill(&mut self) {
        if let Some(mut serving) = self.serving.take() {
            let _ = serving.kill();
            let _ = serving.wait();
        }
    }

    /// Stops or continues that process.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.serving.as_ref().unwrap().id().cast_signed();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    fn channel(&self) -> Channel {
        let socket = self.machine.path("run/node.sock");
        connect(&self.runtime, &socket).expect("a node")
    }

    fn target(&self, volume: &str) -> PathBuf {
        self.machine.path("kubelet/plugins").join(volume)
    }

    /// Mounts an image, without data that nobody reads.
    pub(crate) fn publish(&self, volume: &str, image: &Image) -> Result<PathBuf, Status> {
        self.publish_as(volume, image, "")
    }

    /// The same, as somebody with this docker configuration.
    pub(crate) fn publish_as(
        &self,
        volume: &str,
        image: &Image,
        docker_config: &str,
    ) -> Result<PathBuf, Status> {
        let mut source = image.source();
        if let Some(api::source::From::Image(image)) = &mut source.from {
            image.docker_config_json = docker_config.into();
        }
        self.publish_warm(volume, source, api::Warm::None)
    }

    /// The same, and what starts read is fetched.
    pub(crate) fn publish_and_follow(&self, volume: &str, image: &Image) -> PathBuf {
        self.publish_warm(volume, image.source(), api::Warm::Profile)
            .unwrap()
    }

    fn publish_warm(
        &self,
        volume: &str,
        source: api::Source,
        warm: api::Warm,
    ) -> Result<PathBuf, Status> {
        let target = self.target(volume);
        let order = api::PublishRequest {
            volume_id: volume.into(),
            target: target.display().to_string(),
            source: Some(source),
            prefetch: warm.into(),
            ..api::PublishRequest::default()
        };
        let mut client = NodeClient::new(self.channel());
        self.runtime.block_on(client.publish(order))?;
        Ok(target)
    }

    pub(crate) fn unpublish(&self, volume: &str) {
        let order = api::UnpublishRequest {
            volume_id: volume.into(),
            target: self.target(volume).display().to_string(),
        };
        let mut client = NodeClient::new(self.channel());
        self.runtime.block_on(client.unpublish(order)).unwrap();
    }

    /// Has the node know an image, without mounting it.
    pub(crate) fn ensure(&self, image: &Image) {
        let order = api::EnsureRequest {
            source: Some(image.source()),
            ..api::EnsureRequest::default()
        };
        let mut client = NodeClient::new(self.channel());
        self.runtime.block_on(async {
            let mut progress = client.ensure(order).await.unwrap().into_inner();
            while progress.message().await.unwrap().is_some() {}
        });
    }

    /// Has its layerstore hold all layers of an image.
    pub(crate) fn pull(&self, image: &Image) {
        self.pull_as(image, "").unwrap();
    }

    /// The same, as somebody with this docker configuration.
    pub(crate) fn pull_as(&self, image: &Image, docker_config: &str) -> Result<(), Status> {
        let mut order = tonic::Request::new(PullImageRequest {
            image: image.reference.clone(),
            ..PullImageRequest::default()
        });
        if !docker_config.is_empty() {
            let value = MetadataValue::from_bytes(docker_config.as_bytes());
            let metadata = order.metadata_mut();
            metadata.insert_bin("lamina-docker-config-bin", value);
        }
        let mut client = LayerStoreClient::new(self.channel());
        self.runtime.block_on(client.pull_image(order)).map(drop)
    }

    /// Has its layerstore drop everything that nobody holds on to; gives how many layers went.
    pub(crate) fn prune(&self) -> i32 {
        let mut client = LayerStoreClient::new(self.channel());
        let pruned = client.prune_cache(PruneCacheRequest { percent: 100.0 });
        let pruned = self.runtime.block_on(pruned).unwrap();
        pruned.into_inner().evicted_layers
    }

    pub(crate) fn volumes(&self) -> Vec<api::Volume> {
        let mut client = NodeClient::new(self.channel());
        let listed = client.list_volumes(api::ListVolumesRequest {});
        let listed = self.runtime.block_on(listed).unwrap();
        listed.into_inner().volumes
    }

    /// What its processes said.
    pub(crate) fn log(&self) -> String {
        let node = std::fs::read_to_string(self.machine.path("node.log"));
        [node.unwrap_or_default(), self.machine.log()].concat()
    }

    /// The last of it.
    fn show_log(&self) {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(10)..];
        eprintln!("{} said:\n{}", self.name, last.join("\n"));
    }
}

impl Image {
    fn source(&self) -> api::Source {
        let image = api::ImageSource {
            reference: self.reference.clone(),
            ..api::ImageSource::default()
        };
        api::Source {
            from: Some(api::source::From::Image(image)),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}
