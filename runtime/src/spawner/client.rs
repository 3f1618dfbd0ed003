//! The supervisor's side: starting a spawner and asking it for sandboxes.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cgroup::{Cgroup, CgroupError};
use crate::ids::IdRange;
use crate::running::Running;
use crate::spec::Spec;
use crate::wire::{self, FromSandbox, PrepareOrder, ToInit, ToSpawner};

/// How long the spawner may take to make namespaces; a loaded machine needs a tenth of a second.
const PREPARE_PATIENCE: Duration = Duration::from_secs(30);

/// No sandbox could be had, or the command in it not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnerError {
    /// The spawner's program does not run.
    #[error("start the spawner of sandboxes")]
    Start(#[source] io::Error),
    /// It ended, or does not answer.
    #[error("the spawner of sandboxes is gone; what it started has ended with it")]
    Gone(#[source] io::Error),
    /// A step failed inside.
    #[error("set up the sandbox: {step}")]
    Setup {
        /// What was tried.
        step: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The sandbox's init ended before it had anything to say.
    #[error("the sandbox ended while it was set up; a limit may be too low")]
    Ended,
    /// It cannot be put where it is to be bounded.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The spec is too large.
    #[error("the command line and environment have more than {0} bytes")]
    TooLarge(u64),
}

/// A process that makes sandboxes; they end with it, and it ends when this is dropped.
#[derive(Debug)]
pub struct Spawner {
    socket: OwnedFd,
    child: Mutex<Child>,
}

/// What a sandbox is before it is known what it will run.
#[derive(Debug, Clone, Copy)]
pub struct Prepare<'a> {
    /// The host's ids that its own are.
    pub ids: IdRange,
    /// A network namespace with nothing but a loopback; else the host's network.
    pub own_network: bool,
    /// What its processes are in; else what the spawner is in.
    pub cgroup: Option<&'a Cgroup>,
}

impl Spawner {
    /// Starts `program args…`, which calls [`serve`](super::serve) at once. Nothing is handed to it but a socket.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn start(program: &Path, args: &[&OsStr]) -> Result<Self, SpawnerError> {
        let (ours, theirs) = wire::pair().map_err(SpawnerError::Start)?;
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(SpawnerError::Start)?;
        Ok(Self {
            socket: ours,
            child: Mutex::new(child),
        })
    }

    /// Has a sandbox made, up to waiting for what to run.
    ///
    /// # Errors
    /// [`SpawnerError`].
    pub fn prepare(&self, prepare: &Prepare<'_>) -> Result<Prepared, SpawnerError> {
        let (ours, theirs) = wire::pair().map_err(SpawnerError::Gone)?;
        let order = ToSpawner::Prepare(PrepareOrder {
            ids_first: prepare.ids.first(),
            ids_count: prepare.ids.count(),
            own_network: prepare.own_network,
        });
        // Moving a process stops every fork on the machine for a moment; one that is made inside need not be moved.
        let inside = prepare.cgroup.map(Cgroup::entrance).transpose()?.flatten();
        let fds = [Some(theirs.as_fd()), inside.as_ref().map(AsFd::as_fd)];
        let fds: Vec<_> = fds.into_iter().flatten().collect();
        wire::send(&self.socket, &order, &fds).map_err(SpawnerError::Gone)?;
        drop(theirs);
        let prepared = match answer(&ours)? {
            (FromSandbox::Prepared { pid }, fds) => {
                let [process, user_namespace] = exactly(fds)?;
                Prepared {
                    running: Running::new(ours, process, pid),
                    user_namespace,
                }
            }
            (other, _) => return Err(unexpected(other)),
        };
        if let (Some(cgroup), None) = (prepare.cgroup, inside) {
            cgroup.add(prepared.running.pid())?;
        }
        let control = prepared.running.control();
        wire::send(control, &ToInit::GetReady, &[]).map_err(SpawnerError::Gone)?;
        Ok(prepared)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // It ends by itself when the socket closes; killing it is only quicker. Its sandboxes end either way.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A sandbox that waits for what to run. Dropping it ends it.
#[derive(Debug)]
pub struct Prepared {
    running: Running,
    user_namespace: OwnedFd,
}

/// What a command reads and writes when it has no terminal. Pipes: a file or terminal of the host could be
/// reopened, truncated or typed into from inside.
#[derive(Debug)]
pub struct Standard {
    /// Standard input.
    pub input: OwnedFd,
    /// Standard output.
    pub output: OwnedFd,
    /// Standard error.
    pub error: OwnedFd,
}

impl Prepared {
    /// Its user namespace, for mounts whose owners are to be its own.
    pub fn user_namespace(&self) -> BorrowedFd<'_> {
        self.user_namespace.as_fd()
    }

    /// Whether it can still be started: neither it nor its spawner was killed while it waited.
    pub fn is_alive(&self) -> bool {
        // A control socket says something, or that its other end is closed, only when the init has ended.
        matches!(
            wire::wait_readable(self.running.control(), Some(Instant::now())),
            Ok(false)
        )
    }

    /// Runs the command of `spec` with `root`, a mount that is attached nowhere, as its file system. Without
    /// `standard` it needs a terminal.
    ///
    /// # Errors
    /// [`SpawnerError`]; what the command itself does is no error.
    pub fn start(
        self,
        spec: &Spec,
        root: BorrowedFd<'_>,
        standard: Option<&Standard>,
    ) -> Result<Running, SpawnerError> {
        let file = spec_file(spec)?;
        let mut fds = vec![file.as_fd(), root];
        if let Some(standard) = standard {
            fds.extend([&standard.input, &standard.output, &standard.error].map(AsFd::as_fd));
        }
        let mut running = self.running;
        wire::send(running.control(), &ToInit::Start, &fds).map_err(SpawnerError::Gone)?;
        match answer(running.control())? {
            (FromSandbox::Started, fds) => {
                running.set_terminal(fds.into_iter().next());
                Ok(running)
            }
            (other, _) => Err(unexpected(other)),
        }
    }
}

/// The spec as a file without a name: it may be longer than a packet.
fn spec_file(spec: &Spec) -> Result<OwnedFd, SpawnerError> {
    use std::io::{Seek, Write};
    let bytes =
        postcard::to_stdvec(spec).map_err(|error| SpawnerError::Start(io::Error::other(error)))?;
    if bytes.len() as u64 > crate::spec::SPEC_MAX {
        return Err(SpawnerError::TooLarge(crate::spec::SPEC_MAX));
    }
    let write = || {
        let fd = rustix::fs::memfd_create("spec", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(fd);
        file.write_all(&bytes)?;
        file.rewind()?;
        Ok(file.into())
    };
    write().map_err(SpawnerError::Start)
}

fn answer(control: &OwnedFd) -> Result<(FromSandbox, Vec<OwnedFd>), SpawnerError> {
    let deadline = Some(Instant::now() + PREPARE_PATIENCE);
    match wire::wait_readable(control, deadline) {
        Ok(true) => {}
        Ok(false) => return Err(SpawnerError::Gone(io::ErrorKind::TimedOut.into())),
        Err(source) => return Err(SpawnerError::Gone(source)),
    }
    let received = wire::receive(control).map_err(SpawnerError::Gone)?;
    received.ok_or(SpawnerError::Ended)
}

fn unexpected(message: FromSandbox) -> SpawnerError {
    match message {
        FromSandbox::Failed { step, errno } => SpawnerError::Setup {
            step,
            source: match errno {
                0 => io::Error::from(io::ErrorKind::InvalidInput),
                errno => io::Error::from_raw_os_error(errno),
            },
        },
        other => SpawnerError::Gone(io::Error::other(format!("unexpected message {other:?}"))),
    }
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>) -> Result<[OwnedFd; N], SpawnerError> {
    fds.try_into()
        .map_err(|_| SpawnerError::Gone(io::Error::other("descriptors are missing")))
}
