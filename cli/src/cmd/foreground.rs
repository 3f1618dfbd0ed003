//! Waiting in the foreground beside a mount: for a signal, or for the mount's end.

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use std::fs::File;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Notes SIGINT and SIGTERM from its making on: one that comes while the mount is made still
/// unmounts it.
#[derive(Debug)]
pub(super) struct Foreground {
    interrupt: Signal,
    terminate: Signal,
    runtime: Runtime,
}

impl Foreground {
    pub(super) fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start waiting")?;
        let noted = |kind| {
            let _runtime = runtime.enter();
            signal(kind).context("wait for a signal")
        };
        Ok(Self {
            interrupt: noted(SignalKind::interrupt())?,
            terminate: noted(SignalKind::terminate())?,
            runtime,
        })
    }

    /// Returns at a signal, or once `is_mounted` does not hold any more.
    pub(super) fn wait(mut self, is_mounted: impl Fn() -> bool + Send + 'static) -> Result<()> {
        let (tell, told) = oneshot::channel();
        // It ends with the mount, or with the process.
        std::thread::Builder::new()
            .name("mountinfo".into())
            .spawn(move || tell.send(ended(is_mounted)))
            .context("watch the mount table")?;
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => Ok(()),
                _ = self.terminate.recv() => Ok(()),
                ended = told => ended.context("watch the mount table")?,
            }
        })
    }
}

/// The kernel marks `/proc/self/mountinfo` with POLLPRI when the table changed (proc(5)).
fn ended(is_mounted: impl Fn() -> bool) -> Result<()> {
    let table = File::open("/proc/self/mountinfo").context("open the mount table")?;
    while is_mounted() {
        match poll(&mut [PollFd::new(&table, PollFlags::PRI)], None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("watch the mount table"),
        }
    }
    Ok(())
}
