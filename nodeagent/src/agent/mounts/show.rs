//! Making a flist appear at a target: admit, open, register, mount once, bind or overlay.

use super::close::take_down_own;
use super::deadline::Deadline;
use super::detached::{record, unavailable};
use super::own::{self, Place};
use super::{Agent, MOUNTD_START_PATIENCE, Result};
use crate::agent::failure::{failure, refused};
use crate::agent::flists::Admitted;
use crate::agent::guide::Guide;
use crate::agent::kernel::View;
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::agent::stores::Way;
use crate::agent::{failure, kernel, overlap, stores};
use crate::api::{FailureKind, MountCall, MountInfo};
use crate::docker_config::DockerConfig;
use crate::mountd::{BlobRegistration, MountRecord};
use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::cache::Trust;
use lamina_mount::probe::Mode;
use lamina_mount::unmount::UnmountOptions;
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

impl Agent {
    /// `call` is without credentials: it is put on record.
    pub(super) fn mount_now(
        self: &Arc<Self>,
        call: &MountCall,
        docker_config: Option<Arc<DockerConfig>>,
    ) -> Result<MountInfo> {
        let start = Instant::now();
        let deadline = Deadline::of(call);
        deadline.check("waiting for other calls")?;
        // As long as the caller waits: on a busy machine daemons take long to be there again.
        self.await_mountd(deadline.left().unwrap_or(MOUNTD_START_PATIENCE))?;
        let expire = call.cache_expire_s.map(Duration::from_secs);
        self.space
            .configure(call.cache_size, expire)
            .map_err(|error| failure(FailureKind::Other, &error))?;
        let admitted = self
            .flists
            .admit(&call.flist)
            .map_err(|error| failure(error.kind(), &error))?;
        let digest = admitted.flist.digest();
        deadline.check("checking the flist")?;
        overlap::check(&self.config, &admitted.flist.meta().stores, call)?;
        // The watcher may not have seen yet what was unmounted elsewhere a moment ago.
        self.forget_gone()
            .or_else(|_| self.forget_gone_and_dead())?;
        // Nor the end of what used the call's UPPER.
        self.close_ended()?;
        let is_known = self.mounts().contains_key(&call.target);
        if is_known || self.live(&digest).is_some() {
            self.bury_dead()?;
        }
        self.replace_pending(&call.target, &digest)?;
        if let Some(known) = self.mounts().get(&call.target) {
            return again(known, call, &digest);
        }
        let live = match self.live(&digest) {
            Some(live) => {
                let live = same_mode(live, call)?;
                self.add_stores(&admitted, call)?;
                live
            }
            None => self.go_live(admitted, call)?,
        };
        if let Some(config) = &docker_config {
            live.lend(config);
        }
        let mount = self
            .show(&live, call, docker_config)
            .inspect_err(|_| self.close_if_unused(&live))?;
        if let Err(late) = deadline.check("mounting") {
            self.take_back(&mount);
            return Err(late);
        }
        self.ended().remove(&call.target);
        let ready_us = start.elapsed().as_micros() as u64;
        mount
            .ready_us
            .store(ready_us, std::sync::atomic::Ordering::Relaxed);
        self.start_prefetch(&live, call);
        Ok(MountInfo {
            note: self.doubt(&live),
            ..mount.info(&BTreeMap::new())
        })
    }

    /// Has a flist that is open read from the call's stores, too: those of whoever mounted it first may be gone, or refuse.
    pub(super) fn add_stores(&self, admitted: &Admitted, call: &MountCall) -> Result<()> {
        if call.stores.is_empty() || admitted.flist.blob_count() == 0 {
            return Ok(());
        }
        let _runtime = self.runtime.enter();
        let reader = stores::reader(admitted, call, self.fetcher.is_in_cluster_now())?;
        let trust = |_: &BlobId| Trust::Closed;
        let (flist, image) = (&admitted.flist, call.image.as_deref());
        let opened = self
            .sources
            .open(flist, reader.as_ref(), &Way::of(call), image, trust);
        opened
            .map(drop)
            .map_err(|error| failure(failure::of_cache(&error), &error))
    }

    /// Opens a flist's blobs and mounts it at its own mount point.
    fn go_live(&self, admitted: Admitted, call: &MountCall) -> Result<Arc<LiveFlist>> {
        let prepared = self.prepare(admitted, call, None)?;
        let mount_point = self.free_mount_point(&prepared.digest.to_string());
        let mut live = LiveFlist {
            mount_point,
            ..prepared
        };
        let mounted = Deadline::of(call)
            .check("opening the cache")
            .and_then(|()| {
                let run_dir = self.config.instance.dir();
                kernel::mount(&live, &self.cache, run_dir, &live.mount_point, call.mode)
            })
            .inspect_err(|_| {
                take_down_own(&live.mount_point);
                self.close(&live);
            })?;
        live.mode = mounted.mode;
        live.bdi = mounted.bdi;
        if live.mode == Mode::Fuse {
            // Whole-tree FUSE reads complete blobs through the mount daemon, too.
            live.served = live.sources.iter().map(|source| source.id).collect();
        }
        match self
            .mountd()
            .map(|mut mountd| mountd.watch(&live.mount_point))
        {
            Ok(Ok(watch)) => live.watch = Some(watch),
            Ok(Err(error)) => {
                tracing::warn!(%error, "readers left behind by a forced unmount will get errors");
            }
            Err(error) => {
                take_down_own(&live.mount_point);
                self.close(&live);
                return Err(error);
            }
        }
        self.pace(&live);
        Ok(Arc::new(live))
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
        let known = mountd.list_blobs().map_err(|error| unavailable(&error))?;
        let known: HashSet<BlobId> = known.into_iter().map(|blob| blob.id).collect();
        let sources = if flist.blob_count() == 0 {
            Vec::new()
        } else {
            // What is mounted stays, whether or not the cluster is known at this moment.
            let _runtime = self.runtime.enter();
            let nodes = adopted.is_some() || self.fetcher.is_in_cluster_now();
            let reader = stores::reader(&admitted, call, nodes)?;
            let trust = |id: &BlobId| match adopted.is_some() || known.contains(id) {
                true => Trust::SameBoot,
                false => Trust::Closed,
            };
            self.sources
                .open(
                    flist,
                    reader.as_ref(),
                    &Way::of(call),
                    call.image.as_deref(),
                    trust,
                )
                .map_err(|error| failure(failure::of_cache(&error), &error))?
        };
        let direct = kernel::reads_files(call.mode);
        let served: Vec<BlobId> = adopted.map_or_else(
            || {
                let served = sources.iter().filter(|s| !(direct && s.give_away()));
                served.map(|s| s.id).collect()
            },
            |record| record.blobs.clone(),
        );
        let recorded = self.profiles.load(&digest);
        let profile = recorded.or_else(|| flist.profile());
        let live = LiveFlist {
            digest,
            mode: Mode::Erofs,
            mount_point: self.config.instance.mount_point(&digest.to_string()),
            sources,
            served,
            watch: None,
            bdi: None,
            guide: Guide::new(flist, profile.as_ref()),
            profile,
            follows_others: false.into(),
            ahead: Arc::default(),
            since: Instant::now(),
            learned: false.into(),
            places: OnceLock::new(),
            admitted,
        };
        let registrations = live.served.iter().map(|id| BlobRegistration {
            id: *id,
            dir: self.cache.blob_dir(id),
        });
        let registered = mountd.register_blobs(registrations.collect());
        registered
            .map_err(|error| unavailable(&error))
            .inspect_err(|_| self.close_sources(&digest))?;
        if adopted.is_none() {
            Self::record(&mut mountd, &live);
        }
        Ok(live)
    }

    /// Makes a live flist appear at the call's target. Which mount it will be is recorded before: a
    /// successor knows it from others.
    fn show(
        &self,
        live: &Arc<LiveFlist>,
        call: &MountCall,
        docker_config: Option<Arc<DockerConfig>>,
    ) -> Result<Arc<LiveMount>> {
        let view = View::build(live, call)?;
        let mut mountd = self.mountd()?;
        let union = view.union_path().map(|path| mountd.watch(&path));
        let union = union.transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "a forced unmount will not keep others from using UPPER");
            None
        });
        let extra = Extra {
            digest: live.digest,
            mode: live.mode,
            call: call.clone(),
            shown: Some(view.identity()?),
            watch: live.watch,
            mount_point: Some(live.mount_point.clone()),
            bdi: live.bdi.clone(),
            union,
            detached: false,
        };
        mountd
            .put_mount_record(record(live, &extra))
            .map_err(|error| unavailable(&error))?;
        let upper = view.attach(&call.target).inspect_err(|_| {
            if let Err(error) = mountd.remove_mount_record(&call.target.display().to_string()) {
                tracing::warn!(%error, "take back a mount record");
            }
        })?;
        let mount = Arc::new(LiveMount {
            flist: Arc::clone(live),
            extra,
            ready_us: 0.into(),
            docker_config,
            // Nobody else can reach what ends with the union.
            upper: upper
                .filter(|_| call.upper_bytes_max.is_none())
                .map(Arc::new),
        });
        self.mounts()
            .insert(call.target.clone(), Arc::clone(&mount));
        self.count_mounts();
        Ok(mount)
    }

    /// Undoes a mount whose caller has given up.
    fn take_back(&self, mount: &LiveMount) {
        let target = &mount.extra.call.target;
        let options = UnmountOptions {
            detach: true,
            ..UnmountOptions::default()
        };
        let undone =
            own::take_down(target, mount.extra.shown, &options).and_then(|()| self.forget(target));
        if let Err(error) = undone {
            tracing::warn!(%error, "take back a mount that came too late");
        }
    }
}

/// The same call again (its answer was lost), or another one on a target in use.
fn again(known: &LiveMount, call: &MountCall, digest: &FlistDigest) -> Result<MountInfo> {
    let target = &call.target;
    if let Place::Under(top) = own::place(&own::table()?, target, known.extra.shown) {
        return Err(own::covered(target, top));
    }
    let Some(difference) = difference(known, call, digest) else {
        return Ok(known.info(&BTreeMap::new()));
    };
    let (target, flist) = (target.display(), known.extra.call.flist.display());
    let message = format!("{target} is in use: {flist} is mounted there{difference}");
    Err(refused(FailureKind::Busy, message))
}

/// What a call wants otherwise than it is.
fn difference(known: &LiveMount, call: &MountCall, digest: &FlistDigest) -> Option<String> {
    let was = &known.extra.call;
    if known.flist.digest != *digest {
        // The file may be the same, with another flist in it now.
        let was = known.flist.digest;
        return Some(format!(" with the digest {was}, not {digest}"));
    }
    if was.upper != call.upper {
        return Some(match &was.upper {
            Some(upper) => format!(", writable with its changes in {}", upper.display()),
            None => ", read-only".into(),
        });
    }
    let bound = |call: &MountCall| call.upper_bytes_max.map(|bytes| (bytes, call.upper_medium));
    if bound(was) != bound(call) {
        return Some(match bound(was) {
            Some((bytes, medium)) => {
                let place = medium.place();
                format!(", with its changes {place}, at most {bytes} bytes")
            }
            None => ", with its changes kept and without a bound".into(),
        });
    }
    if was.sub_path != call.sub_path {
        let shown = was.sub_path.as_deref().unwrap_or("/");
        return Some(format!(", showing its directory {shown}"));
    }
    if was.trusted != call.trusted {
        let with = if was.trusted { "with" } else { "without" };
        return Some(format!(", {with} --trusted"));
    }
    if kernel::only(call.mode).is_some_and(|mode| mode != known.flist.mode) {
        return Some(format!(", as {}", known.flist.mode));
    }
    (was.stores != call.stores).then(|| match was.stores.is_empty() {
        true => ", with the stores it names".to_owned(),
        false => format!(", with the stores {}", was.stores.join(", ")),
    })
}

fn same_mode(live: Arc<LiveFlist>, call: &MountCall) -> Result<Arc<LiveFlist>> {
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
