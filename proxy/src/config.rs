//! How a proxy runs, and what callers may cost it at most.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

/// Who may call, and how the other services are dialled.
#[derive(Debug, Clone)]
pub enum Security {
    /// Both sides show certificates, ours from this directory; callers must be `user.lamina.internal` or
    /// `client.lamina.internal`.
    Mutual(PathBuf),
    /// Anybody, without TLS.
    None,
}

impl Security {
    pub(crate) fn dir(&self) -> Option<&PathBuf> {
        match self {
            Self::Mutual(dir) => Some(dir),
            Self::None => None,
        }
    }
}

/// How a proxy runs.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where the services are served.
    pub listen: SocketAddr,
    /// Where status, health and metrics are served.
    pub http: Option<SocketAddr>,
    /// HOST:PORT of afslets; a name stands for all of its addresses.
    pub afslets: Vec<String>,
    /// HOST:PORT of discovery's replicas; none: nothing is known of layerstores and images.
    pub discovery: Vec<String>,
    /// Who may call.
    pub security: Security,
    /// How long runs may go on once the process is to end.
    pub drain_timeout: Duration,
    /// What callers may cost, and when things are looked at.
    pub limits: Limits,
    /// How names become addresses.
    pub lookup: Lookup,
    /// The program's version.
    pub version: String,
}

/// Bounds and times of a proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Runs at one time, waiting ones included; more are `RESOURCE_EXHAUSTED`.
    pub runs_max: usize,
    /// Streams of one client's connection; more wait in that client.
    pub streams_max: u32,
    /// Bytes of the first frames of all runs that no afslet has accepted yet; one has 1 MiB at most.
    pub replay_bytes_max: usize,
    /// For the first frame.
    pub start_deadline: Duration,
    /// From the first frame until an afslet accepts: a cold image is pulled in it.
    pub accept_deadline: Duration,
    /// Between two questions to an afslet how it is.
    pub poll_every: Duration,
    /// For its answer.
    pub poll_deadline: Duration,
    /// Such questions at one time.
    pub polls_max: usize,
    /// So many of them fail in a row before a run that it has not accepted is given to another one.
    pub polls_failed_max: u32,
    /// Between two looks at what names stand for.
    pub lookup_every: Duration,
    /// For one.
    pub lookup_deadline: Duration,
    /// Afslets; further addresses are left out.
    pub afslets_max: usize,
    /// Afslets that one run is offered to between two pauses.
    pub tries_max: usize,
    /// Nodes that are asked at one time to pull an image.
    pub pulls_max: usize,
    /// For all of [`ReconcileImageReplica`](lamina_proto::afsproxy::v1::ReconcileImageReplicaRequest) when the caller
    /// does not say.
    pub reconcile_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            runs_max: 4096,
            streams_max: 1024,
            replay_bytes_max: 256 << 20,
            start_deadline: Duration::from_secs(30),
            accept_deadline: Duration::from_secs(600),
            poll_every: Duration::from_secs(1),
            poll_deadline: Duration::from_secs(2),
            polls_max: 64,
            polls_failed_max: 3,
            lookup_every: Duration::from_secs(5),
            lookup_deadline: Duration::from_secs(5),
            afslets_max: 4096,
            tries_max: 16,
            pulls_max: 8,
            reconcile_deadline: Duration::from_secs(600),
        }
    }
}

type Looking = BoxFuture<'static, io::Result<Vec<SocketAddr>>>;

/// Finds the addresses of HOST:PORT.
#[derive(Clone)]
pub struct Lookup(Arc<dyn Fn(String) -> Looking + Send + Sync>);

impl Lookup {
    /// As the machine does.
    pub fn system() -> Self {
        Self::by(|name| Box::pin(async move { Ok(tokio::net::lookup_host(name).await?.collect()) }))
    }

    /// What `find` says.
    pub fn by(find: impl Fn(String) -> Looking + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }

    pub(crate) fn find(&self, name: &str) -> Looking {
        (self.0)(name.to_owned())
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}
