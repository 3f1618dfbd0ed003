//! Landlock, as much of it as is used (`linux/landlock.h`, `landlock(7)`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct landlock_ruleset_attr` as of version 6 of the interface.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const REFER: u64 = 1 << 13;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;
/// The version of the interface from which on scopes are known.
pub(crate) const SCOPES_FROM: i64 = 6;
const CREATE_RULESET_VERSION: libc::c_uint = 1;
const RULE_PATH_BENEATH: libc::c_int = 1;

/// Version of the kernel's interface.
pub(crate) fn version() -> io::Result<i64> {
    let nothing = std::ptr::null::<Ruleset>();
    // SAFETY: a null attribute of length 0 with this flag asks for the version and touches no memory.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            nothing,
            0,
            CREATE_RULESET_VERSION,
        )
    };
    answer(version)
}

/// From now on, this process and its children make no device files and mount nothing, and, from version 6 on, reach
/// no abstract socket and no process outside their own circle. Files may be moved below `root` as before.
pub(crate) fn restrict(version: i64, root: BorrowedFd<'_>) -> io::Result<()> {
    let ruleset = Ruleset {
        handled_access_fs: MAKE_CHAR | MAKE_BLOCK | if version >= 2 { REFER } else { 0 },
        handled_access_net: 0,
        scoped: SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL,
    };
    // What older kernels do not know is cut off.
    let size: usize = match version {
        ..4 => 8,
        4..SCOPES_FROM => 16,
        _ => size_of::<Ruleset>(),
    };
    // SAFETY: the kernel reads `size` bytes of `ruleset`, which is that long and lives for the call; the descriptor
    // returned is ours alone.
    let rules = unsafe {
        let fd = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::from_ref(&ruleset),
            size,
            0,
        );
        OwnedFd::from_raw_fd(answer(fd)? as i32)
    };
    if version >= 2 {
        let beneath = PathBeneath {
            allowed_access: REFER,
            parent_fd: root.as_raw_fd(),
        };
        // SAFETY: the kernel reads one attribute of this type, which lives for the call.
        answer(unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                rules.as_raw_fd(),
                RULE_PATH_BENEATH,
                std::ptr::from_ref(&beneath),
                0,
            )
        })?;
    }
    // SAFETY: takes integers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    answer(done).map(drop)
}

fn answer(result: libc::c_long) -> io::Result<i64> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
