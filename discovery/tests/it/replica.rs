//! Replicas in this process, by their real servers.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lamina_discovery::client::{Client, ClientConfig};
use lamina_discovery::resolve::{RegistryUpstream, ResolveConfig, Resolver};
use lamina_discovery::service::{Identity, Service};
use lamina_discovery::{Clock, Limits, Now, tls};
use lamina_flist::Sha256Digest;
use lamina_image::registry::{CredentialSource, Credentials};
use lamina_proto::discovery::v1::HeartbeatRequest;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A clock that a test moves.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<AtomicU64>);

impl Hands {
    pub(crate) fn clock(&self) -> Clock {
        let this = self.clone();
        Clock::by(move || {
            let ms = this.0.load(Ordering::SeqCst);
            Now {
                since: Duration::from_millis(ms),
                unix_s: 1_700_000_000,
            }
        })
    }

    pub(crate) fn pass(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

/// A replica that has no memory of anything before it.
pub(crate) fn service(limits: Limits, identity: Identity, clock: Clock) -> Service {
    service_for(limits, identity, clock, Vec::new())
}

pub(crate) fn service_for(
    limits: Limits,
    identity: Identity,
    clock: Clock,
    insecure: Vec<String>,
) -> Service {
    let upstream = RegistryUpstream {
        credentials: CredentialSource::Explicit(Credentials::Anonymous),
        insecure,
        limits: lamina_image::Limits::default(),
    };
    let resolver = Resolver::new(upstream, ResolveConfig::default(), clock.clone());
    Service::new(limits, identity, resolver, clock, "test").unwrap()
}

/// One that is served; it ends when dropped.
pub(crate) struct Replica {
    pub(crate) at: SocketAddr,
    pub(crate) service: Service,
    stop: watch::Sender<bool>,
    serving: JoinHandle<Result<(), tls::TlsError>>,
}

impl Replica {
    pub(crate) fn start(service: Service, tls_dir: Option<PathBuf>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), service, tls_dir)
    }

    pub(crate) fn start_at(at: SocketAddr, service: Service, tls_dir: Option<PathBuf>) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let at = listener.local_addr().unwrap();
        let (stop, stops) = watch::channel(false);
        let served = service.clone();
        let serving = tokio::spawn(async move {
            let router = |server| served.serve_on(server);
            match tls_dir {
                Some(dir) => tls::serve(listener, &dir, router, stops).await,
                None => tls::serve_plain(listener, router, stops).await,
            }
        });
        Self {
            at,
            service,
            stop,
            serving,
        }
    }

    /// Ends it, as SIGTERM does; the port is free then.
    pub(crate) async fn end(self) -> SocketAddr {
        self.stop.send_replace(true);
        self.serving.await.unwrap().unwrap();
        self.at
    }
}

/// A client of these replicas that does everything soon.
pub(crate) fn client(replicas: &[SocketAddr]) -> Client {
    Client::start(config(replicas)).unwrap()
}

pub(crate) fn config(replicas: &[SocketAddr]) -> ClientConfig {
    let mut config = ClientConfig::new(replicas.iter().map(SocketAddr::to_string).collect());
    config.tempo.coalesce = Duration::from_millis(20);
    config.tempo.gap = Duration::from_millis(50);
    config.tempo.backoff = Duration::from_millis(50);
    config.tempo.backoff_max = Duration::from_millis(200);
    config.look_every = Duration::from_millis(100);
    config
}

pub(crate) fn digest(n: u32) -> Sha256Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Sha256Digest::from_bytes(bytes)
}

pub(crate) fn holds(node: &str, layers: impl IntoIterator<Item = u32>) -> HeartbeatRequest {
    HeartbeatRequest {
        node_id: node.into(),
        endpoint: "10.0.0.1:7071".into(),
        layer_digests: layers.into_iter().map(|n| digest(n).to_string()).collect(),
        cache_max_bytes: 1 << 30,
        ..HeartbeatRequest::default()
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
