//! A node's certificate over time, against an operator that signs, refuses or is away.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Mutex;
use std::time::Instant;

use lamina_proto::lamina::v1::certificates_server::{self, CertificatesServer};
use lamina_proto::lamina::v1::placement_client::PlacementClient;
use lamina_proto::lamina::v1::placement_server::{Placement, PlacementServer};
use lamina_proto::lamina::v1::{FindHomesRequest, FindHomesResponse, SignRequest, SignResponse};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    PublicKeyData,
};
use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Response, Status};

use super::*;
use crate::node::guard::Guard;

const PATIENCE: Duration = Duration::from_secs(60);
const PEER: [&str; 3] = ["node.lamina.internal", "peer.lamina.internal", "node-a"];
const LONG: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Authority {
    pem: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        Self { pem, key }
    }

    fn sign(&self, names: &[&str], life: Duration, key: &impl PublicKeyData) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let end = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            + life;
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        let own = KeyPair::from_pem(&self.key).unwrap();
        let issuer = Issuer::from_ca_cert_pem(&self.pem, own).unwrap();
        params.signed_by(key, &issuer).unwrap().pem()
    }

    fn identity(&self, names: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        Identity::from_pem(self.sign(names, LONG, &key), key.serialize_pem())
    }
}

/// What the operator does.
struct Conduct {
    authority: Authority,
    life: Duration,
    /// So many requests are refused first.
    refusals: usize,
    /// It signs another key than it was asked for.
    is_wrong: bool,
    tokens: Vec<String>,
}

#[derive(Clone)]
struct Operator(Arc<Mutex<Conduct>>);

#[tonic::async_trait]
impl certificates_server::Certificates for Operator {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let mut conduct = self.0.lock().unwrap();
        let header = request.metadata().get("authorization").unwrap();
        conduct.tokens.push(header.to_str().unwrap().to_owned());
        if conduct.refusals > 0 {
            conduct.refusals -= 1;
            return Err(Status::unavailable("there is no authority yet"));
        }
        let der = request.into_inner().request;
        let asked = CertificateSigningRequestParams::from_der(&der.as_slice().into()).unwrap();
        let (authority, life) = (&conduct.authority, conduct.life);
        let certificate = match conduct.is_wrong {
            true => authority.sign(&PEER, life, &KeyPair::generate().unwrap()),
            false => authority.sign(&PEER, life, &asked.public_key),
        };
        Ok(Response::new(SignResponse { certificate }))
    }
}

/// A pod of `lamina node` and its operator; both end when dropped.
struct World {
    dir: TempDir,
    operator: Operator,
    at: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    metrics: Arc<Metrics>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl World {
    async fn new(life: Duration) -> Self {
        let authority = Authority::new();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.crt"), &authority.pem).unwrap();
        std::fs::write(dir.path().join("token"), "first\n").unwrap();
        let own = authority.identity(&["operator.lamina.internal"]);
        let operator = Operator(Arc::new(Mutex::new(Conduct {
            authority,
            life,
            refusals: 0,
            is_wrong: false,
            tokens: Vec::new(),
        })));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut server = tls::server()
            .tls_config(ServerTlsConfig::new().identity(own))
            .unwrap();
        let service = CertificatesServer::new(operator.clone());
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let serving = server.add_service(service).serve_with_incoming(incoming);
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self {
            dir,
            operator,
            at,
            tasks: vec![task],
            stop: watch::channel(false).0,
            metrics: Arc::new(Metrics::new("1", "node-a").unwrap()),
        }
    }

    fn conduct(&self) -> std::sync::MutexGuard<'_, Conduct> {
        self.operator.0.lock().unwrap()
    }

    fn tls(&self) -> PathBuf {
        self.dir.path().join("state").join(DIR)
    }

    fn keep_from(&mut self, address: String) -> Certified {
        let (tell, told) = watch::channel(false);
        let from = CertificatesFrom {
            address,
            token: self.dir.path().join("token"),
            ca: self.dir.path().join("ca.crt"),
        };
        let (dir, stop) = (self.tls(), self.stop.subscribe());
        let metrics = Arc::clone(&self.metrics);
        let kept = async move { keep(from, dir, metrics, tell, stop).await.unwrap() };
        self.tasks.push(tokio::spawn(kept));
        told
    }

    fn keep(&mut self) -> Certified {
        self.keep_from(self.at.to_string())
    }

    /// What is kept serves, as the node's TCP side does.
    fn serve(&mut self, held: Arc<Notify>) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let (dir, stop) = (self.tls(), self.stop.subscribe());
        let serving = async move {
            let service = Held(held);
            let router = |mut server: tonic::transport::Server| {
                let service = PlacementServer::new(service.clone());
                server.add_service(InterceptedService::new(service, Guard::Nodes))
            };
            tls::serve(listener, &dir, router, stop).await.unwrap();
        };
        self.tasks.push(tokio::spawn(serving));
        at
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers calls for homes at once, but those for none when it is told.
#[derive(Clone)]
struct Held(Arc<Notify>);

#[tonic::async_trait]
impl Placement for Held {
    async fn find_homes(
        &self,
        request: Request<FindHomesRequest>,
    ) -> Result<Response<FindHomesResponse>, Status> {
        if request.into_inner().count == 0 {
            self.0.notified().await;
        }
        Ok(Response::new(FindHomesResponse::default()))
    }
}

/// A connection of a client of `authority` that believes nobody else.
async fn dial(at: SocketAddr, authority: &Authority) -> Option<PlacementClient<Channel>> {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&authority.pem))
        .identity(authority.identity(&["peer.lamina.internal"]))
        .domain_name("node.lamina.internal");
    let endpoint = Endpoint::from_shared(format!("https://{at}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.ok()?;
    Some(PlacementClient::new(channel))
}

fn homes(count: u32) -> FindHomesRequest {
    FindHomesRequest {
        layer_digest: String::new(),
        count,
        ..FindHomesRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_serves_new_connections_and_open_calls_go_on() {
    let mut world = World::new(Duration::from_secs(6)).await;
    assert!(certified(world.keep(), world.stop.subscribe()).await);
    let held = Arc::new(Notify::new());
    let at = world.serve(Arc::clone(&held));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        let mode = std::fs::metadata(world.tls().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let key = std::fs::read(world.tls().join("tls.key")).unwrap();
    let (first, second) = (world.conduct().authority.clone(), Authority::new());
    let mut client = dial(at, &first).await.unwrap();
    let open = tokio::spawn(async move { client.find_homes(homes(0)).await });
    // Another authority signs the next one; both are trusted.
    let both = format!("{}{}", second.pem, first.pem);
    std::fs::write(world.dir.path().join("ca.crt"), both).unwrap();
    world.conduct().authority = second.clone();
    world.conduct().life = LONG;
    until(
        "clients of the new authority are served",
        async || match dial(at, &second).await {
            Some(mut new) => new.find_homes(homes(1)).await.is_ok(),
            None => false,
        },
    )
    .await;
    assert_ne!(std::fs::read(world.tls().join("tls.key")).unwrap(), key);
    assert!(!open.is_finished(), "the open call was cut off");
    held.notify_one();
    open.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_tried_again_with_the_token_as_it_is_then() {
    let mut world = World::new(LONG).await;
    world.conduct().refusals = 1;
    let told = world.keep();
    until("a request", async || !world.conduct().tokens.is_empty()).await;
    std::fs::write(world.dir.path().join("token"), "second").unwrap();
    assert!(certified(told, world.stop.subscribe()).await);
    assert_eq!(world.conduct().tokens, ["Bearer first", "Bearer second"]);
    world.metrics.will_be_certified().unwrap();
    let text = world.metrics.text().unwrap();
    assert!(
        !text.contains("lamina_node_certificate_not_after_seconds 0"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_operator_is_away_a_certificate_of_before_serves() {
    let mut world = World::new(LONG).await;
    assert!(certified(world.keep(), world.stop.subscribe()).await);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = closed.local_addr().unwrap().to_string();
    drop(closed);
    let again = world.keep_from(nobody);
    assert!(certified(again, world.stop.subscribe()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_signed_wrongly_replaces_nothing() {
    let mut world = World::new(Duration::from_secs(4)).await;
    assert!(certified(world.keep(), world.stop.subscribe()).await);
    let before = std::fs::read(world.tls().join("tls.crt")).unwrap();
    world.conduct().is_wrong = true;
    until("two more requests", async || {
        world.conduct().tokens.len() > 2
    })
    .await;
    assert_eq!(std::fs::read(world.tls().join("tls.crt")).unwrap(), before);
}

#[tokio::test]
async fn without_a_certificate_waiting_ends_with_the_process() {
    let (stop, stops) = watch::channel(true);
    let (_tell, told) = watch::channel(false);
    assert!(!certified(told, stops).await);
    drop(stop);
}

#[test]
fn pauses_grow_to_a_minute_and_are_spread() {
    assert_eq!(pause(0, 0.0), Duration::from_millis(500));
    assert_eq!(pause(3, 0.0), Duration::from_secs(4));
    assert!(pause(3, 0.99) > Duration::from_millis(7900));
    assert!(pause(40, 0.99) <= PAUSE_MAX);
}

/// A clock set back by years put the next certificate off by years, and the one in use ended.
#[test]
fn a_clock_that_is_set_back_puts_nothing_off() {
    let begun = SystemTime::UNIX_EPOCH + 100 * LONG;
    let mut due = Due::after(LONG, begun);
    assert_eq!(due.left(begun + LONG / 2), LONG / 2);
    let back = begun - 50 * LONG;
    assert_eq!(due.left(back), LONG);
    assert_eq!(due.left(back + LONG / 4), LONG * 3 / 4);
    assert_eq!(due.left(back + LONG), Duration::ZERO);
    assert_eq!(due.left(begun), Duration::ZERO, "set right again");
}
