//! Recorded mounts that cannot be served: because something failed when they were adopted, which is
//! tried again, or because all daemons had ended, which only mounting again mends.

use super::detached::unavailable;
use super::{Agent, Result, own};
use crate::agent::failure::refused;
use crate::agent::live::Extra;
use crate::api::{Failure, FailureKind, MountInfo, MountState};
use crate::mountd::MountRecord;
use lamina_flist::{BlobId, FlistDigest};
use lamina_mount::unmount::UnmountOptions;
use lamina_mount::unmount::mountinfo::MountIdentity;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A recorded mount that cannot be served (yet).
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) record: MountRecord,
    pub(super) extra: Option<Extra>,
    pub(super) why: Failure,
    /// Nobody waits for it: others' calls wait while it is tried.
    pub(super) again: Again,
}

/// When something that failed is tried again: each time after twice as long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    delay: Duration,
    at: Instant,
}

impl Again {
    const FIRST: Duration = Duration::from_millis(500);
    const LAST: Duration = Duration::from_secs(30);

    /// After a failure at `now`; `before` is what was found at the failure before it.
    pub(super) fn after(before: Option<Self>, now: Instant) -> Self {
        let doubled = before.map(|before| (before.delay * 2).min(Self::LAST));
        let delay = doubled.unwrap_or(Self::FIRST);
        Self {
            delay,
            at: now + delay,
        }
    }

    pub(super) fn is_due(self, now: Instant) -> bool {
        now >= self.at
    }
}

impl Pending {
    pub(super) fn shown(&self) -> Option<MountIdentity> {
        self.extra.as_ref()?.shown
    }

    pub(super) fn digest(&self) -> Option<FlistDigest> {
        Some(self.extra.as_ref()?.digest)
    }

    pub(super) fn blobs(&self) -> Vec<BlobId> {
        self.record.blobs.clone()
    }

    /// Whether only mounting again helps.
    pub(super) fn is_dead(&self) -> bool {
        self.record.is_dead()
    }

    /// Why nothing can be done with it now.
    pub(super) fn unserved(&self) -> Failure {
        let target = self.record.target.display();
        let message = format!("{target} is mounted but cannot be served: {}", self.why);
        refused(FailureKind::Unavailable, message)
    }

    pub(super) fn info(&self) -> MountInfo {
        let call = self.extra.as_ref().map(|extra| &extra.call);
        MountInfo {
            target: self.record.target.clone(),
            state: MountState::Degraded,
            note: self.why.message.clone(),
            flist: call.map_or_else(|| self.record.flist.clone(), |call| call.flist.clone()),
            digest: self.digest().map(|d| d.to_string()).unwrap_or_default(),
            mode: self.record.mode.clone(),
            upper: call.and_then(|call| call.upper.clone()),
            upper_bytes_max: call.and_then(|call| call.upper_bytes_max),
            upper_medium: call.map(|call| call.upper_medium).unwrap_or_default(),
            sub_path: call.and_then(|call| call.sub_path.clone()),
            profile: "none".into(),
            ..MountInfo::default()
        }
    }

    fn is_detached(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.detached)
    }
}

impl Agent {
    /// Notices mounts whose connection ended although this agent lives: it was aborted, or the mount
    /// daemon died together with the holder.
    pub(super) fn bury_dead(&self) -> Result<()> {
        let mut mountd = self.mountd()?;
        let records = mountd.list_mounts().map_err(|error| unavailable(&error))?;
        let mut buried = Vec::new();
        for record in records.into_iter().filter(MountRecord::is_dead) {
            let extra = Extra::decode(&record.extra);
            if extra.as_ref().is_some_and(|extra| extra.detached) {
                let watch = extra.and_then(|extra| extra.watch);
                self.detached().retain(|mount| {
                    let stays = mount.flist.watch != watch;
                    if !stays {
                        buried.push(Arc::clone(mount));
                    }
                    stays
                });
                mountd
                    .remove_mount_record(&record.id)
                    .map_err(|error| unavailable(&error))?;
            } else if let Some(mount) = self.mounts().remove(&record.target) {
                buried.push(mount);
                self.note_outcome(record, extra, Err(dead()));
            }
        }
        if buried.is_empty() {
            return Ok(());
        }
        self.drop_unused_mount_points(&own::table()?);
        for mount in buried {
            self.close(&mount.flist);
        }
        self.count_mounts();
        Ok(())
    }

    /// The mount recorded for a target that cannot be served, and its record's id.
    pub(super) fn pending_at(&self, target: &Path) -> Option<(String, Pending)> {
        let pending = self.pending();
        let mut at = pending
            .iter()
            .filter(|(_, pending)| pending.record.target == target && !pending.is_detached());
        at.next().map(|(id, pending)| (id.clone(), pending.clone()))
    }

    /// Forgets a mount that could not be served and is taken down.
    pub(super) fn forget_pending(&self, id: &str) -> Result<()> {
        self.mountd()?
            .remove_mount_record(id)
            .map_err(|error| unavailable(&error))?;
        let gone = self.pending().remove(id);
        self.drop_unused_mount_points(&own::table()?);
        self.unregister_idle(&gone.map(|gone| gone.blobs()).unwrap_or_default());
        self.count_mounts();
        Ok(())
    }

    /// Makes room for mounting again where a mount is that nobody can serve.
    pub(super) fn replace_pending(&self, target: &Path, digest: &FlistDigest) -> Result<()> {
        self.retry_pending(|_| true)?;
        if let Some((id, pending)) = self.pending_at(target) {
            if !pending.is_dead() {
                return Err(pending.unserved());
            }
            let options = UnmountOptions {
                detach: true,
                ..UnmountOptions::default()
            };
            own::take_down(target, pending.shown(), &options)?;
            self.forget_pending(&id)?;
        }
        // Its own mount is in the place where this flist would be mounted.
        let pending = self.pending();
        let same = pending
            .values()
            .find(|pending| !pending.is_dead() && pending.digest() == Some(*digest));
        same.map_or(Ok(()), |pending| Err(pending.unserved()))
    }
}

/// Why a dead mount is not served.
pub(super) fn dead() -> Failure {
    let message = "the daemons that served it ended together: missing data gives EIO; mount it again on \
                   the same directory, or unmount it";
    refused(FailureKind::Unavailable, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Once, what could not be adopted was tried twice a second for ever, and every call waited for it.
    #[test]
    fn what_fails_again_is_tried_less_and_less_often_up_to_a_bound() {
        let start = Instant::now();
        let mut now = start;
        let mut again = Again::after(None, now);
        let mut delays = Vec::new();
        for _ in 0..9 {
            assert!(!again.is_due(now));
            now = again.at;
            assert!(again.is_due(now));
            delays.push(again.delay.as_millis());
            again = Again::after(Some(again), now);
        }
        let expected = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
        assert_eq!(delays, expected);
    }
}
