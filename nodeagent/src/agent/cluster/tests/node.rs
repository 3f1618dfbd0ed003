//! Nodes, discovery and a web server of this process; nodes have faults.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use lamina_discovery::sections::Sections;
use lamina_discovery::tls;
use lamina_flist::{BlobId, Sha256Digest};
use lamina_mount::cache::CacheDir;
use lamina_proto::discovery::v1::HeartbeatRequest;
use lamina_proto::discovery::v1::service_discovery_server::ServiceDiscovery as _;
use lamina_proto::lamina::v1::layers_server::{Layers, LayersServer};
use lamina_proto::lamina::v1::partials_server::Partials as _;
use lamina_proto::lamina::v1::{
    Chunk, FindPartialsRequest, PartialBlob, PutPartialsRequest, ReadChunksRequest,
    ReadChunksResponse, ReadRecordRequest, ReadRecordResponse,
};
use lamina_proto::layerstore::v1 as ls;
use lamina_proto::layerstore::v1::layer_store_server::{LayerStore, LayerStoreServer};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

use crate::node::chunks::{Bring, ChunkLimits, Chunks};
use crate::sample::{Sample, Shelf};

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Nothing; but it takes a moment for each message.
    Slow,
    /// One byte of every second message is another one.
    OtherBytes,
    /// Chunks that nobody asked for.
    OtherEntry,
    /// A codec that does not exist.
    OtherCodec,
    /// What decompresses to far more than it should.
    Bomb,
    /// Ends with an error after its first message.
    Cut,
    /// Every call fails.
    Refuses,
    /// One small message, then one a second.
    Trickle,
    /// Takes calls and never answers.
    Silent,
    /// Takes connections and nothing else.
    BlackHole,
    /// Is not there.
    Dead,
    /// Has no time for so many calls.
    Busy(u64),
    /// Has nothing before it was told to pull.
    Empty,
    /// Says that it pulled, and has nothing.
    Forgets,
    /// Pulls for ever.
    Pulls,
}

type Answer = Pin<Box<dyn Stream<Item = Result<ReadChunksResponse, Status>> + Send>>;

/// A node; it ends, connections and all, when dropped.
pub(super) struct Node {
    pub(super) id: String,
    pub(super) at: SocketAddr,
    server: Server,
    serving: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    /// Keeps the port.
    _listener: Option<TcpListener>,
}

/// An agent that fetches nothing for others.
struct BringsNothing;

impl Bring for BringsNothing {
    fn bring(&self, _blob: &BlobId, _entries: &[u32]) -> bool {
        false
    }
}

#[derive(Clone)]
struct Server {
    chunks: Chunks,
    fault: Fault,
    asked: Arc<AtomicU64>,
    given: Arc<AtomicU64>,
    pulls: Arc<AtomicU64>,
    has: Arc<AtomicBool>,
}

impl Server {
    fn new(sample: &Sample, fault: Fault) -> Self {
        let (shelf, cache) = (Shelf::with(sample), CacheDir::new("/nonexistent"));
        Self::of(shelf, cache, Arc::new(BringsNothing), fault)
    }

    fn of(shelf: Arc<Shelf>, cache: CacheDir, bring: Arc<dyn Bring>, fault: Fault) -> Self {
        let has = !matches!(fault, Fault::Empty | Fault::Forgets | Fault::Pulls);
        Self {
            chunks: Chunks::new(shelf, cache, bring, ChunkLimits::default()),
            fault,
            asked: Arc::default(),
            given: Arc::default(),
            pulls: Arc::default(),
            has: Arc::new(has.into()),
        }
    }

    fn router(&self) -> tonic::transport::server::Router {
        tls::server()
            .add_service(LayersServer::new(self.clone()))
            .add_service(LayerStoreServer::new(self.clone()))
    }
}

impl Node {
    pub(super) fn start(id: &str, sample: &Sample, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = Server::new(sample, fault);
        let connections = Arc::default();
        let (kept, serving) = match fault {
            Fault::Dead => (None, None),
            Fault::BlackHole => (Some(listener), None),
            _ => (None, Some(serve(listener, &server, &connections))),
        };
        Self {
            id: id.to_owned(),
            at,
            server,
            serving,
            connections,
            _listener: kept,
        }
    }

    /// One that has parts alone: what an agent's cache has.
    pub(super) fn of_cache(id: &str, cache: CacheDir, bring: Arc<dyn Bring>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let server = Server::of(Arc::new(Shelf::default()), cache, bring, Fault::None);
        let connections = Arc::default();
        Self {
            id: id.to_owned(),
            at,
            serving: Some(serve(listener, &server, &connections)),
            server,
            connections,
            _listener: None,
        }
    }

    /// The reader's own `lamina node`, which has nothing yet.
    pub(super) fn own(socket: &Path, sample: &Sample) -> Self {
        let server = Server::new(sample, Fault::Empty);
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let incoming = futures::stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _)| stream);
            Some((accepted, listener))
        });
        let router = server.router();
        let serving = tokio::spawn(async move {
            router.serve_with_incoming(incoming).await.unwrap();
        });
        Self {
            id: "me".into(),
            at: "127.0.0.1:1".parse().unwrap(),
            server,
            serving: Some(serving),
            connections: Arc::default(),
            _listener: None,
        }
    }

    pub(super) fn asked(&self) -> u64 {
        self.server.asked.load(Ordering::Relaxed)
    }

    pub(super) fn asks(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.server.asked)
    }

    /// Stored bytes that it gave.
    pub(super) fn given(&self) -> u64 {
        self.server.given.load(Ordering::Relaxed)
    }

    pub(super) fn pulls(&self) -> u64 {
        self.server.pulls.load(Ordering::Relaxed)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
        for connection in self.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Serves, and keeps a hand on every connection.
fn serve(
    listener: TcpListener,
    server: &Server,
    connections: &Arc<Mutex<Vec<TcpStream>>>,
) -> JoinHandle<()> {
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let connections = Arc::clone(connections);
    let incoming = futures::stream::unfold(listener, move |listener| {
        let connections = Arc::clone(&connections);
        async move {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = stream.into_std().unwrap();
            connections
                .lock()
                .unwrap()
                .push(stream.try_clone().unwrap());
            Some((tokio::net::TcpStream::from_std(stream), listener))
        }
    });
    let router = server.router();
    tokio::spawn(async move {
        router.serve_with_incoming(incoming).await.unwrap();
    })
}

#[tonic::async_trait]
impl Layers for Server {
    type ReadRecordStream = Pin<Box<dyn Stream<Item = Result<ReadRecordResponse, Status>> + Send>>;
    type ReadChunksStream = Answer;

    async fn read_record(
        &self,
        _request: Request<ReadRecordRequest>,
    ) -> Result<Response<Self::ReadRecordStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn read_chunks(
        &self,
        request: Request<ReadChunksRequest>,
    ) -> Result<Response<Answer>, Status> {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        match self.fault {
            Fault::Refuses => return Err(Status::internal("no")),
            Fault::Silent => futures::future::pending::<()>().await,
            Fault::Busy(times) if asked < times => {
                return Err(Status::resource_exhausted("not now"));
            }
            Fault::Empty | Fault::Forgets | Fault::Pulls if !self.has.load(Ordering::Relaxed) => {
                return Ok(Response::new(Box::pin(futures::stream::empty())));
            }
            _ => {}
        }
        let answer = self.chunks.read(request.get_ref()).await?;
        let (fault, given) = (self.fault, Arc::clone(&self.given));
        // One chunk to a message, so that there are several.
        let single = answer.flat_map(|message| {
            let chunks = message.map(|message| message.chunks).unwrap_or_default();
            futures::stream::iter(chunks)
        });
        let faulty = single.enumerate().then(move |(at, chunk)| {
            given.fetch_add(chunk.stored.len() as u64, Ordering::Relaxed);
            spoil(fault, at, chunk)
        });
        Ok(Response::new(Box::pin(faulty)))
    }
}

async fn spoil(fault: Fault, at: usize, mut chunk: Chunk) -> Result<ReadChunksResponse, Status> {
    match fault {
        Fault::OtherBytes if at.is_multiple_of(2) => {
            let middle = chunk.stored.len() / 2;
            let mut bytes = chunk.stored.to_vec();
            bytes[middle] ^= 1;
            chunk.stored = bytes.into();
        }
        Fault::OtherEntry => chunk.entry ^= 0x4000,
        Fault::OtherCodec => chunk.codec = 7,
        Fault::Bomb => {
            // 128 KiB of zeros and more, in a handful of bytes (RFC 8878: a frame of one RLE block).
            chunk.codec = 1;
            chunk.stored = vec![
                0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x10, 0x02, 0, 0x10, 0, 0x03, 0, 0x10, 0,
            ]
            .into();
        }
        Fault::Cut if at > 0 => return Err(Status::internal("cut")),
        Fault::Trickle if at > 0 => tokio::time::sleep(Duration::from_secs(60)).await,
        Fault::Trickle => tokio::time::sleep(Duration::from_millis(900)).await,
        Fault::Slow => tokio::time::sleep(Duration::from_millis(5)).await,
        _ => {}
    }
    let chunks = vec![chunk];
    Ok(ReadChunksResponse {
        chunks,
        ..ReadChunksResponse::default()
    })
}

#[tonic::async_trait]
impl LayerStore for Server {
    type ReadLayerStreamStream =
        Pin<Box<dyn Stream<Item = Result<ls::ReadLayerResponse, Status>> + Send>>;

    async fn ensure_layers(
        &self,
        request: Request<ls::EnsureLayersRequest>,
    ) -> Result<Response<ls::EnsureLayersResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.image, "registry.test/a/b:1");
        assert_eq!(request.layers.len(), 1);
        if self.fault == Fault::Pulls {
            self.pulls.fetch_add(1, Ordering::Relaxed);
            futures::future::pending::<()>().await;
        }
        let brings = self.fault != Fault::Forgets;
        if !self.has.swap(brings, Ordering::Relaxed) {
            self.pulls.fetch_add(1, Ordering::Relaxed);
        }
        let layers = request.layers;
        Ok(Response::new(ls::EnsureLayersResponse { layers }))
    }

    async fn pull_image(
        &self,
        _: Request<ls::PullImageRequest>,
    ) -> Result<Response<ls::PullImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn stat_layer(
        &self,
        _: Request<ls::StatLayerRequest>,
    ) -> Result<Response<ls::StatLayerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn read_layer_stream(
        &self,
        _: Request<ls::ReadLayerRequest>,
    ) -> Result<Response<Self::ReadLayerStreamStream>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn has_layer(
        &self,
        _: Request<ls::HasLayerRequest>,
    ) -> Result<Response<ls::HasLayerResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn has_image(
        &self,
        _: Request<ls::HasImageRequest>,
    ) -> Result<Response<ls::HasImageResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn acquire_layer_lease(
        &self,
        _: Request<ls::AcquireLayerLeaseRequest>,
    ) -> Result<Response<ls::AcquireLayerLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn renew_layer_lease(
        &self,
        _: Request<ls::RenewLayerLeaseRequest>,
    ) -> Result<Response<ls::RenewLayerLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn release_layer_lease(
        &self,
        _: Request<ls::ReleaseLayerLeaseRequest>,
    ) -> Result<Response<ls::ReleaseLayerLeaseResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn prune_cache(
        &self,
        _: Request<ls::PruneCacheRequest>,
    ) -> Result<Response<ls::PruneCacheResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// One replica.
pub(super) struct Discovery {
    pub(super) at: SocketAddr,
    service: lamina_discovery::service::Service,
    stop: watch::Sender<bool>,
}

impl Discovery {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let service = super::service();
        let (stop, stops) = watch::channel(false);
        let served = service.clone();
        tokio::spawn(async move {
            let router = |server| served.serve_on(server);
            tls::serve_plain(listener, router, stops).await
        });
        Self { at, service, stop }
    }

    /// It hears of a node.
    pub(super) async fn told(&self, node: &Node, layer: &Sha256Digest, has: bool) {
        let beat = HeartbeatRequest {
            node_id: node.id.clone(),
            endpoint: node.at.to_string(),
            layer_digests: has.then(|| layer.to_string()).into_iter().collect(),
            ..HeartbeatRequest::default()
        };
        self.service.heartbeat(Request::new(beat)).await.unwrap();
    }

    /// It hears that a node has the first of so many entries.
    pub(super) async fn has_part(&self, node: &Node, sample: &Sample, entries: u32) {
        let sections = Sections::of(entries, |entry| entry == 0);
        let request = PutPartialsRequest {
            node_id: node.id.clone(),
            blobs: vec![PartialBlob {
                layer_digest: sample.layer.to_string(),
                blob: sample.blob.as_bytes().to_vec(),
                entries,
                sections: sections.as_bytes().to_vec(),
            }],
        };
        let told = self.service.put_partials(Request::new(request));
        told.await.unwrap();
    }

    /// Waits until it has heard of so many nodes' parts.
    pub(super) async fn knows_parts(&self, layer: &Sha256Digest, nodes: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let request = FindPartialsRequest {
                layer_digest: layer.to_string(),
            };
            let found = self.service.find_partials(Request::new(request)).await;
            if found.unwrap().into_inner().holders.len() == nodes {
                return;
            }
            assert!(Instant::now() < deadline, "nobody tells of its parts");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn end(&mut self) {
        self.stop.send_replace(true);
    }
}

/// A directory of packs as a web server, which counts.
pub(super) struct Web {
    at: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Web {
    /// Until the process ends.
    pub(super) fn serve(dir: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let (dir, counted) = (dir.to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (dir, counted) = (dir.clone(), Arc::clone(&counted));
                std::thread::spawn(move || answer(&stream, &dir, &counted));
            }
        });
        Self { at, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.at)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// GET with ranges, request after request.
fn answer(stream: &std::net::TcpStream, dir: &Path, counted: &AtomicU64) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut lines = BufReader::new(stream);
    loop {
        let (mut line, mut range) = (String::new(), None);
        if lines.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        loop {
            let mut header = String::new();
            if lines.read_line(&mut header).unwrap_or(0) == 0 {
                return;
            }
            let header = header.trim().to_lowercase();
            if header.is_empty() {
                break;
            }
            range = range.or_else(|| header.strip_prefix("range: bytes=").map(str::to_owned));
        }
        counted.fetch_add(1, Ordering::Relaxed);
        let path = line
            .split(' ')
            .nth(1)
            .unwrap_or("/")
            .trim_start_matches('/');
        let Ok(bytes) = std::fs::read(dir.join(path)) else {
            let _ = write!(
                &*stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
            );
            continue;
        };
        let (first, last) = range
            .as_deref()
            .and_then(|range| range.split_once('-'))
            .map_or((0, bytes.len() - 1), |(first, last)| {
                (first.parse().unwrap(), last.parse().unwrap())
            });
        let last = last.min(bytes.len() - 1);
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {first}-{last}/{}\r\n\r\n",
            last - first + 1,
            bytes.len()
        );
        let mut out = stream;
        if out.write_all(head.as_bytes()).is_err() || out.write_all(&bytes[first..=last]).is_err() {
            return;
        }
    }
}
