//! The node as the cluster sees it: what `lamina node` serves (`proto/lamina/v1/node.proto`).
//!
//! ```text
//!  CSI driver ── Unix socket ──┐                       ┌── library: sources to flists on disk
//!                              ├── server ── publish ──┤
//!  operator ──── TCP, mTLS ────┤    (edge)   (core)    └── daemons: the instance, which mounts
//!  other nodes ────────────────┘── layers: what this node gives the cluster, and has of it
//! ```
//!
//! It mounts nothing itself. It may be killed at any time: what is mounted stays mounted and served by the
//! instance, which lives outside its pod, and the next one finds volumes by their records.

mod care;
mod certificate;
pub mod chunks;
mod commit;
mod compare;
mod daemons;
mod error;
mod guard;
mod http;
mod info;
mod keep;
mod layer_metrics;
pub mod library;
mod listen;
mod membership;
mod metrics;
mod mount_metrics;
mod open_files;
mod order;
pub mod partials;
mod peer_metrics;
mod publish;
mod server;
mod source;
mod starts;
mod stats;
mod sweep;
mod target;
mod tree;
mod volumes;
mod warm;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use lamina_discovery::daemon::{self, STOP_DEADLINE};
use lamina_mount::cache::CacheDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::layers::{LayersConfig, Layerstore};
use chunks::{Bring, ChunkLimits, Chunks};
use daemons::{Daemons, Place};
use library::{Library, LibraryConfig, LibraryLimits};
use listen::{Layers, Services};
use membership::Keeper;
use metrics::Metrics;
use server::Service;
use target::Targets;
use volumes::Volumes;

pub use certificate::{CertificatesFrom, DIR as CERTIFICATE_DIR};
pub use error::NodeError;
pub use listen::Listen;
pub use membership::Membership;

/// Where the host's root directory is seen from a pod with `hostPID`.
const HOST_ROOT: &str = "/proc/1/root";

/// How a node runs.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where everything that outlives it is kept.
    pub state: PathBuf,
    /// The instance's cache.
    pub cache: PathBuf,
    /// Sockets and live state.
    pub run_dir: PathBuf,
    /// The service's Unix socket.
    pub socket: PathBuf,
    /// The kubelet's directory, as the host names it.
    pub kubelet_dir: PathBuf,
    /// Stores used where a request names none.
    pub stores: Vec<String>,
    /// Environment variables with the stores' credentials.
    pub store_env: BTreeMap<String, String>,
    /// Registries spoken to in plain http.
    pub insecure_registries: Vec<String>,
    /// Most bytes in the cache.
    pub cache_bytes_max: Option<u64>,
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// Start the instance as processes of the host.
    pub outside_pod: bool,
    /// Where the services are served on TCP.
    pub listen: Option<Listen>,
    /// How the node's certificate is made and renewed, in [`CERTIFICATE_DIR`] of the state directory; without it, by
    /// somebody else.
    pub certificates: Option<CertificatesFrom>,
    /// The cluster it is part of.
    pub cluster: Option<Membership>,
    /// Where metrics and health are served.
    pub http: Option<SocketAddr>,
}

/// What calls need of the configuration.
#[derive(Debug)]
struct Settings {
    state: PathBuf,
    run_dir: PathBuf,
    /// Where the file systems of the mount daemons are seen.
    host_root: PathBuf,
    outside_pod: bool,
    kubelet_dir: PathBuf,
    store_env: BTreeMap<String, String>,
    cache_bytes_max: Option<u64>,
    node: String,
    version: String,
}

/// What every call works with; clones are the same.
#[derive(Clone)]
struct Parts {
    daemons: Arc<Daemons>,
    library: Arc<Library>,
    layers: Option<Layers>,
    volumes: Arc<Volumes>,
    targets: Targets,
    metrics: Arc<Metrics>,
    settings: Arc<Settings>,
}

/// Serves until SIGTERM or SIGINT; the instance goes on.
///
/// # Errors
/// When it cannot start, or cannot serve any more.
pub fn run(config: NodeConfig) -> Result<()> {
    open_files::allow_all();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the I/O runtime")?;
    let served = runtime.block_on(serve(config));
    // Fetches and mounts that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    served
}

async fn serve(config: NodeConfig) -> Result<()> {
    make_private(&config.state)?;
    make_private(&config.run_dir)?;
    let lock = crate::rundir::lock(&config.state, "node.lock", STOP_DEADLINE)
        .context("wait for another `lamina node` on this state directory to end")?;
    let parts = open(&config).await?;
    let keeping = tell_of_cluster(&config, &parts)?;
    let services = Services {
        node: Service::new(parts.clone()),
        layers: parts.layers.clone(),
    };
    let (stop, stops) = watch::channel(false);
    let mut serving = JoinSet::new();
    let unix = listen::on_unix(config.socket, services.clone(), stops.clone());
    serving.spawn(unix);
    let (tell, certified) = watch::channel(config.certificates.is_none());
    if let Some(from) = config.certificates {
        let dir = config.state.join(CERTIFICATE_DIR);
        let metrics = Arc::clone(&parts.metrics);
        metrics.will_be_certified()?;
        serving.spawn(certificate::keep(from, dir, metrics, tell, stops.clone()));
    }
    if let Some(listen) = config.listen {
        serving.spawn(listen::on_tcp(listen, services, certified, stops.clone()));
    }
    if let Some(at) = config.http {
        serving.spawn(http::serve(at, parts.clone(), stops.clone()));
    }
    let cut_off = "calls under way are cut off; they can be made again";
    let served = daemon::run_until_asked(serving, stop, "ending; mounts stay", cut_off).await;
    // What it said of the cluster stays: the agent goes on reading from other nodes.
    drop(keeping);
    drop(lock);
    served
}

/// Has the machine's other processes know the cluster, until what is returned is dropped.
fn tell_of_cluster(config: &NodeConfig, parts: &Parts) -> Result<JoinSet<()>> {
    let mut keeping = JoinSet::new();
    let layers = parts.layers.as_ref();
    if let Some(discovery) = layers.and_then(|layers| layers.store.discovery()) {
        let cache = CacheDir::new(config.cache.clone());
        let (node, state) = (config.node.clone(), config.state.clone());
        keeping.spawn(starts::tell_again(Arc::clone(&discovery), node, state));
        keeping.spawn(partials::report(discovery, config.node.clone(), cache));
    }
    match config.cluster.clone() {
        Some(membership) => {
            let keeper = Keeper {
                membership,
                node: config.node.clone(),
                state: config.state.clone(),
                run_dir: config.run_dir.clone(),
                socket: config.socket.clone(),
            };
            let daemons = Arc::clone(&parts.daemons);
            keeping.spawn(keeper.keep(move || daemons.is_over()));
        }
        None => membership::forget(&config.run_dir)?,
    }
    Ok(keeping)
}

/// The node's layers, where it is part of a cluster.
fn open_layers(config: &NodeConfig, daemons: &Arc<Daemons>) -> Result<Option<Layers>> {
    let Some(membership) = &config.cluster else {
        return Ok(None);
    };
    let cluster = membership.join(&config.node)?;
    let layers = LayersConfig {
        bytes_max: membership.layers_bytes_max,
        insecure_registries: config.insecure_registries.clone(),
        ..LayersConfig::new(config.state.join("layers"))
    };
    let store = Layerstore::open(layers, Some(cluster)).context("open the node's layers")?;
    let whole = Arc::new(store.shelf().clone());
    let cache = CacheDir::new(config.cache.clone());
    let bring: Arc<dyn Bring> = Arc::clone(daemons) as _;
    let chunks = Chunks::new(whole, cache, bring, ChunkLimits::default());
    Ok(Some(Layers { store, chunks }))
}

async fn open(config: &NodeConfig) -> Result<Parts> {
    let place = Place {
        state: config.state.clone(),
        cache: config.cache.clone(),
        run_dir: config.run_dir.clone(),
        outside_pod: config.outside_pod,
    };
    let started = tokio::task::spawn_blocking(move || {
        let daemons = Daemons::open(&place)?;
        daemons.start().context("start the mount daemons")?;
        warm::clear(&daemons, &place.state).context("unmount what an earlier process left")?;
        Ok::<_, anyhow::Error>(daemons)
    });
    let daemons = Arc::new(started.await??);
    let layers = open_layers(config, &daemons)?;
    let library = Library::open(LibraryConfig {
        dir: config.state.join("images"),
        stores: config.stores.clone(),
        insecure_registries: config.insecure_registries.clone(),
        layers: layers.as_ref().map(|layers| layers.store.clone()),
        limits: LibraryLimits::default(),
    })
    .context("open the library of flists")?;
    let volumes =
        Volumes::open(config.state.join("volumes")).context("read the volumes' records")?;
    let host_root = match config.outside_pod {
        true => HOST_ROOT,
        false => "/",
    };
    Ok(Parts {
        daemons,
        library,
        layers,
        volumes: Arc::new(volumes),
        targets: Targets::new(config.kubelet_dir.clone(), host_root.into()),
        metrics: Arc::new(Metrics::new(&config.version, &config.node)?),
        settings: Arc::new(Settings {
            state: config.state.clone(),
            run_dir: config.run_dir.clone(),
            host_root: host_root.into(),
            outside_pod: config.outside_pod,
            kubelet_dir: config.kubelet_dir.clone(),
            store_env: config.store_env.clone(),
            cache_bytes_max: config.cache_bytes_max,
            node: config.node.clone(),
            version: config.version.clone(),
        }),
    })
}

fn make_private(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("make the directory {}", dir.display()))
}
