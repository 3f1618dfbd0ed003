//! Accepting while the system is short of something.
//!
//! Always holds: a shortage of descriptors or memory, whoever caused it, ends no daemon. It waits a
//! moment and tries again; callers wait in the socket meanwhile.

use std::io;
use std::time::{Duration, Instant};

/// Between two tries when the system has no descriptors or memory left for one more connection.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A shortage that lasts is not to push everything else out of the log.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What went wrong with accepting so far.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    said: Option<Instant>,
}

impl Shortage {
    /// Says what went wrong, now and then.
    pub(crate) fn say(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.said.is_none_or(|said| now >= said + SAY_EVERY) {
            tracing::warn!(%error, "a connection cannot be accepted; trying again");
            self.said = Some(now);
        }
    }

    /// Notes a failure that may pass; the caller goes on after [`ACCEPT_PAUSE`].
    ///
    /// # Errors
    /// When it is the listener's own: it will never accept again.
    pub(crate) fn pass(&mut self, error: io::Error) -> io::Result<()> {
        if !is_passing(&error) {
            return Err(error);
        }
        self.say(&error);
        Ok(())
    }
}

/// Whether accepting may work again later: the fault is not the listener's.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNABORTED
                | libc::EMFILE
                | libc::ENFILE
                | libc::ENOMEM
                | libc::ENOBUFS
        )
    )
}
