//! Every `unsafe` of this crate.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Moves the calling thread, which must be the only one of its process, into a namespace.
pub(crate) fn enter_namespace(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a number, 0 for "whatever it is", and touches no memory of
    // ours.
    match unsafe { libc::setns(namespace.as_raw_fd(), 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Pages of a range of a file that the kernel has in memory (`cachestat(2)`, Linux 6.5).
pub(crate) fn cached_pages(file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<u64> {
    /// The same number on every architecture.
    const CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    // Cached, dirty, under writeback, evicted, recently evicted.
    let mut counts = [0_u64; 5];
    // SAFETY: reads a range of two u64 and writes five u64 through pointers that are valid until it returns; it keeps
    // nothing.
    let done = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            counts.as_mut_ptr(),
            0,
        )
    };
    match done {
        0 => Ok(counts[0]),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Milliseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic_ms() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec through a valid pointer. It cannot fail: the clock exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

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
