//! Taking targets away, and closing a flist with the last of them.

use super::{Agent, not_mounted};
use crate::agent::failure::{Result, failure};
use crate::agent::live::LiveFlist;
use crate::api::{FailureKind, UmountCall};
use crate::mountd::{ErrorKind, MountdError};
use lamina_flist::BlobId;
use lamina_mount::unmount::mountinfo::MountTable;
use lamina_mount::unmount::{self, UnmountOptions};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Agent {
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

    pub(super) fn forget_gone(&self) -> Result<()> {
        let table = MountTable::read().map_err(|error| failure(FailureKind::Other, &error))?;
        let gone: Vec<PathBuf> = self
            .mounts()
            .keys()
            .filter(|target| table.on(target).is_none())
            .cloned()
            .collect();
        gone.iter().try_for_each(|target| self.forget(target))
    }

    pub(super) fn umount_now(self: &Arc<Self>, call: &UmountCall) -> Result<()> {
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
    pub(super) fn forget(&self, target: &Path) -> Result<()> {
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

    pub(super) fn close_if_unused(&self, live: &Arc<LiveFlist>) {
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

    pub(super) fn close(&self, live: &LiveFlist) {
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
    pub(super) fn unregister(&self, idle: &[BlobId]) -> Result<()> {
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
}
