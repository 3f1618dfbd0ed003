//! Unmounting when asked to, and noticing what was unmounted elsewhere.

use super::{Agent, not_mounted, own};
use crate::agent::failure::Result;
use crate::api::UmountCall;
use lamina_mount::unmount::UnmountOptions;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

impl Agent {
    /// Takes our mount off the target. Also done when it is off already: the call may have been made
    /// before, and its answer lost with an agent.
    pub(super) fn umount_now(&self, call: &UmountCall) -> Result<()> {
        let target = &call.target;
        let known = self.mounts().get(target).cloned();
        let options = UnmountOptions {
            step_deadline: Duration::from_millis((call.timeout_ms / 4).max(1)),
            detach: call.force,
            ..UnmountOptions::default()
        };
        if let Some(known) = known {
            own::take_down(target, known.extra.shown, &options)?;
            return self.forget(target);
        }
        if let Some((id, pending)) = self.pending_at(target) {
            own::take_down(target, pending.shown(), &options)?;
            return self.forget_pending(&id);
        }
        match self.ended().remove(target) {
            true => Ok(()),
            false => Err(not_mounted(target)),
        }
    }

    /// Closes what was unmounted without us (by umount(8), by the end of a mount namespace), and notices
    /// what nobody serves any more.
    pub(crate) async fn reconcile(self: &Arc<Self>) {
        self.adopted().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let agent = Arc::clone(self);
        let closed = tokio::task::spawn_blocking(move || {
            let outcome = agent.forget_gone_and_dead();
            drop(turn);
            outcome
        });
        if let Ok(Err(error)) = closed.await {
            tracing::warn!(%error, "close what was unmounted elsewhere");
        }
    }

    pub(super) fn forget_gone(&self) -> Result<()> {
        let table = own::table()?;
        let gone: Vec<PathBuf> = self
            .mounts()
            .iter()
            .filter(|(target, mount)| {
                own::place(&table, target, mount.extra.shown) == own::Place::Gone
            })
            .map(|(target, _)| target.clone())
            .collect();
        // Of each what can be done: who is stuck keeps nobody else.
        let forgotten: Vec<_> = gone.iter().map(|target| self.forget(target)).collect();
        forgotten.into_iter().collect()
    }

    /// First what nobody serves any more: what is read of it cannot be recorded.
    pub(super) fn forget_gone_and_dead(&self) -> Result<()> {
        self.bury_dead()?;
        self.forget_gone()
    }
}
