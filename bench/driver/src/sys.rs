//! The unsafe operations: mapping a file, and a process in namespaces of its own.

#![allow(unsafe_code)]

use std::io;

use anyhow::Result;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;

/// Maps the whole file read-only, without read-ahead hints beyond the kernel's own.
pub(crate) fn map(file: &File) -> Result<Mmap> {
    // SAFETY: the benchmark's files are read-only copies that nothing changes while it runs.
    Ok(unsafe { MmapOptions::new().map(file)? })
}

/// `clone3(2)` with these `CLONE_NEW*` flags: 0 in the child, which goes on with a copy of this process's memory.
/// Only for a process of one thread.
pub(crate) fn clone(flags: libc::c_int) -> io::Result<i32> {
    // SAFETY: clone_args is plain numbers; zero means "not used" in every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned());
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: the kernel reads `args`, which outlives the call. The child has memory of its own, and no other thread's
    // locks, since there is one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match i32::try_from(pid) {
        Ok(pid) if pid >= 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}
