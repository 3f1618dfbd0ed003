//! The spawner: a small process of one thread that makes sandboxes for a large one of many.
//!
//! ```text
//!  supervisor ──Prepare──> spawner ──clone3──> init of a sandbox (waits)
//!      ^                                         │
//!      └──── Prepared, Started, Ended ───────────┘  own control socket per sandbox
//! ```
//!
//! A daemon's memory is never copied for a sandbox and never in one: the spawner is the same program started anew
//! with nothing but a socket. Its file system holds only what every sandbox is shown of the host (see [`stage`]), so
//! that a sandbox's mount namespace begins as a copy of a handful of mounts, not of all of the host's.
//!
//! What always holds: the spawner ends when its supervisor does, however that happens, and every sandbox ends with
//! the spawner.

mod client;
mod stage;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

pub use client::{Prepare, Prepared, Spawner, SpawnerError, Standard};

use crate::confine::Filter;
use crate::init;
use crate::sys::process::{self, Cloned};
use crate::wire::{self, FromSandbox, PrepareOrder, ToSpawner};

/// A step failed, with what it was.
pub(crate) struct Failed {
    pub(crate) step: String,
    pub(crate) source: io::Error,
}

/// Names a step of what may fail.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, Failed>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Failed> {
        self.map_err(|source| Failed {
            step: step.to_owned(),
            source: source.into(),
        })
    }
}

impl Failed {
    fn message(self) -> FromSandbox {
        FromSandbox::Failed {
            errno: self.source.raw_os_error().unwrap_or(0),
            step: match self.source.raw_os_error() {
                Some(_) => self.step,
                None => format!("{}: {}", self.step, self.source),
            },
        }
    }

    /// Tells the supervisor of a sandbox; whether that is still there does not matter.
    pub(crate) fn tell(self, control: BorrowedFd<'_>) {
        let _ = wire::send(control, &self.message(), &[]);
    }
}

/// Becomes a spawner; returns when the supervisor has ended. The program that [`Spawner::start`] runs calls this
/// before anything else, while it has one thread.
///
/// # Errors
/// When it was not started by [`Spawner::start`], or the kernel lacks what it needs; with words for a person.
pub fn serve() -> io::Result<()> {
    let served = prepare().and_then(|(socket, filter)| serve_on(&socket, &filter));
    served.map_err(|failed| {
        let (step, source) = (failed.step, failed.source);
        io::Error::new(source.kind(), format!("{step}: {source}"))
    })
}

/// The supervisor's socket is standard input; afterwards that is nothing, so that no init ever has it.
fn prepare() -> Result<(OwnedFd, Filter), Failed> {
    check_alone()?;
    let input = io::stdin().as_fd().try_clone_to_owned();
    let socket = input.step("take over the supervisor's socket")?;
    process::ignore_children();
    process::leave_keyring().step("leave the session keyring")?;
    stage::enter()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .step("open /dev/null")?;
    process::put_at(null.as_fd(), 0).step("let go of standard input")?;
    Ok((socket, Filter::build()?))
}

/// A copy of a process with threads may stop for ever at a lock that one of them held.
fn check_alone() -> Result<(), Failed> {
    let threads = std::fs::read_dir("/proc/self/task").step("count threads")?;
    match threads.count() {
        1 => Ok(()),
        _ => Err(io::Error::other("this process has threads")).step("become a spawner"),
    }
}

fn serve_on(socket: &OwnedFd, filter: &Filter) -> Result<(), Failed> {
    loop {
        let Some((ToSpawner::Prepare(order), fds)) =
            wire::receive(socket).step("listen to the supervisor")?
        else {
            return Ok(());
        };
        let mut fds = fds.into_iter();
        let (control, cgroup) = (fds.next(), fds.next());
        let control = control
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
            .step("take a sandbox's socket")?;
        if let Err(failed) = make(&control, cgroup, order, filter) {
            failed.tell(control.as_fd());
        }
    }
}

/// What every sandbox has of its own.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

fn make(
    control: &OwnedFd,
    cgroup: Option<OwnedFd>,
    order: PrepareOrder,
    filter: &Filter,
) -> Result<(), Failed> {
    let network = match order.own_network {
        true => libc::CLONE_NEWNET,
        false => 0,
    };
    let into = cgroup.as_ref().map(AsFd::as_fd);
    let step = match into {
        Some(_) => "make the sandbox's namespaces, in its cgroup",
        None => "make the sandbox's namespaces",
    };
    match process::clone(NAMESPACES | network, into).step(step)? {
        Cloned::Child => {
            drop(cgroup);
            process::exit(init::run(control.as_fd(), order.own_network, filter))
        }
        Cloned::Parent { pid, pidfd } => {
            let namespace = map_ids(pid, &order)?;
            let fds = [pidfd.as_fd(), namespace.as_fd()];
            wire::send(control, &FromSandbox::Prepared { pid }, &fds).step("report the sandbox")
        }
    }
}

/// Gives a sandbox's user namespace its ids, and the namespace itself.
fn map_ids(pid: i32, order: &PrepareOrder) -> Result<OwnedFd, Failed> {
    let map = format!("0 {} {}\n", order.ids_first, order.ids_count);
    for name in ["uid_map", "gid_map"] {
        std::fs::write(format!("/proc/{pid}/{name}"), &map).step("map the sandbox's user ids")?;
    }
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step("open the sandbox's user namespace")
}
