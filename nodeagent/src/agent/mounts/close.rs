//! Forgetting targets, and closing a flist with the last of them.

use super::Agent;
use crate::agent::failure::{Result, failure};
use crate::agent::live::LiveFlist;
use crate::api::FailureKind;
use crate::mountd::{ErrorKind, MountdError};
use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::unmount::{self, UnmountOptions};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Agent {
    /// Forgets a target that is not mounted any more, and its flist with the last of them, but for
    /// what is still read. The memory goes last: what fails can be tried again.
    pub(super) fn forget(&self, target: &Path) -> Result<()> {
        let Some(mount) = self.mounts().get(target).cloned() else {
            return Ok(());
        };
        let live = Arc::clone(&mount.flist);
        let shows = |other: &Arc<LiveFlist>| Arc::ptr_eq(other, &live);
        let targets = self.mounts().values().filter(|m| shows(&m.flist)).count();
        if targets == 1 {
            take_down_own(&live.mount_point);
        }
        let still_read = self.settle(&mount, targets == 1)?;
        self.mountd()?
            .remove_mount_record(&target.display().to_string())
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        self.mounts().remove(target);
        if targets == 1 && !still_read {
            self.close(&live);
        }
        self.count_mounts();
        Ok(())
    }

    /// Closes a flist that was to be shown and was not.
    pub(super) fn close_if_unused(&self, live: &Arc<LiveFlist>) {
        if self.live(&live.digest).is_none() {
            take_down_own(&live.mount_point);
            self.close(live);
        }
    }

    /// Takes a flist's blobs out of service, but for those that others need.
    pub(super) fn close(&self, live: &LiveFlist) {
        live.ahead.clear();
        self.save_profile(live, true);
        // The mount daemon lets go first: from then on nobody reads by our bits.
        self.unregister_idle(&live.served);
        self.close_sources(&live.digest);
    }

    /// Closes a flist's cache files unless it is shown or read otherwise, too.
    pub(super) fn close_sources(&self, digest: &FlistDigest) {
        if self.users().iter().all(|user| user.digest != *digest) {
            self.sources.close(digest);
        }
    }

    /// Every flist that is shown or still read.
    fn users(&self) -> Vec<Arc<LiveFlist>> {
        let mut users: Vec<_> = self
            .mounts()
            .values()
            .map(|mount| Arc::clone(&mount.flist))
            .collect();
        users.extend(self.detached().iter().map(|mount| Arc::clone(&mount.flist)));
        users
    }

    /// Takes those of the blobs out of service that nobody needs.
    pub(super) fn unregister_idle(&self, blobs: &[BlobId]) {
        let users = self.users();
        let mut used: HashSet<BlobId> = users.iter().flat_map(|user| user.served.clone()).collect();
        used.extend(self.pending().values().flat_map(super::Pending::blobs));
        let idle: Vec<BlobId> = blobs
            .iter()
            .filter(|id| !used.contains(*id))
            .copied()
            .collect();
        if let Err(error) = self.unregister(&idle) {
            tracing::warn!(%error, "take blobs out of service");
        }
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
}

/// Takes down a flist's own mount: what still uses the flist keeps it by itself.
pub(super) fn take_down_own(mount_point: &Path) {
    let options = UnmountOptions {
        detach: true,
        ..UnmountOptions::default()
    };
    if let Err(error) = unmount::unmount(mount_point, &options) {
        tracing::warn!(%error, "unmount a flist nobody shows any more");
    }
    let _ = std::fs::remove_dir(mount_point);
}
