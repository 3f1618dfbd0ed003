//! System calls that only probing needs: what a child may do in a user
//! namespace, and fanotify marks.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `FAN_PRE_ACCESS`, Linux 6.14; not in libc.
const FAN_PRE_ACCESS: u64 = 0x0010_0000;

/// Opens a pre-content fanotify group.
pub(crate) fn fanotify_pre_content() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_PRE_CONTENT | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK;
    let mode = (libc::O_RDONLY | libc::O_LARGEFILE | libc::O_CLOEXEC).cast_unsigned();
    // SAFETY: takes two integers and touches no memory.
    let fd = unsafe { libc::fanotify_init(flags, mode) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks `file` for pre-access events.
pub(crate) fn fanotify_mark_pre_access(
    group: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    // SAFETY: a null path with a directory descriptor means the descriptor's
    // own file (fanotify_mark(2)); no memory is touched.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            libc::FAN_MARK_ADD,
            FAN_PRE_ACCESS,
            file.as_raw_fd(),
            std::ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Exit codes of the child of [`in_user_namespace`] above any errno.
const OK: i32 = 0;

/// In a child with a user and mount namespace of its own: opens a file system
/// context of type `fs`. Returns the error of the first step that failed.
pub(crate) fn fsopen_in_user_namespace(fs: &CStr) -> io::Result<()> {
    // SAFETY: the child of a possibly multi-threaded process makes raw system
    // calls only (unshare, fsopen, _exit), allocates nothing and takes no lock.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid == 0 {
        // SAFETY: as above; `fs` is NUL-terminated and was made before fork.
        unsafe {
            let code = if libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) != 0
                || libc::syscall(libc::SYS_fsopen, fs.as_ptr(), 0) < 0
            {
                *libc::__errno_location()
            } else {
                OK
            };
            libc::_exit(code.clamp(0, 255));
        }
    }
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call; `pid` is our own child, not yet
        // waited for. The child cannot block: it ends by itself.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match libc::WEXITSTATUS(status) {
        OK if libc::WIFEXITED(status) => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
