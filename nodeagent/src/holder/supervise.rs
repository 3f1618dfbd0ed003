//! Starting the children and starting them again.
//!
//! A child that worked (it said so, or lived for a while) and dies is started
//! again at once: readers are waiting for it. One that keeps dying before it
//! works is started less and less often. A budget keeps even "worked, then
//! died" from becoming a busy loop.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use serde::{Deserialize, Serialize};

use super::protocol::ChildStatus;
use crate::sys;

/// A child that lived this long counts as working even if it never said so.
const WORKS_AFTER: Duration = Duration::from_secs(1);
/// First and longest pause before restarting one that does not work.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Immediate restarts in a row, and how fast the budget comes back.
const BURST: f64 = 50.0;
const REFILL_PER_SECOND: f64 = 5.0;

/// A process to keep running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSpec {
    /// Its name in messages and logs.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<OsString>,
}

/// What a running child is.
#[derive(Debug)]
struct Running {
    process: Child,
    pidfd: OwnedFd,
    since: Instant,
    said_ready: bool,
}

/// One supervised process.
#[derive(Debug)]
pub(super) struct Supervised {
    spec: ChildSpec,
    running: Option<Running>,
    /// When to start it; `None` while it runs or once it has ended for good.
    start_at: Option<Instant>,
    pacing: Pacing,
    restarts: u64,
    last_exit: Option<String>,
    /// What it was run by, until a successor by the new program works.
    before: Option<Vec<OsString>>,
    /// Whether it was ended to be run by another program.
    ended_for_it: bool,
}

/// How far the replacement of a child is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Trial {
    /// Its successor was not heard of yet.
    Open,
    /// It works, or was never replaced.
    Works,
}

impl Supervised {
    pub(super) fn new(spec: ChildSpec) -> Self {
        let now = Instant::now();
        Self {
            spec,
            running: None,
            start_at: Some(now),
            pacing: Pacing::new(now),
            restarts: 0,
            last_exit: None,
            before: None,
            ended_for_it: false,
        }
    }

    pub(super) fn spec(&self) -> &ChildSpec {
        &self.spec
    }

    /// Ends it as a crash would, so that what it left with the holder stays, and runs it by `argv`.
    pub(super) fn replace(&mut self, argv: Vec<OsString>) {
        let before = std::mem::replace(&mut self.spec.argv, argv);
        self.before = Some(before);
        if let Some(running) = &self.running {
            self.ended_for_it = true;
            // ESRCH: it ended by itself and will be reaped.
            let _ = pidfd_send_signal(&running.pidfd, Signal::KILL);
        }
    }

    /// How the last [`Supervised::replace`] is going.
    pub(super) fn trial(&self) -> Trial {
        match self.before {
            Some(_) => Trial::Open,
            None => Trial::Works,
        }
    }

    /// Runs it by what it was run by before, if its successor does not work.
    pub(super) fn give_up_trial(&mut self) {
        if let Some(before) = self.before.take() {
            self.run_by(before);
        }
    }

    /// Ends it as a crash would and runs it by `argv`, which is known to work.
    pub(super) fn run_by(&mut self, argv: Vec<OsString>) {
        self.spec.argv = argv;
        match &self.running {
            Some(running) => {
                self.ended_for_it = true;
                let _ = pidfd_send_signal(&running.pidfd, Signal::KILL);
            }
            // Also where its successor ended as if it wanted to.
            None => self.start_at = Some(Instant::now()),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Readable when the process has ended.
    pub(super) fn pidfd(&self) -> Option<&OwnedFd> {
        self.running.as_ref().map(|running| &running.pidfd)
    }

    pub(super) fn start_at(&self) -> Option<Instant> {
        self.start_at
    }

    /// Neither runs nor will be started.
    pub(super) fn is_over(&self) -> bool {
        self.running.is_none() && self.start_at.is_none()
    }

    /// Starts it if its time has come.
    pub(super) fn start_if_due(&mut self, now: Instant) {
        if self.running.is_some() || self.start_at.is_none_or(|at| at > now) {
            return;
        }
        match spawn(&self.spec) {
            Ok((process, pidfd)) => {
                tracing::info!(child = self.spec.name, pid = process.id(), "started");
                self.start_at = None;
                self.running = Some(Running {
                    process,
                    pidfd,
                    since: now,
                    said_ready: false,
                });
            }
            Err(error) => {
                tracing::error!(child = self.spec.name, %error, "cannot be started");
                self.last_exit = Some(error.to_string());
                self.start_at = Some(now + self.pacing.delay(now, false));
            }
        }
    }

    /// Reaps it if it has ended. Exit code 0 means that it wanted to. Says whether a successor by another
    /// program ended before it worked.
    pub(super) fn reap(&mut self, now: Instant, stopping: bool) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let status = match running.process.try_wait() {
            Ok(Some(status)) => status,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(child = self.spec.name, %error, "cannot be waited for");
                return false;
            }
        };
        let worked =
            running.said_ready || now.saturating_duration_since(running.since) >= WORKS_AFTER;
        self.running = None;
        self.last_exit = Some(status.to_string());
        if std::mem::take(&mut self.ended_for_it) && !stopping {
            tracing::info!(child = self.spec.name, "ended to be run by another program");
            self.start_at = Some(now);
            return false;
        }
        self.plan_restart(now, worked, status, stopping);
        self.before.is_some() && !stopping
    }

    fn plan_restart(&mut self, now: Instant, worked: bool, status: ExitStatus, stopping: bool) {
        if stopping || status.success() {
            tracing::info!(child = self.spec.name, %status, "ended");
            return;
        }
        let delay = self.pacing.delay(now, worked);
        tracing::warn!(child = self.spec.name, %status, ?delay, "died; starting it again");
        self.restarts += 1;
        self.start_at = Some(now + delay);
    }

    /// The child says that it works.
    pub(super) fn said_ready(&mut self) {
        if let Some(running) = &mut self.running {
            running.said_ready = true;
            if !self.ended_for_it {
                self.before = None;
            }
        }
    }

    /// Sends a signal to it, and does not start it any more.
    pub(super) fn stop(&mut self, signal: Signal) {
        self.start_at = None;
        if let Some(running) = &self.running {
            // ESRCH: it ended by itself and will be reaped.
            let _ = pidfd_send_signal(&running.pidfd, signal);
        }
    }

    pub(super) fn status(&self) -> ChildStatus {
        ChildStatus {
            name: self.spec.name.clone(),
            pid: self.running.as_ref().map(|running| running.process.id()),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

/// A process group of its own, so that Ctrl-C on a terminal reaches the holder
/// only, which then ends the children in order.
fn spawn(spec: &ChildSpec) -> io::Result<(Child, OwnedFd)> {
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("a child without a program"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .process_group(0);
    sys::clear_signal_mask(&mut command);
    let mut process = command.spawn()?;
    match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
        Ok(pidfd) => Ok((process, pidfd)),
        Err(errno) => {
            process.kill()?;
            process.wait()?;
            Err(errno.into())
        }
    }
}

/// When a dead child may be started again.
#[derive(Debug)]
struct Pacing {
    failures: u32,
    budget: f64,
    refilled: Instant,
}

impl Pacing {
    fn new(now: Instant) -> Self {
        Self {
            failures: 0,
            budget: BURST,
            refilled: now,
        }
    }

    fn delay(&mut self, now: Instant, worked: bool) -> Duration {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.budget = (self.budget + passed * REFILL_PER_SECOND).min(BURST);
        self.refilled = now;
        if !worked {
            let delay = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16));
            self.failures += 1;
            return delay.min(BACKOFF_MAX);
        }
        self.failures = 0;
        if self.budget >= 1.0 {
            self.budget -= 1.0;
            Duration::ZERO
        } else {
            Duration::from_secs_f64(1.0 / REFILL_PER_SECOND)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_child_is_restarted_at_once_until_the_budget_is_gone() {
        let now = Instant::now();
        let mut pacing = Pacing::new(now);
        for _ in 0..50 {
            assert_eq!(pacing.delay(now, true), Duration::ZERO);
        }
        assert_eq!(pacing.delay(now, true), Duration::from_millis(200));
        let later = now + Duration::from_secs(1);
        assert_eq!(pacing.delay(later, true), Duration::ZERO);
    }

    #[test]
    fn a_child_that_never_works_waits_longer_each_time_up_to_a_bound() {
        let now = Instant::now();
        let mut pacing = Pacing::new(now);
        let delays: Vec<_> = (0..12).map(|_| pacing.delay(now, false)).collect();
        assert_eq!(delays[0], Duration::from_millis(10));
        assert_eq!(delays[1], Duration::from_millis(20));
        assert_eq!(delays[11], BACKOFF_MAX);
        assert_eq!(pacing.delay(now, true), Duration::ZERO);
        assert_eq!(pacing.delay(now, false), Duration::from_millis(10));
    }
}
