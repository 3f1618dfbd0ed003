//! An afslet as a process: what `lamina afslet` runs.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lamina_discovery::{Security, daemon, tls};
use lamina_runtime::cgroup::ResourceLimits;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::drain::Drain;
use crate::images::Images;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::parts::Parts;
use crate::sandboxes::{Sandboxes, SpawnerProgram};
use crate::service::Service;
use crate::sweep::{let_go, sweep};

/// How long runs that were killed may take to tell their clients.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long calls that are left may take then.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Threads beside those of runs that each may block.
const MORE_THREADS: usize = 32;

/// How an afslet runs.
#[derive(Debug, Clone)]
pub struct AfsletConfig {
    /// Where it is served.
    pub listen: SocketAddr,
    /// Who may call.
    pub security: Security,
    /// Where metrics and health are served.
    pub http: Option<SocketAddr>,
    /// The socket of this node's `lamina node`.
    pub node_socket: PathBuf,
    /// Where images are mounted: a directory that `lamina node` mounts below.
    pub volumes: PathBuf,
    /// Where live state is; sandboxes are in `sandboxes` in it.
    pub run_dir: PathBuf,
    /// This node's name.
    pub node: String,
    /// What runs may have.
    pub limits: Limits,
    /// Sandboxes made ahead.
    pub warm: usize,
    /// How long runs may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// What makes sandboxes.
    pub spawner: SpawnerProgram,
    /// The program's version.
    pub version: String,
}

/// Serves until SIGTERM or SIGINT, and then until its runs have ended or [`AfsletConfig::drain_timeout`] has passed.
///
/// # Errors
/// When it cannot start, or cannot serve any more.
pub fn run(config: AfsletConfig) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(config.limits.runs.saturating_add(MORE_THREADS))
        .build()
        .context("start the I/O runtime")?;
    let served = runtime.block_on(serve(config));
    runtime.shutdown_background();
    served
}

async fn serve(config: AfsletConfig) -> Result<()> {
    let _alone = alone(&config.run_dir)?;
    let parts = parts(&config)?;
    let listener =
        TcpListener::bind(config.listen).with_context(|| format!("listen on {}", config.listen))?;
    tracing::info!(at = %listener.local_addr()?, security = ?config.security, node = config.node, "serving runs");
    let (stop, stops) = watch::channel(false);
    let mut serving = JoinSet::new();
    let service = Service::new(parts.clone());
    serving.spawn(calls(
        listener,
        config.security.clone(),
        service,
        stops.clone(),
    ));
    if let Some(at) = config.http {
        serving.spawn(daemon::serve_http(at, http(parts.clone()), stops));
    }
    let keeping = tokio::spawn(Arc::clone(&parts.sandboxes).keep_ready());
    let cleaning = tokio::spawn(Arc::clone(&parts.sandboxes).keep_clean());
    let images = parts.images.clone();
    let sweeping = tokio::spawn(async move {
        sweep(images.clone()).await;
        let_go(images).await;
    });
    let (asked, asks) = watch::channel(false);
    tokio::spawn(daemon::asked_to_end(asked));
    let served = tokio::select! {
        ended = serving.join_next() => match ended {
            Some(ended) => ended?.context("a listener ended"),
            None => Ok(()),
        },
        () = daemon::stopped(asks) => Ok(()),
    };
    drain(&parts.drain, config.drain_timeout).await;
    keeping.abort();
    sweeping.abort();
    stop.send_replace(true);
    let rest = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(END_PATIENCE, rest).await.is_err() {
        tracing::warn!("connections under way are cut off");
    }
    parts.images.close().await;
    let sandboxes = Arc::clone(&parts.sandboxes);
    tokio::task::spawn_blocking(move || sandboxes.close()).await?;
    if tokio::time::timeout(END_PATIENCE, cleaning).await.is_err() {
        tracing::warn!("the cgroup of a run stays until the next start");
    }
    served
}

/// Holds the directory for as long as the answer lives: another afslet would take our images for left ones.
fn alone(run_dir: &Path) -> Result<File> {
    std::fs::create_dir_all(run_dir).with_context(|| format!("make {}", run_dir.display()))?;
    let path = run_dir.join("afslet.lock");
    let lock = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let lock = lock.with_context(|| format!("open {}", path.display()))?;
    lock.try_lock().with_context(|| {
        format!(
            "another afslet uses {}; give this one another --run-dir",
            run_dir.display()
        )
    })?;
    Ok(lock)
}

fn parts(config: &AfsletConfig) -> Result<Parts> {
    let program = config.spawner.clone();
    let home = config.run_dir.join("sandboxes");
    let sandboxes = Sandboxes::open(home, program, config.warm).context("prepare for sandboxes")?;
    let every = ResourceLimits {
        cpu_millis: Some(1000),
        memory_bytes: Some(1 << 30),
        pids: Some(config.limits.pids),
        ..ResourceLimits::default()
    };
    if config.limits.host_network && !lamina_runtime::keeps_from_abstract_sockets() {
        tracing::warn!(
            "runs on this machine's network reach its abstract Unix sockets: Linux before 6.12, or no Landlock"
        );
    }
    // What every run is promised.
    sandboxes.check(&every)?;
    let node = Node::new(&config.node_socket)
        .with_context(|| format!("understand the socket {}", config.node_socket.display()))?;
    Ok(Parts {
        node: config.node.as_str().into(),
        version: config.version.as_str().into(),
        limits: config.limits,
        admission: Admission::new(config.limits),
        images: Images::new(node, &config.volumes, config.limits.images),
        sandboxes,
        drain: Drain::new(),
        metrics: Arc::new(Metrics::new(&config.version)?),
    })
}

async fn calls(
    listener: TcpListener,
    security: Security,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    match security {
        Security::Mutual(dir) => {
            tls::serve(listener, &dir, |server| service.guarded(server), stop).await?;
        }
        Security::None => tls::serve_plain(listener, |server| service.open(server), stop).await?,
    }
    Ok(())
}

async fn drain(drain: &Drain, patience: Duration) {
    tracing::info!("taking no more runs");
    drain.begin();
    if tokio::time::timeout(patience, drain.idle()).await.is_ok() {
        return;
    }
    tracing::warn!("killing the runs that are left");
    drain.finish();
    if tokio::time::timeout(LAST_WORDS, drain.idle())
        .await
        .is_err()
    {
        tracing::warn!("clients that do not read are not told how their runs ended");
    }
}

fn http(parts: Parts) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .with_state(parts)
}

async fn metrics(State(parts): State<Parts>) -> Response {
    daemon::exposition(parts.metrics.text(&parts))
}

/// Ready is who takes runs, and can mount images for them.
async fn ready(State(parts): State<Parts>) -> Response {
    let why = match (parts.drain.is_draining(), parts.images.is_swept()) {
        (true, _) => "draining\n",
        (false, false) => "lamina node does not answer\n",
        (false, true) => return "ok\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}
