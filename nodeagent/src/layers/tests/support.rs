//! Layerstores under test, alone or as nodes of a cluster.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lamina_discovery::client::{ClientConfig, ClientTls};
use lamina_discovery::image_key::NamedImage;
use lamina_discovery::resolve::{RegistryUpstream, ResolveConfig, Resolver};
use lamina_discovery::service::{Identity, Service};
use lamina_discovery::{Clock, Limits, tls};
use lamina_flist::Sha256Digest;
use lamina_image::Platform;
use lamina_image::manifest::sha256;
use lamina_image::registry::{CredentialSource, Credentials};
use lamina_proto::discovery::v1::FindProviderRequest;
use lamina_proto::discovery::v1::service_discovery_server::ServiceDiscovery as _;
use lamina_proto::lamina::v1::layers_server::LayersServer;
use lamina_proto::lamina::v1::{ReadChunksRequest, ReadChunksResponse};
use lamina_proto::layerstore::v1::layer_store_server::LayerStoreServer;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Request, Status};

use crate::layers::{
    Answers, Cluster, ClusterConfig, EnsureError, Ensured, LayerService, LayersConfig, Layerstore,
    Origin, PeerService, Reach, ServeChunks, WantedImage,
};
use crate::test_registry::Server;

/// The usual bounds, below `dir`.
pub(crate) fn config(dir: &Path) -> LayersConfig {
    LayersConfig {
        bytes_max: Some(1 << 30),
        ..LayersConfig::new(dir.join("layers"))
    }
}

pub(crate) fn alone(config: LayersConfig) -> Layerstore {
    Layerstore::open(config, None).unwrap()
}

pub(crate) fn digest(layer: &[u8]) -> Sha256Digest {
    sha256(layer)
}

/// How often a layer was read from the registry.
pub(crate) fn gets(server: &Server, layer: &[u8]) -> usize {
    server.count(&format!("GET /v2/a/b/blobs/{}", digest(layer)))
}

/// The docker config of a user of this registry.
pub(crate) fn docker_config(server: &Server, user: &str, password: &str) -> String {
    let host = server.address;
    format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#)
}

pub(crate) async fn wanted(server: &Server, selector: &str, docker_config: &str) -> WantedImage {
    let named = NamedImage {
        reference: server.image(selector).parse().unwrap(),
        platform: Platform::host(),
    };
    let config = docker_config.as_bytes().to_vec();
    WantedImage::of(named, config).await.unwrap()
}

/// Pulls an image as `PullImage` does.
pub(crate) async fn ensure(
    store: &Layerstore,
    image: &WantedImage,
) -> Result<Ensured, EnsureError> {
    store.ensure(image, None, Origin::Anywhere).await
}

/// Waits for a condition.
pub(crate) async fn ready(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is in a layerstore's directory beside its own.
pub(crate) fn files(dir: &Path) -> BTreeSet<String> {
    let found = std::fs::read_dir(dir.join("layers")).unwrap();
    let names = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let own = ["images", "records", "lock"];
    names.filter(|name| !own.contains(&name.as_str())).collect()
}

/// Something that is served until it is dropped.
pub(crate) struct Served {
    pub(crate) at: SocketAddr,
    stop: watch::Sender<bool>,
    _serving: JoinHandle<()>,
}

impl Served {
    fn by<F>(serve: impl FnOnce(TcpListener, watch::Receiver<bool>) -> F) -> Self
    where
        F: Future<Output = Result<(), tls::TlsError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stops) = watch::channel(false);
        let work = serve(listener, stops);
        let serving = tokio::spawn(async move { work.await.unwrap() });
        Self {
            at,
            stop,
            _serving: serving,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Connections end with it; nobody waits for that.
        self.stop.send_replace(true);
    }
}

/// Serves a layerstore as `lamina node` does, without TLS.
pub(crate) fn serve(store: &Layerstore) -> Served {
    let layers = LayerService::new(store.clone(), Reach::Remote);
    let peers = PeerService::new(layers.clone(), Arc::new(NoChunks));
    Served::by(move |listener, stop| async move {
        let router = move |mut server: tonic::transport::Server| {
            server
                .add_service(LayerStoreServer::new(layers))
                .add_service(LayersServer::new(peers))
        };
        tls::serve_plain(listener, router, stop).await
    })
}

/// An authority's directory of certificates for one node.
pub(crate) fn certificates(dir: &Path) -> PathBuf {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let names = ["node.lamina.internal", "peer.lamina.internal"].map(str::to_owned);
    let params = CertificateParams::new(names).unwrap();
    let key = KeyPair::generate().unwrap();
    let own = params.signed_by(&key, &issuer).unwrap();
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("tls.crt"), own.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("ca.crt"), pem).unwrap();
    dir.to_owned()
}

/// A replica of discovery that believes whatever it is told.
pub(crate) fn discovery() -> (Service, Served) {
    discovery_with(Limits::default().ttl)
}

/// One that believes a node for so long.
pub(crate) fn discovery_with(ttl: Duration) -> (Service, Served) {
    let upstream = RegistryUpstream {
        credentials: CredentialSource::Explicit(Credentials::Anonymous),
        insecure: Vec::new(),
        limits: lamina_image::Limits::default(),
    };
    let clock = Clock::system();
    let resolver = Resolver::new(upstream, ResolveConfig::default(), clock.clone());
    let limits = Limits {
        warm_up: Duration::ZERO,
        ..Limits::with_ttl(ttl)
    };
    let service = Service::new(limits, Identity::Anyone, resolver, clock, "test").unwrap();
    let served = service.clone();
    let at = Served::by(move |listener, stop| async move {
        tls::serve_plain(listener, |server| served.serve_on(server), stop).await
    });
    (service, at)
}

/// A node of a cluster.
pub(crate) struct Node {
    pub(crate) store: Layerstore,
    pub(crate) served: Option<Served>,
    pub(crate) dir: tempfile::TempDir,
}

/// How to speak to discovery, soon.
pub(crate) fn client(discovery: SocketAddr) -> ClientConfig {
    let mut client = ClientConfig::new(vec![discovery.to_string()]);
    client.tempo.coalesce = Duration::from_millis(20);
    client.tempo.gap = Duration::from_millis(50);
    client.tempo.backoff = Duration::from_millis(50);
    client.look_every = Duration::from_millis(100);
    client.deadline = Duration::from_secs(5);
    client
}

impl Node {
    /// Starts a node, which may read this registry although it is on this machine.
    pub(crate) fn start(name: &str, discovery: SocketAddr, registry: &Server) -> Self {
        Self::start_with(name, discovery, registry, |_| {})
    }

    pub(crate) fn start_with(
        name: &str,
        discovery: SocketAddr,
        registry: &Server,
        edit: impl FnOnce(&mut LayersConfig),
    ) -> Self {
        Self::start_as(name, discovery, registry, edit, None)
    }

    /// The same, with a certificate from this directory.
    pub(crate) fn start_as(
        name: &str,
        discovery: SocketAddr,
        registry: &Server,
        edit: impl FnOnce(&mut LayersConfig),
        tls_dir: Option<PathBuf>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Others are told where it is before it serves: the port is known only then.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = listener.local_addr().unwrap();
        let cluster = Cluster::join(ClusterConfig {
            node: name.to_owned(),
            endpoint: endpoint.to_string(),
            discovery: client(discovery),
            peers: tls_dir.clone().map(|dir| ClientTls {
                dir,
                server_name: "node.lamina.internal".to_owned(),
            }),
        });
        let mut config = LayersConfig {
            insecure_registries: vec![registry.address.to_string()],
            ..config(dir.path())
        };
        edit(&mut config);
        let store = Layerstore::open(config, Some(cluster.unwrap())).unwrap();
        let layers = LayerService::new(store.clone(), Reach::Remote);
        let peers = PeerService::new(layers.clone(), Arc::new(NoChunks));
        let (stop, stops) = watch::channel(false);
        let serving = tokio::spawn(async move {
            let router = move |mut server: tonic::transport::Server| {
                server
                    .add_service(LayerStoreServer::new(layers.clone()))
                    .add_service(LayersServer::new(peers.clone()))
            };
            let served = match tls_dir {
                Some(dir) => tls::serve(listener, &dir, router, stops).await,
                None => tls::serve_plain(listener, router, stops).await,
            };
            served.unwrap();
        });
        let served = Served {
            at: endpoint,
            stop,
            _serving: serving,
        };
        Self {
            store,
            served: Some(served),
            dir,
        }
    }

    /// Nobody reaches it any more; discovery does not know it yet.
    pub(crate) fn cut_off(&mut self) {
        self.served = None;
    }
}

/// Waits until discovery knows so many nodes.
pub(crate) async fn know_each_other(discovery: &Service, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let all = FindProviderRequest::default();
        let found = discovery.find_provider(Request::new(all)).await.unwrap();
        if found.into_inner().services.len() == count {
            return;
        }
        assert!(Instant::now() < deadline, "nodes do not report");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A node without an agent: no chunk is here, which is no failure.
struct NoChunks;

#[tonic::async_trait]
impl ServeChunks for NoChunks {
    async fn read_chunks(
        &self,
        _request: ReadChunksRequest,
    ) -> Result<Answers<ReadChunksResponse>, Status> {
        Ok(Box::pin(futures::stream::empty()))
    }
}
