//! Every `unsafe` of this crate.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Lets the child receive signals that its parent blocks. std leaves the mask
/// as it is, and a daemon started with SIGTERM blocked never ends by itself.
pub(crate) fn clear_signal_mask(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed;
    // this is one pthread_sigmask on a set built on the stack.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty()
                .thread_set_mask()
                .map_err(std::io::Error::from)
        });
    }
}
