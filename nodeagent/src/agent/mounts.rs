//! What is mounted, and the calls that change it.
//!
//! ```text
//!  admit ──> open blobs ──> register with the mount daemon ──> mount once ──> bind or overlay on target
//! ```
//!
//! Always holds: the mount daemon knows of a mount before it appears at its target, so a successor of
//! this agent finds every mount; a call that was cut off may be made again and finds what it did
//! before; a call that fails leaves nothing mounted, recorded or in service behind (but what it said about
//! the cache's bounds holds).

mod activity;
mod adopt;
mod close;
mod deadline;
mod detached;
mod doubt;
mod learning;
mod list;
pub(super) mod own;
mod pace;
mod pending;
mod show;
mod umount;

use crate::agent::AgentConfig;
use crate::agent::failure::{Result, failure, refused};
use crate::agent::fetch::Fetcher;
use crate::agent::flists::FlistDir;
use crate::agent::live::{LiveFlist, LiveMount};
use crate::agent::profile::ProfileDir;
use crate::agent::sources::Sources;
use crate::agent::space::Space;
use crate::api::{Answer, FailureKind, MountCall, MountInfo, MountsCall, UmountCall};
use crate::holder::HolderClient;
use crate::mountd::MountdClient;
use activity::Activity;
use anyhow::Context;
use lamina_flist::{FlistDigest, Limits};
use lamina_mount::cache::CacheDir;
use pending::Pending;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a restarting mount daemon is waited for.
pub(crate) const MOUNTD_PATIENCE: Duration = Duration::from_secs(10);
/// The same for one that may be about to be started: shorter than callers wait, so that they hear why it is not there.
const MOUNTD_START_PATIENCE: Duration = Duration::from_secs(25);

/// The agent's memory; see the module above for what it may rely on.
pub(crate) struct Agent {
    config: AgentConfig,
    cache: CacheDir,
    pub(crate) space: Arc<Space>,
    pub(crate) sources: Sources,
    pub(crate) fetcher: Arc<Fetcher>,
    flists: FlistDir,
    profiles: ProfileDir,
    mounts: Mutex<BTreeMap<PathBuf, Arc<LiveMount>>>,
    /// The last mounts of flists that are still read.
    detached: Mutex<Vec<Arc<LiveMount>>>,
    /// Recorded mounts that cannot be served (yet), by their record's id.
    pending: Mutex<BTreeMap<String, Pending>>,
    /// Targets found unmounted when the agent started: an umount asked of its predecessor is done.
    ended: Mutex<HashSet<PathBuf>>,
    /// One mount or umount at a time: they share mount points and records.
    turn: Arc<tokio::sync::Mutex<()>>,
    adopted: watch::Sender<bool>,
    activity: watch::Sender<Activity>,
    runtime: tokio::runtime::Handle,
}

impl Agent {
    pub(crate) fn new(
        config: AgentConfig,
        space: Arc<Space>,
        sources: Sources,
        fetcher: Arc<Fetcher>,
    ) -> anyhow::Result<Self> {
        let flists = FlistDir::open(&config.cache, Limits::default(), Arc::clone(&space));
        let profiles = ProfileDir::open(&config.state)
            .with_context(|| format!("open the state directory {}", config.state.display()))?;
        let activity = Activity {
            calls: 0,
            mounts: 0,
            loose: 0,
            asked: false,
            changed: Instant::now(),
        };
        Ok(Self {
            cache: CacheDir::new(&config.cache),
            config,
            space,
            sources,
            fetcher,
            flists,
            profiles,
            mounts: Mutex::default(),
            detached: Mutex::default(),
            pending: Mutex::default(),
            ended: Mutex::default(),
            turn: Arc::default(),
            adopted: watch::Sender::new(false),
            activity: watch::Sender::new(activity),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Mounts; answers when the target shows the flist.
    pub(crate) async fn mount(self: &Arc<Self>, mut call: MountCall) -> Result<MountInfo> {
        // Not a moment in what is put on record.
        let config = std::mem::take(&mut call.docker_config);
        let config = (!config.is_empty()).then(|| Arc::new(config));
        self.in_turn(move |agent| agent.mount_now(&call, config))
            .await
    }

    /// Unmounts; the last mount of a flist closes its blobs.
    pub(crate) async fn umount(self: &Arc<Self>, call: UmountCall) -> Result<()> {
        self.in_turn(move |agent| agent.umount_now(&call)).await
    }

    /// Every mount with its figures.
    pub(crate) async fn list(self: &Arc<Self>, call: MountsCall) -> Result<Answer> {
        self.adopted().await;
        let agent = Arc::clone(self);
        let listed = tokio::task::spawn_blocking(move || agent.list_now(call)).await;
        listed.unwrap_or_else(|_| Err(refused(FailureKind::Other, "the listing was cut off")))
    }

    /// Returns when the mounts a predecessor left are known.
    pub(crate) async fn adopted(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.adopted.subscribe().wait_for(|adopted| *adopted).await;
    }

    /// Tells the holder that this agent serves: its next death is then answered without delay.
    pub(crate) fn tell_holder(&self) {
        let told = HolderClient::connect(self.config.instance.dir())
            .and_then(|holder| holder.ready("agent"));
        if let Err(error) = told {
            tracing::warn!(%error, "tell the holder");
        }
    }

    /// Finds the mounts of a predecessor again: from the mount daemon's records, checked against
    /// what the kernel says.
    pub(crate) async fn adopt(self: &Arc<Self>) -> anyhow::Result<()> {
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || agent.adopt_now()).await??;
        self.adopted.send_replace(true);
        Ok(())
    }

    async fn in_turn<T, F>(self: &Arc<Self>, act: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<Self>) -> Result<T> + Send + 'static,
    {
        let busy = self.busy();
        self.adopted().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let agent = Arc::clone(self);
        let acted = tokio::task::spawn_blocking(move || {
            let outcome = act(&agent);
            drop(turn);
            outcome
        })
        .await;
        drop(busy);
        acted.unwrap_or_else(|_| {
            Err(refused(
                FailureKind::Other,
                "the call was cut off; see the log",
            ))
        })
    }

    fn live(&self, digest: &FlistDigest) -> Option<Arc<LiveFlist>> {
        let mounts = self.mounts();
        let found = mounts.values().find(|mount| mount.flist.digest == *digest);
        found.map(|mount| Arc::clone(&mount.flist))
    }

    fn mountd(&self) -> Result<MountdClient> {
        MountdClient::connect(self.config.instance.dir(), MOUNTD_PATIENCE)
            .map_err(|error| failure(FailureKind::Unavailable, &error))
    }

    /// Waits for the mount daemon: one that is started anew may have to wait for its predecessor's end first.
    fn await_mountd(&self, patience: Duration) -> Result<()> {
        MountdClient::connect(self.config.instance.dir(), patience)
            .map(drop)
            .map_err(|error| failure(FailureKind::Unavailable, &error))
    }

    fn detached(&self) -> MutexGuard<'_, Vec<Arc<LiveMount>>> {
        self.detached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<String, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, HashSet<PathBuf>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nothing can be done with a target that is not among the mounts.
    fn why_not_served(&self, target: &Path) -> crate::api::Failure {
        let pending = self.pending_at(target);
        pending.map_or_else(|| not_mounted(target), |(_, pending)| pending.unserved())
    }

    fn mounts(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<LiveMount>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_mounted(target: &Path) -> crate::api::Failure {
    refused(
        FailureKind::NotFound,
        format!("{} is not mounted by this instance", target.display()),
    )
}
