//! Being pid 1: reap what nobody else waits for, pass signals on, end when the command or the supervisor does.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use super::command::Command;
use crate::wire::{self, FromSandbox, ToInit};

/// Serves until the command has ended; the exit code says nothing.
pub(super) fn until_end(control: &OwnedFd, mut command: Command) -> i32 {
    command.give_away_master();
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let Ok(signals) = SignalFd::with_flags(&children, flags) else {
        return 1;
    };
    loop {
        if let Some(last) = reap(&mut command) {
            let _ = wire::send(control, &last, &[]);
            return 0;
        }
        if !wait(control, &signals, &command) {
            return 1;
        }
        // What it says is only that there may be children to wait for.
        while let Ok(Some(_)) = signals.read_signal() {}
    }
}

/// Waits for anything; `false` when nobody supervises any more.
fn wait(control: &OwnedFd, signals: &SignalFd, command: &Command) -> bool {
    let mut fds = [
        PollFd::new(control, PollFlags::IN),
        PollFd::new(signals, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) => {}
        Err(Errno::INTR) => return true,
        Err(_) => return false,
    }
    let has_order = !fds[0].revents().is_empty();
    if has_order {
        match wire::receive::<ToInit>(control.as_fd()) {
            Ok(Some((ToInit::Signal(number), _))) => pass_on(command.pid(), number),
            Ok(Some((ToInit::GetReady | ToInit::Start, _))) => {}
            Ok(None) | Err(_) => return false,
        }
    }
    true
}

/// Only the command gets it, as if it had been started without us.
fn pass_on(pid: i32, number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        // It may have ended a moment ago.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

/// Waits for all that have ended; the message to end with when the command has.
fn reap(command: &mut Command) -> Option<FromSandbox> {
    let mut last = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if Pid::as_raw(Some(pid)) == command.pid() {
            last = Some(end_of(command, status));
        }
    }
    last
}

fn end_of(command: &mut Command, status: WaitStatus) -> FromSandbox {
    match command.take_trouble() {
        Some(errno) => FromSandbox::NotRun { errno },
        None => FromSandbox::Ended {
            status: status.as_raw(),
        },
    }
}
