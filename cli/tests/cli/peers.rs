//! A mount whose data only other nodes have: the agent as it is run, nodes and discovery in this process.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use lamina_discovery::resolve::{RegistryUpstream, ResolveConfig, Resolver};
use lamina_discovery::service::{Identity, Service};
use lamina_discovery::{Clock, Limits, tls};
use lamina_flist::{BlobId, Flist, FlistMeta, Sha256Digest};
use lamina_image::registry::{CredentialSource, Credentials};
use lamina_mount::cache::CacheDir;
use lamina_nodeagent::cluster_file::{ClusterFile, ServerNames};
use lamina_nodeagent::layers::{OpenLayer, WholeLayers};
use lamina_nodeagent::node::chunks::{Bring, ChunkLimits, Chunks};
use lamina_proto::discovery::v1::HeartbeatRequest;
use lamina_proto::discovery::v1::service_discovery_server::ServiceDiscovery as _;
use lamina_proto::lamina::v1::layers_server::{Layers, LayersServer};
use lamina_proto::lamina::v1::{
    ReadChunksRequest, ReadChunksResponse, ReadRecordRequest, ReadRecordResponse,
};
use lamina_store::open_flist;
use tokio::runtime::Runtime;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

use crate::authority::Authority;
use crate::machine::{Machine, wait_until};

/// An OCI layout of one layer, from `root/`: files that do not compress, and some that do.
const IMAGE: &str = r#"
    mkdir -p root/data oci/blobs/sha256
    for n in $(seq 1 24); do head -c 400000 /dev/urandom > root/data/$n; done
    for n in $(seq 1 6); do seq $n 60000 > root/data/text$n; done
    tar -C root -cf layer.tar .
    diff=$(sha256sum layer.tar | cut -d' ' -f1)
    gzip -n -1 layer.tar
    printf '{"os":"linux","architecture":"amd64","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $diff > config.json
    blob() { d=$(sha256sum "$1" | cut -d' ' -f1); cp "$1" oci/blobs/sha256/$d; printf '"digest":"sha256:%s","size":%s' $d $(stat -c %s "$1"); }
    printf '{"imageLayoutVersion":"1.0.0"}' > oci/oci-layout
    type=application/vnd.oci.image
    config=$(blob config.json); layer=$(blob layer.tar.gz)
    printf '{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s",%s},"layers":[{"mediaType":"%s",%s}]}' \
        $type.manifest.v1+json $type.config.v1+json "$config" $type.layer.v1.tar+gzip "$layer" > m.json
    manifest=$(blob m.json)
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"%s",%s,"annotations":{"org.opencontainers.image.ref.name":"1"}}]}' \
        $type.manifest.v1+json "$manifest" > oci/index.json
"#;

/// The only layer there is.
struct OneLayer(Sha256Digest, OpenLayer);

impl WholeLayers for OneLayer {
    fn open(&self, layer: &Sha256Digest) -> Option<OpenLayer> {
        (*layer == self.0).then(|| self.1.clone())
    }
}

/// A node that takes a moment for each message, so that it can die in the middle.
#[derive(Clone)]
struct Server {
    chunks: Chunks,
    messages: Arc<AtomicU64>,
}

type Answer<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Layers for Server {
    type ReadRecordStream = Answer<ReadRecordResponse>;
    type ReadChunksStream = Answer<ReadChunksResponse>;

    async fn read_record(
        &self,
        _request: Request<ReadRecordRequest>,
    ) -> Result<Response<Self::ReadRecordStream>, Status> {
        Err(Status::unimplemented("chunks alone"))
    }

    async fn read_chunks(
        &self,
        request: Request<ReadChunksRequest>,
    ) -> Result<Response<Self::ReadChunksStream>, Status> {
        let answer = self.chunks.read(request.get_ref()).await?;
        let messages = Arc::clone(&self.messages);
        let slow = answer.then(move |message| {
            messages.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(5)).await;
                message
            }
        });
        Ok(Response::new(Box::pin(slow)))
    }
}

/// The node has the layer whole, and mounts nothing.
struct NoAgent;

impl Bring for NoAgent {
    fn bring(&self, _blob: &BlobId, _entries: &[u32]) -> bool {
        false
    }
}

/// It is killed, connections and all, when dropped.
struct Node {
    at: SocketAddr,
    messages: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Node {
    fn start(layer: Sha256Digest, open: &OpenLayer, certificates: Option<&Path>) -> Self {
        let whole = Arc::new(OneLayer(layer, open.clone()));
        let cache = CacheDir::new("/nonexistent");
        let messages = Arc::default();
        let server = Server {
            chunks: Chunks::new(whole, cache, Arc::new(NoAgent), ChunkLimits::default()),
            messages: Arc::clone(&messages),
        };
        let runtime = Runtime::new().unwrap();
        let router = move |mut on: tonic::transport::Server| {
            on.add_service(LayersServer::new(server.clone()))
        };
        Self {
            at: serve(&runtime, certificates, router),
            messages,
            runtime: Some(runtime),
        }
    }

    fn gave(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Serves for as long as the runtime lives.
fn serve(
    runtime: &Runtime,
    certificates: Option<&Path>,
    router: impl Fn(tonic::transport::Server) -> Router + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let certificates = certificates.map(Path::to_owned);
    runtime.spawn(async move {
        let (_never, stops) = tokio::sync::watch::channel(false);
        match certificates {
            Some(dir) => tls::serve(listener, &dir, router, stops).await,
            None => tls::serve_plain(listener, router, stops).await,
        }
    });
    at
}

/// A replica of discovery that has heard of these nodes.
fn discovery(
    runtime: &Runtime,
    layer: Sha256Digest,
    nodes: &[&Node],
    certificates: Option<&Path>,
) -> SocketAddr {
    let limits = Limits {
        warm_up: Duration::ZERO,
        ..Limits::with_ttl(Duration::from_secs(600))
    };
    let clock = Clock::system();
    let upstream = RegistryUpstream {
        credentials: CredentialSource::Explicit(Credentials::Anonymous),
        insecure: Vec::new(),
        limits: lamina_image::Limits::default(),
    };
    let resolver = Resolver::new(upstream, ResolveConfig::default(), clock.clone());
    let service = Service::new(limits, Identity::Anyone, resolver, clock, "test").unwrap();
    for (number, node) in nodes.iter().enumerate() {
        let beat = HeartbeatRequest {
            node_id: format!("n{number}"),
            endpoint: node.at.to_string(),
            layer_digests: vec![layer.to_string()],
            ..HeartbeatRequest::default()
        };
        runtime
            .block_on(service.heartbeat(Request::new(beat)))
            .unwrap();
    }
    serve(runtime, certificates, move |on| service.serve_on(on))
}

/// The flist `x.fl`, which names no stores, and its layer's file.
fn image(machine: &Machine) -> (Sha256Digest, OpenLayer) {
    let made = Command::new("bash")
        .args(["-e", "-c", IMAGE])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let store = machine.store();
    let convert = ["convert", "oci:oci:1", "-o", "stored.fl", "-s", &store];
    machine.ok(&[&convert[..], &["--layers", "layers"]].concat());
    let flist = open_flist(machine.path("stored.fl")).unwrap();
    let meta = FlistMeta {
        stores: Vec::new(),
        ..flist.meta().clone()
    };
    let without_stores = flist.rewrite(&meta, None).unwrap();
    std::fs::write(machine.path("x.fl"), without_stores.bytes).unwrap();
    std::fs::remove_dir_all(machine.path("store")).unwrap();
    let layer = flist.meta().provenance.layers[0].digest;
    let files: Vec<PathBuf> = std::fs::read_dir(machine.path("layers"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "afslyr"))
        .collect();
    assert_eq!(files.len(), 1);
    let whole: Flist = open_flist(&files[0]).unwrap();
    let packs_at = whole.embedded_offset().unwrap();
    let file = Arc::new(File::open(&files[0]).unwrap());
    (
        layer,
        OpenLayer::new(file, Arc::new(whole), packs_at, Arc::new(())),
    )
}

fn join_cluster(machine: &Machine, discovery: SocketAddr, certificates: Option<PathBuf>) {
    let file = ClusterFile {
        node: "me".into(),
        endpoint: "127.0.0.1:1".into(),
        discovery: vec![discovery.to_string()],
        tls: certificates,
        server_names: ServerNames::default(),
        socket: machine.path("node.sock"),
    };
    let text = serde_json::to_string(&file).unwrap();
    std::fs::write(ClusterFile::path(&machine.path("run")), text).unwrap();
}

/// Reads every file in an order of its own; gives those that are not what they must be.
fn compare(mounted: &Path, root: &Path, from: usize) -> Vec<String> {
    let names = std::fs::read_dir(root).unwrap();
    let mut names: Vec<_> = names.map(|name| name.unwrap().file_name()).collect();
    names.sort();
    let count = names.len();
    names.rotate_left(from % count);
    let is_wrong = |name: &std::ffi::OsString| {
        let read = std::fs::read(mounted.join(name));
        match read {
            Ok(read) if read == std::fs::read(root.join(name)).unwrap() => None,
            Ok(_) => Some(format!("{}: other bytes", name.display())),
            Err(error) => Some(format!("{}: {error}", name.display())),
        }
    };
    names.iter().filter_map(is_wrong).collect()
}

#[test]
fn a_flist_that_only_two_nodes_have_is_read_while_one_of_them_dies() {
    let machine = Machine::new();
    let (layer, open) = image(&machine);
    machine.dir("m");
    let said = machine.fails(2, &["mount", "x.fl", "m"]);
    assert!(said.contains("names no stores"), "{said}");

    let runtime = Runtime::new().unwrap();
    let dying = Node::start(layer, &open, None);
    let living = Node::start(layer, &open, None);
    let at = discovery(&runtime, layer, &[&dying, &living], None);
    join_cluster(&machine, at, None);
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let (mounted, root) = (machine.path("m/data"), machine.path("root/data"));
    let readers: Vec<_> = (0..4)
        .map(|reader| {
            let (mounted, root) = (mounted.clone(), root.clone());
            std::thread::spawn(move || compare(&mounted, &root, reader * 7))
        })
        .collect();
    assert!(wait_until(|| dying.gave() > 5), "nobody reads from it");
    drop(dying);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Vec::<String>::new());
    }
    let listed = machine.json(&["mounts"]);
    let mount = &listed["mounts"][0];
    assert_eq!(mount["reads_failed"], 0);
    assert_eq!(mount["bytes_local"], mount["bytes_total"]);
    assert_eq!(mount["bytes_from_peers"], mount["bytes_fetched"]);
    assert!(living.gave() > 0);
    machine.ok(&["umount", "m"]);
}

#[test]
fn nodes_show_each_other_certificates_and_use_new_ones_as_soon_as_they_are_there() {
    let machine = Machine::new();
    let (layer, open) = image(&machine);
    machine.dir("m");
    let (ours, others) = (Authority::new(), Authority::new());
    let server = machine.dir("server");
    ours.issue(
        &server,
        &["node.lamina.internal", "discovery.lamina.internal"],
    );
    let certificates = machine.dir("tls");
    others.issue(&certificates, &["me"]);
    let runtime = Runtime::new().unwrap();
    let node = Node::start(layer, &open, Some(&server));
    let at = discovery(&runtime, layer, &[&node], Some(&server));
    join_cluster(&machine, at, Some(certificates.clone()));
    machine.ok(&["mount", "x.fl", "m", "--no-prefetch"]);
    let (mounted, root) = (machine.path("m/data"), machine.path("root/data"));
    let reader = std::thread::spawn(move || compare(&mounted, &root, 0));
    assert!(wait_until(|| machine
        .log()
        .contains("read from another node")
        || machine.log().contains("pull a layer")));
    assert_eq!(node.gave(), 0, "a stranger is given nothing");
    ours.issue(&certificates, &["me"]);
    assert_eq!(reader.join().unwrap(), Vec::<String>::new());
    assert!(node.gave() > 0);
    machine.ok(&["umount", "m"]);
}
