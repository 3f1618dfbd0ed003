//! Taking mounts down without ever hanging the caller.
//!
//! The ladder: `umount`; then, if the file system's FUSE daemon does not
//! answer, abort its connection (readers get `EIO`, the mount becomes
//! removable); then, if allowed, `MNT_DETACH`. Every system call that may
//! sleep in the kernel runs on a helper thread and is waited for with a
//! deadline; a helper that does not come back is left behind and counted.
//!
//! A mount in use is not taken down by force unless asked: the error names the
//! processes that hold it ([`holders`]).

pub mod fusectl;
pub mod holders;
pub mod mountinfo;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;

use fusectl::ConnectionId;
use holders::Holders;
use mountinfo::{MountEntry, MountTable};

/// Helper threads left in the kernel before new work is refused: each is a
/// stuck mount, and a node with this many needs a person.
const STUCK_MAX: usize = 64;

/// How far the ladder may be climbed, and how long each step may take.
#[derive(Debug, Clone)]
pub struct UnmountOptions {
    /// For each step.
    pub step_deadline: Duration,
    /// How long a busy mount is tried again: processes that were just killed
    /// need a moment to let go.
    pub busy_grace: Duration,
    /// Connections to abort when a step does not return. The target's own
    /// connection, if it is a FUSE mount, is added by itself; an EROFS mount's
    /// blobs are served by another one, which the caller knows.
    pub abort: Vec<ConnectionId>,
    /// Abort the connections also when the mount is busy: for a mount whose
    /// daemon is gone for good, which its waiting readers keep busy.
    pub abort_busy: bool,
    /// Take the mount out of the tree even though it is in use or stuck.
    pub detach: bool,
}

impl Default for UnmountOptions {
    fn default() -> Self {
        Self {
            step_deadline: Duration::from_secs(5),
            busy_grace: Duration::from_millis(200),
            abort: Vec::new(),
            abort_busy: false,
            detach: false,
        }
    }
}

/// How the mount went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// There was none.
    WasNotMounted,
    /// By a plain `umount`.
    Clean,
    /// After its FUSE connection was aborted.
    Aborted,
    /// Out of the tree; it ends when its last user lets go.
    Detached,
}

/// The mount is still there (or may be: see the variant).
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// In use, and `detach` was not asked for.
    #[error("{} is in use{holders}", target.display())]
    Busy {
        /// The mount point.
        target: PathBuf,
        /// By whom.
        holders: Holders,
    },
    /// No step came back in time.
    #[error("unmounting {} did not finish within {deadline:?}", target.display())]
    Stuck {
        /// The mount point.
        target: PathBuf,
        /// For each step.
        deadline: Duration,
    },
    /// Too many earlier calls are still stuck in the kernel.
    #[error("{0} earlier unmounts are stuck in the kernel; not starting another")]
    TooManyStuck(usize),
    /// Another refusal of the kernel.
    #[error("unmounting {}", target.display())]
    Io {
        /// The mount point.
        target: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// Takes down the topmost mount on `target`.
///
/// # Errors
/// [`UnmountError`]. Returns within about four `step_deadline`s whatever the
/// file system does.
pub fn unmount(target: &Path, options: &UnmountOptions) -> Result<Unmounted, UnmountError> {
    let entry = find(target)?;
    let target = entry
        .as_ref()
        .map_or(target, |entry| &entry.mount_point)
        .to_owned();
    let mut outcome = plain(&target, options)?;
    match outcome {
        Step::Done => return Ok(Unmounted::Clean),
        Step::Absent => return Ok(Unmounted::WasNotMounted),
        Step::Busy if !options.abort_busy => {}
        Step::Busy | Step::TimedOut => {
            if abort(entry.as_ref(), options) {
                outcome = plain(&target, options)?;
                if matches!(outcome, Step::Done | Step::Absent) {
                    return Ok(Unmounted::Aborted);
                }
            }
        }
    }
    if outcome == Step::Busy && !options.detach {
        return Err(busy(&target, entry.as_ref(), options));
    }
    if !options.detach {
        return Err(stuck(&target, options));
    }
    match attempt(&target, UnmountFlags::DETACH, options.step_deadline)? {
        Step::Done => Ok(Unmounted::Detached),
        Step::Absent => Ok(Unmounted::Clean),
        Step::Busy | Step::TimedOut => Err(stuck(&target, options)),
    }
}

/// Takes down everything mounted on and below `target`, innermost first.
///
/// # Errors
/// The first [`UnmountError`]; what was taken down by then stays down.
pub fn unmount_tree(target: &Path, options: &UnmountOptions) -> Result<usize, UnmountError> {
    let target = canonical(target);
    let mut count = 0;
    loop {
        let table = table(&target)?;
        let innermost = table
            .below(&target)
            .last()
            .or_else(|| table.on(&target))
            .map(|entry| entry.mount_point.clone());
        let Some(next) = innermost else {
            return Ok(count);
        };
        unmount(&next, options)?;
        count += 1;
    }
}

fn stuck(target: &Path, options: &UnmountOptions) -> UnmountError {
    UnmountError::Stuck {
        target: target.to_owned(),
        deadline: options.step_deadline,
    }
}

fn busy(target: &Path, entry: Option<&MountEntry>, options: &UnmountOptions) -> UnmountError {
    let holders = entry
        .map(|entry| entry.id)
        .and_then(|id| bounded(options.step_deadline, move || Holders::of_mount(id)))
        .unwrap_or_default();
    UnmountError::Busy {
        target: target.to_owned(),
        holders,
    }
}

fn abort(entry: Option<&MountEntry>, options: &UnmountOptions) -> bool {
    let own = entry.filter(|entry| entry.is_fuse()).map(ConnectionId::of);
    let mut any = false;
    for connection in own.into_iter().chain(options.abort.iter().copied()) {
        let done = bounded(options.step_deadline, move || connection.abort());
        match done {
            Some(Ok(())) => any = true,
            Some(Err(error)) => tracing::warn!(%connection, %error, "cannot abort"),
            None => tracing::warn!(%connection, "aborting did not return"),
        }
    }
    any
}

fn table(target: &Path) -> Result<MountTable, UnmountError> {
    MountTable::read().map_err(|source| UnmountError::Io {
        target: target.to_owned(),
        source,
    })
}

fn find(target: &Path) -> Result<Option<MountEntry>, UnmountError> {
    Ok(table(target)?.on(&canonical(target)).cloned())
}

/// Resolves the parent only: resolving the target itself could ask a dead
/// daemon.
fn canonical(target: &Path) -> PathBuf {
    let absolute = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            std::fs::canonicalize(parent).map_or(absolute.clone(), |parent| parent.join(name))
        }
        _ => absolute,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    Absent,
    Busy,
    TimedOut,
}

/// `umount`, tried again for a while when busy.
fn plain(target: &Path, options: &UnmountOptions) -> Result<Step, UnmountError> {
    let give_up = Instant::now() + options.busy_grace;
    let mut pause = Duration::from_millis(1);
    loop {
        let step = attempt(target, UnmountFlags::empty(), options.step_deadline)?;
        if step != Step::Busy || Instant::now() >= give_up {
            return Ok(step);
        }
        std::thread::sleep(pause.min(give_up.saturating_duration_since(Instant::now())));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn attempt(target: &Path, flags: UnmountFlags, deadline: Duration) -> Result<Step, UnmountError> {
    let stuck = STUCK.load(Ordering::Relaxed);
    if stuck >= STUCK_MAX {
        return Err(UnmountError::TooManyStuck(stuck));
    }
    let path = target.to_owned();
    let call = move || rustix::mount::unmount(&path, flags | UnmountFlags::NOFOLLOW);
    match bounded(deadline, call) {
        None => Ok(Step::TimedOut),
        Some(Ok(())) => Ok(Step::Done),
        Some(Err(rustix::io::Errno::NOENT)) => Ok(Step::Absent),
        // Not a mount point, or one that belongs to a more privileged
        // namespace and is locked in place.
        Some(Err(rustix::io::Errno::INVAL)) if table(target)?.on(target).is_none() => {
            Ok(Step::Absent)
        }
        Some(Err(rustix::io::Errno::BUSY)) => Ok(Step::Busy),
        Some(Err(errno)) => Err(UnmountError::Io {
            target: target.to_owned(),
            source: errno.into(),
        }),
    }
}

static STUCK: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` on a helper thread and waits for at most `deadline`. `None`
/// means it is still running (or no thread could be made); it is counted as
/// stuck until it returns.
pub(crate) fn bounded<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    // Room for one, so that a late helper never waits for a reader.
    let (sender, receiver) = sync_channel(1);
    STUCK.fetch_add(1, Ordering::Relaxed);
    let helper = std::thread::Builder::new()
        .name("lamina-unmount".to_owned())
        .stack_size(256 * 1024)
        .spawn(move || {
            let result = work();
            STUCK.fetch_sub(1, Ordering::Relaxed);
            let _ = sender.send(result);
        });
    let Ok(helper) = helper else {
        STUCK.fetch_sub(1, Ordering::Relaxed);
        return None;
    };
    match receiver.recv_timeout(deadline) {
        Ok(result) => {
            let _ = helper.join();
            Some(result)
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_helper_that_does_not_return_is_left_and_counted_until_it_does() {
        let before = STUCK.load(Ordering::Relaxed);
        let (release, held) = channel::<()>();
        let (ended, end) = channel();
        let result = bounded(Duration::from_millis(10), move || {
            held.recv().expect("released");
            ended.send(()).expect("the test waits");
        });
        assert_eq!(result, None);
        assert!(STUCK.load(Ordering::Relaxed) > before);
        release.send(()).expect("the helper waits");
        end.recv().expect("it goes on");
        assert_eq!(bounded(Duration::from_mins(1), || 7), Some(7));
    }
}
