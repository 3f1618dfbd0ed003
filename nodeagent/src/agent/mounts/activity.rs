//! Why the agent stays, and how it ends: with the last mount, when nobody calls any more.

use super::{Agent, MOUNTD_PATIENCE};
use crate::agent::failure::{Result, refused};
use crate::api::FailureKind;
use crate::mountd::{MountdClient, MountdError};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Why the agent stays.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activity {
    pub(super) calls: usize,
    pub(super) mounts: usize,
    pub(super) changed: Instant,
}

impl Activity {
    pub(super) fn is_quiet_since(&self, moment: Instant) -> bool {
        self.calls == 0 && self.mounts == 0 && self.changed == moment
    }
}

impl Agent {
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

    pub(super) fn count_mounts(&self) {
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
