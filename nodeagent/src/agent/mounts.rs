//! What is mounted, and the calls that change it.
//!
//! ```text
//!  admit ──> open blobs ──> register with the mount daemon ──> mount once ──> bind or overlay on target
//! ```
//!
//! Always holds: the mount daemon knows of a mount before it appears at its target, so a successor of
//! this agent finds every mount; a call that was cut off may be made again and finds what it did
//! before; a call that fails leaves nothing behind.

mod adopt;

use crate::agent::AgentConfig;
use crate::agent::failure::{Result, failure, refused};
use crate::agent::fetch::Fetcher;
use crate::agent::flists::{Admitted, FlistDir};
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::agent::prefetch;
use crate::agent::profile::{ProfileDir, Recorder};
use crate::agent::sources::Sources;
use crate::agent::space::Space;
use crate::api::{Answer, FailureKind, MountCall, MountInfo, PrefetchCall, UmountCall};
use crate::holder::HolderClient;
use crate::mountd::{BlobRegistration, ErrorKind, MountRecord, MountdClient, MountdError};
use lamina_flist::{BlobId, FlistDigest, Limits};
use lamina_mount::cache::{CacheDir, Trust};
use lamina_mount::probe::Mode;
use lamina_mount::union::UpperDirs;
use lamina_mount::unmount::mountinfo::MountTable;
use lamina_mount::unmount::{self, UnmountOptions};
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a restarting mount daemon is waited for.
pub(crate) const MOUNTD_PATIENCE: Duration = Duration::from_secs(10);

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
    /// One mount or umount at a time: they share mount points and records.
    turn: Arc<tokio::sync::Mutex<()>>,
    adopted: watch::Sender<bool>,
    activity: watch::Sender<Activity>,
    runtime: tokio::runtime::Handle,
}

/// Why the agent stays.
#[derive(Debug, Clone, Copy)]
struct Activity {
    calls: usize,
    mounts: usize,
    changed: Instant,
}

impl Activity {
    fn is_quiet_since(&self, moment: Instant) -> bool {
        self.calls == 0 && self.mounts == 0 && self.changed == moment
    }
}

impl Agent {
    pub(crate) fn new(
        config: AgentConfig,
        space: Arc<Space>,
        sources: Sources,
        fetcher: Arc<Fetcher>,
    ) -> anyhow::Result<Self> {
        let flists = FlistDir::open(&config.cache, Limits::default())?;
        let profiles = ProfileDir::open(&config.state)?;
        let activity = Activity {
            calls: 0,
            mounts: 0,
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
            turn: Arc::default(),
            adopted: watch::Sender::new(false),
            activity: watch::Sender::new(activity),
            runtime: tokio::runtime::Handle::current(),
        })
    }

    /// Mounts; answers when the target shows the flist.
    pub(crate) async fn mount(self: &Arc<Self>, call: MountCall) -> Result<MountInfo> {
        self.in_turn(move |agent| agent.mount_now(&call)).await
    }

    /// Unmounts; the last mount of a flist closes its blobs.
    pub(crate) async fn umount(self: &Arc<Self>, call: UmountCall) -> Result<()> {
        self.in_turn(move |agent| agent.umount_now(&call)).await
    }

    /// Every mount with its figures.
    pub(crate) async fn list(self: &Arc<Self>) -> Result<Answer> {
        self.adopted().await;
        let agent = Arc::clone(self);
        let listed = tokio::task::spawn_blocking(move || agent.list_now()).await;
        listed.unwrap_or_else(|_| Err(refused(FailureKind::Other, "the listing was cut off")))
    }

    /// Fetches ahead; answers with the plain bytes brought.
    pub(crate) async fn prefetch(self: &Arc<Self>, call: PrefetchCall) -> Result<u64> {
        self.adopted().await;
        let _busy = self.busy();
        let mount = self.mounts().get(&call.target).cloned();
        let Some(mount) = mount else {
            return Err(not_mounted(&call.target));
        };
        let live = &mount.flist;
        let steps = match (&live.profile, call.profile) {
            (Some(profile), true) => prefetch::profile_steps(live, profile),
            (None, true) => Vec::new(),
            (_, false) => prefetch::path_steps(live, &call.paths)
                .map_err(|error| failure(FailureKind::NotFound, &error))?,
        };
        let before = live.bytes_fetched();
        let walked = prefetch::walk(Arc::clone(&self.fetcher), steps).await;
        walked.map_err(|error| failure(error.kind(), &error))?;
        Ok(live.bytes_fetched() - before)
    }

    /// Notes that a reader asked for entries.
    pub(crate) fn note_touch(&self, blob: &BlobId, entries: &std::ops::Range<u32>) {
        for mount in self.mounts().values() {
            let place = mount
                .flist
                .sources
                .iter()
                .position(|source| source.id == *blob);
            if let Some(place) = place {
                mount
                    .flist
                    .recorder
                    .note(place as u16, entries.start, entries.len() as u32);
            }
        }
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

    /// Returns when nothing was mounted and nobody called for this long.
    pub(crate) async fn idle_for(&self, linger: Duration) {
        let mut activity = self.activity.subscribe();
        loop {
            let quiet = activity
                .wait_for(|now| now.calls == 0 && now.mounts == 0)
                .await;
            let Ok(now) = quiet.map(|now| *now) else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until((now.changed + linger).into()).await;
            if activity.borrow().is_quiet_since(now.changed) {
                return;
            }
        }
    }

    /// Ends as soon as nothing is mounted.
    pub(crate) fn ask_to_end(&self) -> Result<()> {
        if self.mounts().is_empty() {
            let long_ago = Instant::now().checked_sub(Duration::from_secs(3600));
            self.activity
                .send_modify(|now| now.changed = long_ago.unwrap_or(now.changed));
            return Ok(());
        }
        Err(refused(
            FailureKind::Busy,
            "mounts exist; `lamina mounts` lists them",
        ))
    }

    /// Ends the mount daemon; the agent's own end follows. Says whether it did: a call that came at
    /// the last moment keeps both.
    pub(crate) async fn end(self: &Arc<Self>) -> anyhow::Result<bool> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let now = *self.activity.borrow();
        if !now.is_quiet_since(now.changed) {
            return Ok(false);
        }
        let dir = self.config.instance.dir().to_owned();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let mut mountd = MountdClient::connect(&dir, MOUNTD_PATIENCE)?;
            // Records that could not be adopted describe mounts that are not ours any more.
            for record in mountd.list_mounts()? {
                mountd.remove_mount_record(&record.id)?;
            }
            match mountd.shutdown(false) {
                Err(error @ MountdError::Refused { .. }) => Err(error),
                // It may be gone before its answer is.
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await??;
        Ok(true)
    }

    /// Finds the mounts of a predecessor again: from the mount daemon's records, checked against
    /// what the kernel says.
    pub(crate) async fn adopt(self: &Arc<Self>) -> anyhow::Result<()> {
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || agent.adopt_now()).await??;
        self.adopted.send_replace(true);
        Ok(())
    }

    /// Closes what was unmounted without us (by umount(8), by the end of a mount namespace).
    pub(crate) async fn reconcile(self: &Arc<Self>) {
        self.adopted().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let agent = Arc::clone(self);
        let closed = tokio::task::spawn_blocking(move || {
            let outcome = agent.forget_gone();
            drop(turn);
            outcome
        });
        if let Ok(Err(error)) = closed.await {
            tracing::warn!(%error, "close what was unmounted elsewhere");
        }
    }

    fn forget_gone(&self) -> Result<()> {
        let table = MountTable::read().map_err(|error| failure(FailureKind::Other, &error))?;
        let gone: Vec<PathBuf> = self
            .mounts()
            .keys()
            .filter(|target| table.on(target).is_none())
            .cloned()
            .collect();
        gone.iter().try_for_each(|target| self.forget(target))
    }

    /// Keeps what was recorded so far, of every mount.
    pub(crate) fn save_profiles(&self) {
        let live: Vec<_> = self
            .mounts()
            .values()
            .map(|mount| Arc::clone(&mount.flist))
            .collect();
        for live in live {
            self.save_profile(&live);
        }
    }

    fn save_profile(&self, live: &LiveFlist) {
        if let Some(profile) = live.recorder.profile(live.profile.as_ref())
            && let Err(error) = self.profiles.save(&live.digest, &profile)
        {
            tracing::warn!(%error, "keep an access profile");
        }
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

    fn mount_now(self: &Arc<Self>, call: &MountCall) -> Result<MountInfo> {
        let start = Instant::now();
        let expire = call.cache_expire_s.map(Duration::from_secs);
        self.space
            .configure(call.cache_size, expire)
            .map_err(|error| failure(FailureKind::Other, &error))?;
        let admitted = self
            .flists
            .admit(&call.flist)
            .map_err(|error| failure(error.kind(), &error))?;
        let digest = admitted.flist.digest();
        // The watcher may not have seen yet what was unmounted elsewhere a moment ago.
        self.forget_gone()?;
        if let Some(known) = self.mounts().get(&call.target) {
            return Self::again(known, call, &digest);
        }
        let live = match self.live(&digest) {
            Some(live) => Self::same_mode(live, call)?,
            None => self.go_live(admitted, call)?,
        };
        let mount = self
            .show(&live, call)
            .inspect_err(|_| self.close_if_unused(&live))?;
        let ready_us = start.elapsed().as_micros() as u64;
        mount
            .ready_us
            .store(ready_us, std::sync::atomic::Ordering::Relaxed);
        self.start_prefetch(&live, call);
        Ok(mount.info(&BTreeMap::new()))
    }

    /// The same call again (its answer was lost), or another flist on a target in use.
    fn again(known: &Arc<LiveMount>, call: &MountCall, digest: &FlistDigest) -> Result<MountInfo> {
        if known.flist.digest == *digest && known.extra.call.upper == call.upper {
            return Ok(known.info(&BTreeMap::new()));
        }
        let target = call.target.display();
        let flist = known.extra.call.flist.display();
        Err(refused(
            FailureKind::Busy,
            format!("{target} is in use: {flist} is mounted there"),
        ))
    }

    fn same_mode(live: Arc<LiveFlist>, call: &MountCall) -> Result<Arc<LiveFlist>> {
        match super::kernel::only(call.mode) {
            Some(mode) if mode != live.mode => {
                let message = format!(
                    "the flist is mounted as {} already; one mode at a time",
                    live.mode
                );
                Err(refused(FailureKind::Busy, message))
            }
            _ => Ok(live),
        }
    }

    /// Opens a flist's blobs and mounts it at its own mount point.
    fn go_live(&self, admitted: Admitted, call: &MountCall) -> Result<Arc<LiveFlist>> {
        let digest = admitted.flist.digest();
        let mount_point = self.config.instance.mount_point(&digest.to_string());
        let live = self.prepare(admitted, call, None)?;
        let mounted = super::kernel::mount(
            &live,
            &self.cache,
            self.config.instance.dir(),
            &mount_point,
            call.mode,
        );
        match mounted {
            Ok(Mode::Fuse) => {
                // Whole-tree FUSE reads complete blobs through the mount daemon, too.
                let served = live.sources.iter().map(|source| source.id).collect();
                Ok(Arc::new(LiveFlist {
                    mode: Mode::Fuse,
                    served,
                    ..live
                }))
            }
            Ok(mode) => Ok(Arc::new(LiveFlist { mode, ..live })),
            Err(error) => {
                self.close(&live);
                Err(error)
            }
        }
    }

    /// Everything of a live flist but its mount. `adopted` is the mode of one mounted already.
    fn prepare(
        &self,
        admitted: Admitted,
        call: &MountCall,
        adopted: Option<&MountRecord>,
    ) -> Result<LiveFlist> {
        let flist = &admitted.flist;
        let digest = flist.digest();
        let mut mountd = self.mountd()?;
        let known = mountd
            .list_blobs()
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let known: HashSet<BlobId> = known.into_iter().map(|blob| blob.id).collect();
        let sources = if flist.blob_count() == 0 {
            Vec::new()
        } else {
            let reader = super::stores::reader(&admitted, call)?;
            let trust = |id: &BlobId| match adopted.is_some() || known.contains(id) {
                true => Trust::SameBoot,
                false => Trust::Closed,
            };
            self.sources
                .open(flist, &reader, trust)
                .map_err(|error| failure(super::failure::of_cache(&error), &error))?
        };
        let served: Vec<BlobId> = match adopted {
            Some(record) => record.blobs.clone(),
            None => sources
                .iter()
                .filter(|s| !s.file.is_complete())
                .map(|s| s.id)
                .collect(),
        };
        let recorded = self.profiles.load(&digest);
        let cold = sources
            .iter()
            .all(|source| source.file.present_count() == 0);
        let recorder = Recorder::new(recorded.is_none() && cold);
        let profile = recorded.or_else(|| flist.profile());
        let live = LiveFlist {
            digest,
            mode: Mode::Erofs,
            mount_point: self.config.instance.mount_point(&digest.to_string()),
            sources,
            served,
            profile,
            recorder,
            admitted,
        };
        let registrations = live.served.iter().map(|id| BlobRegistration {
            id: *id,
            dir: self.cache.blob_dir(id),
        });
        let registered = mountd.register_blobs(registrations.collect());
        if let Err(error) = registered {
            self.sources.close(&digest);
            return Err(failure(FailureKind::Unavailable, &error));
        }
        Ok(live)
    }

    /// Makes a live flist appear at the call's target.
    fn show(&self, live: &Arc<LiveFlist>, call: &MountCall) -> Result<Arc<LiveMount>> {
        let extra = Extra {
            digest: live.digest,
            mode: live.mode,
            call: call.clone(),
        };
        let record = MountRecord {
            id: call.target.display().to_string(),
            flist: live.admitted.path.clone(),
            target: call.target.clone(),
            mode: live.mode.to_string(),
            blobs: live.served.clone(),
            extra: extra.encode(),
        };
        let mut mountd = self.mountd()?;
        mountd
            .put_mount_record(record)
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let attached = super::kernel::attach(live, call);
        let upper = attached.inspect_err(|_| {
            if let Err(error) = mountd.remove_mount_record(&call.target.display().to_string()) {
                tracing::warn!(%error, "take back a mount record");
            }
        })?;
        Ok(self.remember(live, extra, upper))
    }

    fn remember(
        &self,
        live: &Arc<LiveFlist>,
        extra: Extra,
        upper: Option<UpperDirs>,
    ) -> Arc<LiveMount> {
        let target = extra.call.target.clone();
        let mount = Arc::new(LiveMount {
            flist: Arc::clone(live),
            extra,
            ready_us: 0.into(),
            _upper: upper,
        });
        self.mounts().insert(target, Arc::clone(&mount));
        self.count_mounts();
        mount
    }

    fn umount_now(self: &Arc<Self>, call: &UmountCall) -> Result<()> {
        if !self.mounts().contains_key(&call.target) {
            return Err(not_mounted(&call.target));
        }
        let options = UnmountOptions {
            step_deadline: Duration::from_millis((call.timeout_ms / 4).max(1)),
            detach: call.force,
            ..UnmountOptions::default()
        };
        unmount::unmount(&call.target, &options).map_err(|error| {
            let kind = match error {
                unmount::UnmountError::Busy { .. } => FailureKind::Busy,
                unmount::UnmountError::Stuck { .. } => FailureKind::Timeout,
                _ => FailureKind::Other,
            };
            failure(kind, &error)
        })?;
        self.forget(&call.target)
    }

    /// Forgets a target that is not mounted any more, and its flist with the last of them. The mount
    /// daemon's record goes first: what fails can be tried again.
    fn forget(&self, target: &Path) -> Result<()> {
        self.mountd()?
            .remove_mount_record(&target.display().to_string())
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let Some(mount) = self.mounts().remove(target) else {
            return Ok(());
        };
        let live = Arc::clone(&mount.flist);
        drop(mount);
        self.close_if_unused(&live);
        self.count_mounts();
        Ok(())
    }

    fn close_if_unused(&self, live: &Arc<LiveFlist>) {
        if self.live(&live.digest).is_some() {
            return;
        }
        // The bind or overlay on a detached target may still hold it; then it goes with its last user.
        let options = UnmountOptions {
            detach: true,
            ..UnmountOptions::default()
        };
        if let Err(error) = unmount::unmount(&live.mount_point, &options) {
            tracing::warn!(%error, "unmount a flist nobody shows any more");
        }
        let _ = std::fs::remove_dir(&live.mount_point);
        self.save_profile(live);
        self.close(live);
    }

    fn close(&self, live: &LiveFlist) {
        // The mount daemon lets go first: from then on nobody reads by our bits.
        let used: HashSet<BlobId> = self
            .mounts()
            .values()
            .flat_map(|mount| mount.flist.served.clone())
            .collect();
        let idle: Vec<BlobId> = live
            .served
            .iter()
            .filter(|id| !used.contains(*id))
            .copied()
            .collect();
        let told = self.unregister(&idle);
        if let Err(error) = told {
            tracing::warn!(%error, "take blobs out of service");
        }
        self.sources.close(&live.digest);
    }

    /// Takes blobs out of service. The end of a FUSE tree that was just unmounted takes the mount
    /// daemon a moment to see.
    fn unregister(&self, idle: &[BlobId]) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut mountd = self.mountd()?;
        loop {
            match mountd.unregister(idle.to_vec()) {
                Err(MountdError::Refused {
                    kind: ErrorKind::InUse,
                    ..
                }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                told => return told.map_err(|error| failure(FailureKind::Unavailable, &error)),
            }
        }
    }

    fn start_prefetch(self: &Arc<Self>, live: &Arc<LiveFlist>, call: &MountCall) {
        let Some(profile) = live.profile.clone().filter(|_| call.prefetch) else {
            return;
        };
        let steps = prefetch::profile_steps(live, &profile);
        let fetcher = Arc::clone(&self.fetcher);
        self.runtime.spawn(async move {
            if let Err(error) = prefetch::walk(fetcher, steps).await {
                tracing::warn!(error = crate::chain(&error), "prefetch stopped");
            }
        });
    }

    fn list_now(&self) -> Result<Answer> {
        let stats = self
            .mountd()?
            .stats()
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let mounts: Vec<Arc<LiveMount>> = self.mounts().values().cloned().collect();
        let mounts = mounts
            .iter()
            .map(|mount| mount.info(&stats.blobs))
            .collect();
        let (bytes, bytes_max, expire) = self.space.report();
        let cache = crate::api::CacheInfo {
            dir: self.config.cache.clone(),
            bytes,
            bytes_max,
            expire_s: expire.map(|time| time.as_secs()),
        };
        Ok(Answer::Mounts { mounts, cache })
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

    fn mounts(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Arc<LiveMount>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_mounts(&self) {
        let mounts = self.mounts().len();
        self.activity.send_modify(|now| {
            now.mounts = mounts;
            now.changed = Instant::now();
        });
    }

    /// Keeps the agent from ending while the value lives.
    pub(crate) fn busy(self: &Arc<Self>) -> Busy {
        self.activity.send_modify(|now| now.calls += 1);
        Busy(Arc::clone(self))
    }
}

/// A call under way; the agent does not end meanwhile.
pub(crate) struct Busy(Arc<Agent>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.activity.send_modify(|now| {
            now.calls -= 1;
            now.changed = Instant::now();
        });
    }
}

fn not_mounted(target: &Path) -> crate::api::Failure {
    refused(
        FailureKind::NotFound,
        format!("{} is not mounted by this instance", target.display()),
    )
}
