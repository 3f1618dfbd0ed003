//! Making processes, and what becomes of one before it runs another program.
//!
//! The callers are processes of one thread (the spawner checks that when it starts, and its children inherit
//! it), so a child may do what its parent may: no lock can be held by a thread that it does not have.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Who returned from [`clone`].
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// Its parent.
    Parent {
        /// The child, as this process numbers it.
        pid: i32,
        /// The child, whatever becomes of its number.
        pidfd: OwnedFd,
    },
}

/// `linux/sched.h`; what libc has is too small a type for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3(2)` with these `CLONE_NEW*` flags, into a cgroup of version 2 or this process's own; the child goes on with a copy of
/// this process's memory.
pub(crate) fn clone(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain numbers; zero means "not used" in every field.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    args.pidfd = (&raw mut pidfd).addr() as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the kernel reads `args` and writes one int to `pidfd`, both of which outlive the call. Without
    // CLONE_VM the child has memory of its own, and this process has one thread (see above).
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match pid {
        0 => Ok(Cloned::Child),
        pid if pid > 0 => Ok(Cloned::Parent {
            pid: pid as i32,
            // SAFETY: the kernel has just given this descriptor to us alone.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `fork(2)`: 0 in the child.
pub(crate) fn fork() -> io::Result<i32> {
    // SAFETY: this process has one thread (see above).
    match unsafe { libc::fork() } {
        pid if pid >= 0 => Ok(pid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends this process at once: nothing of a parent's that it has a copy of is flushed or dropped.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Every signal does what it does by default, and none is blocked.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action is set, no handler; the kernel refuses numbers that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: a set on the stack is emptied, then read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Children that end are no zombies and need nobody to wait for them.
pub(crate) fn ignore_children() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Makes `fd` the descriptor `number`, which other programs inherit.
pub(crate) fn put_at(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let done = match fd.as_raw_fd() == number {
        // SAFETY: clears close-on-exec of an open descriptor.
        true => unsafe { libc::fcntl(number, libc::F_SETFD, 0) },
        // SAFETY: whatever was open as `number` is one of 0, 1 and 2, which nothing here owns.
        false => unsafe { libc::dup2(fd.as_raw_fd(), number) },
    };
    match done {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Leaves a new process 0, 1, 2 and a copy of `fd`: whatever else its parent had open is not its own. What its memory
/// still says is open must not be used or dropped, so it never returns to where it came from.
pub(crate) fn close_all_but(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const KEPT: libc::c_int = 3;
    let done = match fd.as_raw_fd() == KEPT {
        true => KEPT,
        // SAFETY: makes one descriptor; what was open as that number is given up, as said above.
        false => unsafe { libc::dup3(fd.as_raw_fd(), KEPT, libc::O_CLOEXEC) },
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: closes descriptors that nobody in this process uses, as said above.
    if unsafe { libc::close_range(KEPT.cast_unsigned() + 1, libc::c_uint::MAX, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and every other name of it in this process is given up.
    Ok(unsafe { OwnedFd::from_raw_fd(KEPT) })
}

/// Closes every descriptor from `first` on when this process runs another program.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: marks descriptors; none is closed, and no memory is touched.
    match unsafe { libc::close_range(first, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs another program; returns only when that failed.
pub(crate) fn exec(path: &CString, argv: &[CString], env: &[CString]) -> nix::errno::Errno {
    let Err(errno) = nix::unistd::execve(path, argv, env);
    errno
}

/// A session keyring of its own, so that no key of whoever started us can be found.
pub(crate) fn leave_keyring() -> io::Result<()> {
    /// `KEYCTL_JOIN_SESSION_KEYRING` of `linux/keyctl.h`.
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for a new keyring without one.
    match unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
