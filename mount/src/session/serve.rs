//! Serving a connection with unmodified `fuser`, whether it is new or was
//! served by a process that is gone.
//!
//! Every descriptor gets a `fuser` session of its own, because `fuser` would
//! otherwise make its own clones; all of them share one file system object.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use fuser::{Config, Filesystem, Session, SessionACL};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::protocol;
use crate::sys::{fuse_dev, heap};

/// Why serving could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `fuser` did not take the prepared descriptor.
    #[error("start a FUSE session on a held descriptor")]
    Session(#[source] io::Error),
    /// The kernel refused to queue taken requests again.
    #[error("ask the kernel to resend requests (needs Linux 6.9)")]
    Resend(#[source] io::Error),
    /// No thread could be started.
    #[error("start a FUSE worker")]
    Thread(#[source] io::Error),
}

/// A connection being served. Dropping it does not stop serving: the workers
/// end when the file system is unmounted (or its connection aborted).
#[derive(Debug)]
pub struct Serving {
    workers: Vec<JoinHandle<io::Result<()>>>,
}

impl Serving {
    /// Waits until the file system is gone.
    ///
    /// # Errors
    /// The first error that ended a worker.
    pub fn join(self) -> io::Result<()> {
        let mut first = Ok(());
        for worker in self.workers {
            let result = worker
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a FUSE worker panicked")));
            if first.is_ok() {
                first = result;
            }
        }
        first
    }

    /// Whether every worker has ended (the file system is gone).
    pub fn is_finished(&self) -> bool {
        self.workers.iter().all(JoinHandle::is_finished)
    }
}

/// Serves `filesystem` on every one of `devices` with `threads_per_device`
/// threads each; returns once the kernel was asked to resend what an earlier
/// server left unanswered (when `resend`).
///
/// The caller's descriptors are duplicated: it may keep or drop its own.
///
/// # Errors
/// See [`ServeError`]. The connection is not harmed by a failure.
pub fn serve<F: Filesystem + Clone>(
    devices: &[OwnedFd],
    filesystem: &F,
    threads_per_device: usize,
    resend: bool,
) -> Result<Serving, ServeError> {
    heap::map_large_blocks();
    let sessions = devices
        .iter()
        .map(|device| take_over(device, filesystem.clone(), threads_per_device))
        .collect::<io::Result<Vec<_>>>()
        .map_err(ServeError::Session)?;
    let workers = sessions
        .into_iter()
        .map(|session| {
            std::thread::Builder::new()
                .name("fuse-session".into())
                .spawn(move || session.run())
        })
        .collect::<io::Result<Vec<_>>>()
        .map_err(ServeError::Thread)?;
    if resend && let Some(device) = devices.first() {
        request_resend(device).map_err(ServeError::Resend)?;
    }
    Ok(Serving { workers })
}

/// A `fuser` session that believes it has just begun, on a live descriptor.
fn take_over<F: Filesystem>(
    device: &OwnedFd,
    filesystem: F,
    threads: usize,
) -> io::Result<Session<F>> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(
        &ours,
        &protocol::synthetic_init(),
        rustix::net::SendFlags::empty(),
    )?;
    let mut config = Config::default();
    config.n_threads = Some(threads.max(1));
    config.clone_fd = false;
    config.acl = SessionACL::All;
    let session = Session::from_fd(filesystem, theirs, SessionACL::All, config)?;
    // `ours` stays open until here: the answer to the made-up INIT goes to it.
    fuse_dev::replace(device.as_fd(), &session)?;
    drop(ours);
    Ok(session)
}

fn request_resend(device: &OwnedFd) -> io::Result<()> {
    let mut file = std::fs::File::from(device.try_clone()?);
    file.write_all(&protocol::resend())
}
