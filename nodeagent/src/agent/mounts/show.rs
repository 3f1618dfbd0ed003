//! Making a flist appear at a target: admit, open, register, mount once, bind or overlay.

use super::Agent;
use crate::agent::failure::{Result, failure, refused};
use crate::agent::flists::Admitted;
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::agent::profile::Recorder;
use crate::agent::{failure, kernel, prefetch, stores};
use crate::api::{FailureKind, MountCall, MountInfo};
use crate::mountd::{BlobRegistration, MountRecord};
use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::cache::Trust;
use lamina_mount::probe::Mode;
use lamina_mount::union::UpperDirs;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Agent {
    pub(super) fn mount_now(self: &Arc<Self>, call: &MountCall) -> Result<MountInfo> {
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
    pub(super) fn again(
        known: &Arc<LiveMount>,
        call: &MountCall,
        digest: &FlistDigest,
    ) -> Result<MountInfo> {
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

    pub(super) fn same_mode(live: Arc<LiveFlist>, call: &MountCall) -> Result<Arc<LiveFlist>> {
        match kernel::only(call.mode) {
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
    pub(super) fn go_live(&self, admitted: Admitted, call: &MountCall) -> Result<Arc<LiveFlist>> {
        let digest = admitted.flist.digest();
        let mount_point = self.config.instance.mount_point(&digest.to_string());
        let live = self.prepare(admitted, call, None)?;
        let mounted = kernel::mount(
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
    pub(super) fn prepare(
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
            let reader = stores::reader(&admitted, call)?;
            let trust = |id: &BlobId| match adopted.is_some() || known.contains(id) {
                true => Trust::SameBoot,
                false => Trust::Closed,
            };
            self.sources
                .open(flist, &reader, trust)
                .map_err(|error| failure(failure::of_cache(&error), &error))?
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
    pub(super) fn show(&self, live: &Arc<LiveFlist>, call: &MountCall) -> Result<Arc<LiveMount>> {
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
        let attached = kernel::attach(live, call);
        let upper = attached.inspect_err(|_| {
            if let Err(error) = mountd.remove_mount_record(&call.target.display().to_string()) {
                tracing::warn!(%error, "take back a mount record");
            }
        })?;
        Ok(self.remember(live, extra, upper))
    }

    pub(super) fn remember(
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

    pub(super) fn start_prefetch(self: &Arc<Self>, live: &Arc<LiveFlist>, call: &MountCall) {
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
}
