//! A sandbox as its supervisor sees it: signals in, how it ended out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use crate::ended::Ended;
use crate::wire::{self, FromSandbox, ToInit};

/// How long killed processes may take to be gone. One that waits for a disk cannot be killed; everything else takes
/// milliseconds.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A sandbox; when this is dropped, everything in it has been killed and is gone.
#[derive(Debug)]
pub struct Running {
    control: OwnedFd,
    process: OwnedFd,
    pid: i32,
    terminal: Option<OwnedFd>,
    ended: Option<Ended>,
}

impl Running {
    pub(crate) fn new(control: OwnedFd, process: OwnedFd, pid: i32) -> Self {
        Self {
            control,
            process,
            pid,
            terminal: None,
            ended: None,
        }
    }

    pub(crate) fn control(&self) -> &OwnedFd {
        &self.control
    }

    pub(crate) fn set_terminal(&mut self, terminal: Option<OwnedFd>) {
        self.terminal = terminal;
    }

    /// The sandbox's first process.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Our side of the command's terminal, if it has one.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Readable when [`wait`](Self::wait) has something to say.
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// For threads that do not wait.
    ///
    /// # Errors
    /// When there are too many open files.
    pub fn signaller(&self) -> io::Result<Signaller> {
        self.control.try_clone().map(Signaller)
    }

    /// Kills everything in the sandbox.
    pub fn kill(&self) {
        // It fails when there is nothing left to kill.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }

    /// Whether nothing of it is left, as [`wait`](Self::wait) found.
    pub fn is_over(&self) -> bool {
        self.ended.is_some()
    }

    /// Waits for the command to end; `None` when the deadline passed first. When it has ended, so has everything
    /// that it left running.
    ///
    /// # Errors
    /// When the kernel does not let us wait.
    pub fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<Ended>> {
        if let Some(ended) = self.ended {
            return Ok(Some(ended));
        }
        if !wire::wait_readable(&self.control, deadline)? {
            return Ok(None);
        }
        let ended = match wire::receive(&self.control)? {
            Some((FromSandbox::Ended { status }, _)) => Ended::of_status(status),
            Some((FromSandbox::NotRun { errno }, _)) => Ended::NotRun { errno },
            // The init was killed: by us, or by the kernel for want of memory.
            _ => Ended::Killed,
        };
        self.finish()?;
        self.ended = Some(ended);
        Ok(self.ended)
    }

    /// Ends what is left; returns when nothing is.
    fn finish(&self) -> io::Result<()> {
        self.kill();
        match wire::wait_readable(&self.process, Some(Instant::now() + END_PATIENCE))? {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "processes of the sandbox do not die; they may wait for a disk",
            )),
        }
    }
}

/// Sends signals to a sandbox's command.
#[derive(Debug)]
pub struct Signaller(OwnedFd);

impl Signaller {
    /// Sends one.
    ///
    /// # Errors
    /// When the sandbox has ended.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        wire::send(&self.0, &ToInit::Signal(number), &[])
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_none()
            && let Err(error) = self.finish()
        {
            tracing::warn!(%error, pid = self.pid, "end a sandbox");
        }
    }
}
