//! Why the agent stays, and how it ends: with the last mount, when nobody calls any more.

use super::{Agent, MOUNTD_PATIENCE};
use crate::agent::failure::{Result, refused};
use crate::api::FailureKind;
use crate::holder::HolderClient;
use crate::mountd::{MountdClient, MountdError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why the agent stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activity {
    pub(super) calls: usize,
    pub(super) mounts: usize,
    /// Detached flists that are still read, and mounts not adopted yet.
    pub(super) loose: usize,
    /// Whether somebody wants it to end.
    pub(super) asked: bool,
    pub(super) changed: Instant,
}

impl Activity {
    fn is_quiet(&self) -> bool {
        self.calls == 0 && self.mounts == 0 && self.loose == 0
    }

    pub(super) fn is_quiet_since(&self, moment: Instant) -> bool {
        self.is_quiet() && self.changed == moment
    }
}

impl Agent {
    /// Returns when nothing was mounted and nobody called for this long, or was asked to end.
    pub(crate) async fn idle_for(&self, linger: Duration) {
        let stays = self.config.linger;
        let may_end = |now: &Activity| now.is_quiet() && (now.asked || !stays);
        let mut activity = self.activity.subscribe();
        loop {
            let quiet = activity.wait_for(may_end).await;
            let Ok(now) = quiet.map(|now| *now) else {
                return std::future::pending().await;
            };
            if !now.asked {
                tokio::time::sleep_until((now.changed + linger).into()).await;
            }
            if activity.borrow().is_quiet_since(now.changed) {
                return;
            }
        }
    }

    /// Ends as soon as nothing is mounted.
    pub(crate) fn ask_to_end(&self) -> Result<()> {
        let now = *self.activity.borrow();
        if now.mounts == 0 && now.loose == 0 {
            self.activity.send_modify(|now| now.asked = true);
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
            // It may be gone before its answer is: only a refusal counts.
            if let Err(error @ MountdError::Refused { .. }) = mountd.shutdown(false) {
                return Err(error);
            }
            // A holder that was started while ours was dead has children that wait for our locks.
            if let Err(error) = HolderClient::connect(&dir).and_then(|holder| holder.shutdown()) {
                tracing::debug!(%error, "tell the holder to end");
            }
            Ok(())
        })
        .await??;
        Ok(true)
    }

    pub(super) fn count_mounts(&self) {
        let mounts = self.mounts().len();
        let loose = self.detached().len() + self.pending().len();
        self.activity.send_modify(|now| {
            now.mounts = mounts;
            now.loose = loose;
            // What came after the question is the answer to it.
            now.asked &= mounts + loose == 0;
            now.changed = Instant::now();
        });
    }

    /// Returns when there is something for [`Agent::tend`] to look after.
    pub(crate) async fn has_loose_ends(&self) {
        // The sender lives as long as `self`, so this cannot fail.
        let mut activity = self.activity.subscribe();
        let _ = activity.wait_for(|now| now.loose > 0).await;
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
