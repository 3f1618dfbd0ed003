//! Flists without a target that are still read: somebody has a file open or mapped, is inside, or
//! shows the flist elsewhere (a container). They stay served until the kernel has ended their file
//! system, which the mount daemon's watches tell; the agent stays for them.
//!
//! Always holds: what is detached has a record of its own, so a successor goes on serving it.

use super::close::take_down_own;
use super::{Agent, Result};
use crate::agent::failure::failure;
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::api::FailureKind;
use crate::mountd::{MountRecord, MountdError, Watch};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

impl Agent {
    /// Takes a flist's own mount down, its last target being gone. Says whether it is still read; it
    /// is kept then, recorded and in service.
    pub(super) fn settle(&self, mount: &Arc<LiveMount>) -> Result<bool> {
        let live = &mount.flist;
        take_down_own(&live.mount_point);
        let Some(watch) = live.watch else {
            return Ok(false);
        };
        let mut mountd = self.mountd()?;
        let watches = mountd.list_watches().map_err(|error| unavailable(&error))?;
        if !watches.contains(&watch) {
            return Ok(false);
        }
        let extra = Extra {
            detached: true,
            ..mount.extra.clone()
        };
        mountd
            .put_mount_record(record(live, &extra))
            .map_err(|error| unavailable(&error))?;
        tracing::info!(digest = %live.digest, "still read without a target; serving it on");
        self.keep_detached(mount);
        Ok(true)
    }

    pub(super) fn keep_detached(&self, mount: &Arc<LiveMount>) {
        let mut detached = self.detached();
        if !detached
            .iter()
            .any(|known| Arc::ptr_eq(&known.flist, &mount.flist))
        {
            detached.push(Arc::clone(mount));
        }
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

    fn close_ended(&self) -> Result<()> {
        if self.detached().is_empty() {
            return Ok(());
        }
        let mut mountd = self.mountd()?;
        let watches = mountd.list_watches().map_err(|error| unavailable(&error))?;
        let is_read =
            |mount: &Arc<LiveMount>| mount.flist.watch.is_some_and(|w| watches.contains(&w));
        let ended: Vec<_> = self
            .detached()
            .iter()
            .filter(|mount| !is_read(mount))
            .cloned()
            .collect();
        for mount in ended {
            if let Some(watch) = mount.flist.watch {
                mountd
                    .remove_mount_record(&detached_id(watch))
                    .map_err(|error| unavailable(&error))?;
            }
            self.detached().retain(|known| !Arc::ptr_eq(known, &mount));
            self.close(&mount.flist);
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
fn id(extra: &Extra) -> String {
    match extra.watch {
        Some(watch) if extra.detached => detached_id(watch),
        _ => extra.call.target.display().to_string(),
    }
}

fn detached_id(watch: Watch) -> String {
    format!("detached:{}:{}", watch.id, watch.device)
}

pub(super) fn unavailable(error: &MountdError) -> crate::api::Failure {
    failure(FailureKind::Unavailable, error)
}
