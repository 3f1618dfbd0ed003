//! What the agent notices by itself: targets unmounted behind its back, data that expired.

use crate::agent::mounts::Agent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Between two looks at expiry.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);
/// The watching thread looks this often whether anybody still listens.
const WATCH_TURN: Duration = Duration::from_secs(1);

/// Closes mounts that were unmounted elsewhere, as soon as the kernel's mount table changes.
pub(crate) async fn unmounts(agent: Arc<Agent>) {
    let (tell, mut told) = mpsc::channel(1);
    let thread = std::thread::Builder::new()
        .name("mountinfo".into())
        .spawn(move || watch(&tell));
    if let Err(error) = thread {
        tracing::warn!(%error, "watch the mount table");
        return;
    }
    while told.recv().await.is_some() {
        agent.reconcile().await;
    }
}

/// The kernel marks `/proc/self/mountinfo` with POLLPRI when the table changed (proc(5)).
fn watch(tell: &mpsc::Sender<()>) {
    let Ok(table) = File::open("/proc/self/mountinfo") else {
        return;
    };
    let turn = Timespec {
        tv_sec: WATCH_TURN.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    while !tell.is_closed() {
        let mut fds = [PollFd::new(&table, PollFlags::PRI)];
        if let Ok(1..) = poll(&mut fds, Some(&turn)) {
            // A full channel means that a look is due anyway.
            let _ = tell.try_send(());
        }
    }
}

/// Between two looks at detached and pending mounts: a list read from the kernel.
const TEND_EVERY: Duration = Duration::from_millis(500);

/// Closes detached flists whose last reader is gone, and serves what could not be served.
pub(crate) async fn loose_ends(agent: Arc<Agent>) {
    loop {
        agent.has_loose_ends().await;
        tokio::time::sleep(TEND_EVERY).await;
        agent.tend().await;
    }
}

/// Between two looks at what is all local: a walk through the bits of what is mounted.
const PACE_EVERY: Duration = Duration::from_secs(2);

/// Keeps the read-ahead of mounts to what they hold.
pub(crate) async fn pace(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(PACE_EVERY).await;
        agent.pace_all().await;
    }
}

/// Drops expired data now and then, and keeps profiles of mounts that never end.
pub(crate) async fn upkeep(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        agent.keep_profiles().await;
        // What could not be closed when it was noticed.
        agent.reconcile().await;
        let space = Arc::clone(&agent.space);
        let expired = tokio::task::spawn_blocking(move || space.expire_now()).await;
        if let Ok(Err(error)) = expired {
            tracing::warn!(%error, "drop expired cache data");
        }
    }
}
