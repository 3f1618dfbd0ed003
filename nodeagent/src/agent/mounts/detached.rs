//! Targets that are gone and still read: somebody has a file open or mapped, is inside, or shows the
//! flist elsewhere (a container). They stay served until the kernel has ended their file system, which
//! the mount daemon's watches tell; the agent stays for them.
//!
//! Always holds: what is detached has a record of its own, so a successor goes on serving it. A writable
//! target is kept for its union, and UPPER stays locked as long; a flist is kept once, for whoever reads
//! it without a target.

use super::{Agent, Result};
use crate::agent::failure::failure;
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::api::FailureKind;
use crate::mountd::{MountRecord, MountdError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

impl Agent {
    /// Keeps what is still read of a target that is gone, recorded and in service: its union; the
    /// flist, if that was its `last` target. Says whether the flist is still read then.
    pub(super) fn settle(&self, mount: &LiveMount, last: bool) -> Result<bool> {
        if !last && mount.extra.union.is_none() {
            return Ok(false);
        }
        let mut mountd = self.mountd()?;
        let watches = mountd.list_watches().map_err(|error| unavailable(&error))?;
        let Some(left) = mount.extra.left(&watches) else {
            return Ok(false);
        };
        let is_served = !last || self.detached_flist(&mount.flist);
        if left.union.is_some() || !is_served {
            mountd
                .put_mount_record(record(&mount.flist, &left))
                .map_err(|error| unavailable(&error))?;
            let digest = mount.flist.digest;
            tracing::info!(%digest, "still read without its target; serving it on");
            self.keep_detached(Arc::new(mount.left(left)));
        }
        Ok(true)
    }

    pub(super) fn keep_detached(&self, mount: Arc<LiveMount>) {
        let mut detached = self.detached();
        let lives_by = mount.extra.lives_by();
        if !detached.iter().any(|m| m.extra.lives_by() == lives_by) {
            detached.push(mount);
        }
    }

    fn detached_flist(&self, flist: &Arc<LiveFlist>) -> bool {
        let detached = self.detached();
        detached.iter().any(|m| Arc::ptr_eq(&m.flist, flist))
    }

    /// Closes what nobody reads any more, and tries again to serve what could not be served.
    pub(crate) async fn tend(self: &Arc<Self>) {
        self.adopted().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let agent = Arc::clone(self);
        let tended = tokio::task::spawn_blocking(move || {
            let now = Instant::now();
            let outcome = agent
                .close_ended()
                .and_then(|()| agent.retry_pending(|pending| pending.again.is_due(now)));
            drop(turn);
            outcome
        });
        if let Ok(Err(error)) = tended.await {
            tracing::warn!(%error, "look after detached and pending mounts");
        }
    }

    pub(super) fn close_ended(&self) -> Result<()> {
        if self.detached().is_empty() {
            return Ok(());
        }
        let mut mountd = self.mountd()?;
        let watches = mountd.list_watches().map_err(|error| unavailable(&error))?;
        let is_read =
            |mount: &Arc<LiveMount>| mount.extra.lives_by().is_some_and(|w| watches.contains(&w));
        let ended: Vec<_> = self
            .detached()
            .iter()
            .filter(|mount| !is_read(mount))
            .cloned()
            .collect();
        for mount in ended {
            let others = |known: &Arc<LiveMount>| !Arc::ptr_eq(known, &mount);
            let flist = &mount.flist;
            let uses_flist = |known: &Arc<LiveMount>| Arc::ptr_eq(&known.flist, flist);
            let is_used = self.mounts().values().any(uses_flist)
                || self.detached().iter().any(|m| others(m) && uses_flist(m));
            // Its union is over; who read the flist by a target before may read it on.
            let left = mount.extra.left(&watches).filter(|_| !is_used);
            let is_read = left.is_some();
            if let Some(left) = left {
                mountd
                    .put_mount_record(record(flist, &left))
                    .map_err(|error| unavailable(&error))?;
                self.keep_detached(Arc::new(mount.left(left)));
            }
            mountd
                .remove_mount_record(&id(&mount.extra))
                .map_err(|error| unavailable(&error))?;
            self.detached().retain(others);
            if !is_used && !is_read {
                self.close(flist);
            }
        }
        self.count_mounts();
        Ok(())
    }

    /// Where to mount a flist: not where one that is still read was, for a tree over FUSE is known by
    /// its place.
    pub(super) fn free_mount_point(&self, digest: &str) -> PathBuf {
        let taken: Vec<PathBuf> = self
            .detached()
            .iter()
            .map(|mount| mount.flist.mount_point.clone())
            .collect();
        let names = (1..).map(|n| format!("{digest}.{n}"));
        std::iter::once(digest.to_owned())
            .chain(names)
            .map(|name| self.config.instance.mount_point(&name))
            .find(|at| !taken.contains(at))
            .expect("names do not end")
    }
}

/// A mount as the mount daemon keeps it.
pub(super) fn record(live: &LiveFlist, extra: &Extra) -> MountRecord {
    MountRecord {
        id: id(extra),
        flist: live.admitted.path.clone(),
        target: extra.call.target.clone(),
        mode: live.mode.to_string(),
        blobs: live.served.clone(),
        extra: extra.encode(),
    }
}

/// Targets are known by their path, which begins with a slash; what is detached by its watch.
pub(super) fn id(extra: &Extra) -> String {
    match extra.lives_by() {
        Some(watch) if extra.detached => format!("detached:{}:{}", watch.id, watch.device),
        _ => extra.call.target.display().to_string(),
    }
}

pub(super) fn unavailable(error: &MountdError) -> crate::api::Failure {
    failure(FailureKind::Unavailable, error)
}
