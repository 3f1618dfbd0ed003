//! The agent: fetches, bounds the cache, mounts, remembers access profiles.
//!
//! It may be killed at any moment. Everything it must find again is in the mount daemon (what is
//! mounted, which blobs are served), in the cache (bytes and their bits) or in the kernel (the mounts
//! themselves); its memory is only a cache of those.

mod ahead;
pub mod cache_lock;
mod calls;
mod cluster;
mod density;
mod failure;
mod fetch;
mod fill;
mod flists;
mod foresight;
mod guide;
mod holds;
mod kernel;
mod lanes;
mod live;
mod mounts;
pub mod offline;
mod overlap;
mod prefetch;
pub(crate) mod profile;
mod resident;
mod sources;
mod space;
mod stores;
pub mod trouble;
mod watch;

pub(crate) use cluster::told_range;
pub(crate) use failure::of_store;

use crate::instance::Instance;
use crate::rundir;
use anyhow::{Context, Result};
use lamina_mount::cache::CacheDir;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What an agent needs to run.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Whose agent this is.
    pub instance: Instance,
    /// The cache directory.
    pub cache: PathBuf,
    /// Where what outlives the cache is kept: access profiles.
    pub state: PathBuf,
    /// Stay when nothing is mounted, until asked to end.
    pub linger: bool,
}

/// Runs the agent until its last mount has been gone for a moment.
///
/// # Errors
/// When the sockets or the cache cannot be opened.
pub fn run(config: AgentConfig) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the I/O runtime")?;
    let instance = config.instance.clone();
    runtime
        .block_on(serve(config))
        .inspect_err(|error| trouble::leave(&instance, error))?;
    // Fetches nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    Ok(())
}

/// How long a killed predecessor may take to be gone.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(30);

/// Sockets first: whoever waits for a successor of a killed agent waits for them. But before them the
/// lock: two agents would both write the cache.
async fn serve(config: AgentConfig) -> Result<()> {
    let _lock = rundir::lock_as_child(config.instance.dir(), "agent.lock", PREDECESSOR_PATIENCE)?;
    // Another instance may mean the same cache, by another run directory.
    let _cache = cache_lock::take(&config.cache, config.instance.dir(), PREDECESSOR_PATIENCE)?;
    let instance = config.instance.clone();
    let fills = crate::fill::listen(&config.instance.agent_socket()).context("listen for fills")?;
    let calls = calls::listen(&config.instance.api_socket()).context("listen for calls")?;
    let space = Arc::new(space::Space::open(&config.cache).context("open the cache")?);
    let cluster = cluster::Cluster::open(config.instance.run_dir());
    let patience = fetch::Patience::default();
    let fetcher = fetch::Fetcher::new(Arc::clone(&space), Arc::clone(&cluster), patience);
    let sources = sources::Sources::new(CacheDir::new(&config.cache), Arc::clone(&space));
    let agent = Arc::new(mounts::Agent::new(config, space, sources, fetcher)?);

    let mut filling = tokio::spawn(crate::fill::serve(
        fills,
        Arc::new(fill::Fills(Arc::clone(&agent))),
    ));
    agent.adopt().await.context("find live mounts again")?;
    trouble::forget(&instance);
    agent.tell_holder();
    let watching = tokio::spawn(watch::unmounts(Arc::clone(&agent)));
    let upkeep = tokio::spawn(watch::upkeep(Arc::clone(&agent)));
    let tending = tokio::spawn(watch::loose_ends(Arc::clone(&agent)));
    let belonging = tokio::spawn(cluster.watch());
    let pacing = tokio::spawn(watch::pace(Arc::clone(&agent)));
    let ended = tokio::select! {
        ended = calls::serve(calls, Arc::clone(&agent)) => ended,
        lost = &mut filling => Err(anyhow::anyhow!("fills cannot be answered any more: {lost:?}")),
    };
    for task in [watching, upkeep, tending, belonging, pacing] {
        task.abort();
    }
    filling.abort();
    ended
}
