//! One run's sandbox from its making to its end. Everything here blocks, and is called on blocking threads.
//!
//! What always holds: dropping it, at any step, ends what runs and leaves nothing; [`Live::end`] does the same and makes
//! its place free again.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use lamina_mount::union::scratch::{self, Scratch, ScratchMedium, ScratchSpec};
use lamina_runtime::cgroup::{ResourceLimits, Usage};
use lamina_runtime::image::ImageConfig;
use lamina_runtime::spec::ProcessLimits;
use lamina_runtime::user::{self, User};
use lamina_runtime::{
    Ended, IdRange, Prepared, Running, SpawnerError, Spec, Standard, network_files,
};

use crate::error::RunError;
use crate::order::{MEMORY_MB_MIN, Order};
use crate::place::Placer;
use crate::sandboxes::{Place, SCRATCH, Sandboxes};

/// What the machine is called inside.
const HOSTNAME: &str = "lamina";

/// A sandbox with its root. Fields go in this order: processes, file system, the rest.
#[derive(Debug)]
pub(crate) struct Live {
    prepared: Option<Prepared>,
    running: Option<Running>,
    root: Option<Arc<Scratch>>,
    place: Place,
    sandboxes: Arc<Sandboxes>,
}

/// Our ends of a command's standard files.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) output: PipeReader,
    pub(crate) error: PipeReader,
    /// Readable when the command has ended.
    pub(crate) readiness: OwnedFd,
}

impl Live {
    /// A sandbox over the image whose root is `lower`.
    pub(crate) fn make(
        sandboxes: &Arc<Sandboxes>,
        lower: &OwnedFd,
        order: &Order,
    ) -> Result<Self, RunError> {
        let sandbox = sandboxes.take(!order.host_network)?;
        let gone = || RunError::unavailable("make a sandbox: it has no place");
        let (prepared, place) = sandbox.into_parts();
        // From here on it is taken down by its drop.
        let mut live = Self {
            prepared: None,
            running: None,
            root: None,
            place,
            sandboxes: Arc::clone(sandboxes),
        };
        let at = live.place.dir().ok_or_else(gone)?.join(SCRATCH);
        match std::fs::create_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RunError::internal("make a directory for a sandbox", &error));
            }
            _ => {}
        }
        let bytes_max = order.bounds.disk_mb << 20;
        let spec = ScratchSpec {
            lower: lower.as_fd(),
            user_namespace: prepared.user_namespace(),
            bytes_max,
            files_max: scratch::files_max(bytes_max),
            medium: ScratchMedium::Memory,
            at: &at,
        };
        let root = Scratch::build(&spec);
        let unusable = |error| RunError::internal("make the sandbox's root file system", &error);
        live.root = Some(Arc::new(root.map_err(unusable)?));
        live.prepared = Some(prepared);
        Ok(live)
    }

    /// The sandbox's ids.
    pub(crate) fn ids(&self) -> Result<IdRange, RunError> {
        self.place.ids().ok_or_else(over)
    }

    /// Its root.
    pub(crate) fn root(&self) -> Result<Arc<Scratch>, RunError> {
        self.root.clone().ok_or_else(over)
    }

    /// Puts files into it.
    pub(crate) fn placer(&self, order: &Order) -> Result<Placer, RunError> {
        let root = self.root()?.root().try_clone_to_owned();
        let root = root.map_err(|error| RunError::internal("open the sandbox's root", &error))?;
        // What is kept in memory counts as the run's memory; some is left for its processes.
        let memory = order.bounds.memory_mb.saturating_sub(MEMORY_MB_MIN);
        let bytes_max = order.bounds.disk_mb.min(memory) << 20;
        Ok(Placer::new(root, self.ids()?, bytes_max))
    }

    /// Starts the command, `placed` bytes of whose memory are taken by the client's files.
    pub(crate) fn start(
        &mut self,
        order: &Order,
        image: &ImageConfig,
        placed: u64,
    ) -> Result<Pipes, RunError> {
        let limits = limits(order, placed);
        let unlimited = |error| RunError::internal("bound the sandbox", &error);
        self.place.limit(&limits).map_err(unlimited)?;
        let root = self.root()?;
        let wanted = order.user.as_deref().unwrap_or(&image.user);
        let user = user::find(root.root(), wanted);
        let user = user.map_err(|error| RunError::invalid(format!("user: {error}")))?;
        let spec = spec(order, image, user)?;
        let no_pipe = |error| RunError::internal("make the command's standard files", &error);
        let (output, their_output) = io::pipe().map_err(no_pipe)?;
        let (error, their_error) = io::pipe().map_err(no_pipe)?;
        let standard = Standard {
            input: File::open("/dev/null").map_err(no_pipe)?.into(),
            output: their_output.into(),
            error: their_error.into(),
        };
        let prepared = self.prepared.take().ok_or_else(over)?;
        let running = prepared.start(&spec, root.root(), Some(&standard));
        let running = running.map_err(|error| not_started(&error, &self.place.usage()))?;
        let readiness = running.readiness().try_clone_to_owned().map_err(no_pipe)?;
        self.running = Some(running);
        self.sandboxes.refill();
        Ok(Pipes {
            output,
            error,
            readiness,
        })
    }

    /// Kills everything in it. Does not block.
    pub(crate) fn kill(&self) {
        if let Some(running) = &self.running {
            running.kill();
        }
    }

    /// Waits until nothing of the command is left; how it ended and what it used.
    pub(crate) fn wait(&mut self) -> Result<(Ended, Usage), RunError> {
        let running = self.running.as_mut().ok_or_else(over)?;
        let ended = running.wait(None);
        let ended = ended.map_err(|error| RunError::internal("wait for the command", &error))?;
        let ended = ended.ok_or_else(over)?;
        Ok((ended, self.place.usage()))
    }

    /// Takes it down, and has its place used again.
    pub(crate) fn end(self) {
        let Self {
            prepared,
            running,
            root,
            place,
            sandboxes,
        } = self;
        let is_over = running.as_ref().is_some_and(Running::is_over);
        drop(prepared);
        drop(running);
        drop(root);
        match is_over {
            true => sandboxes.leave(place),
            false => sandboxes.give_back(place),
        }
    }

    /// Whether changes could still be made.
    pub(crate) fn has_room(&self) -> bool {
        let room = self.root.as_ref().map(|root| root.has_room());
        room.is_none_or(|room| room.unwrap_or(true))
    }
}

/// A step after the last one: a mistake of ours.
fn over() -> RunError {
    RunError::new(tonic::Code::Internal, "the sandbox has ended already")
}

fn limits(order: &Order, placed: u64) -> ResourceLimits {
    let memory = (order.bounds.memory_mb << 20).saturating_sub(placed);
    ResourceLimits {
        cpu_millis: Some(order.bounds.cpu_cores.saturating_mul(1000)),
        memory_bytes: Some(memory.max(MEMORY_MB_MIN << 20)),
        pids: Some(order.bounds.pids),
        ..ResourceLimits::default()
    }
}

fn spec(order: &Order, image: &ImageConfig, user: User) -> Result<Spec, RunError> {
    let argv = image.argv(&order.wanted);
    let argv = argv.map_err(|error| RunError::invalid(format!("command: {error}")))?;
    let defaults = [("HOME", user.home.as_str()), ("HOSTNAME", HOSTNAME)];
    let bytes = |list: Vec<String>| list.into_iter().map(String::into_bytes).collect();
    let directory = order
        .working_dir
        .clone()
        .or_else(|| image.directory.clone());
    Ok(Spec {
        argv: bytes(argv),
        env: bytes(image.env(&order.wanted, &defaults)),
        directory: directory.unwrap_or_else(|| "/".to_owned()).into_bytes(),
        user: user.identity,
        capabilities: order.capabilities.clone(),
        hostname: HOSTNAME.to_owned(),
        terminal: None,
        limits: ProcessLimits {
            // Behind the cgroup's, which counts how often it was hit.
            processes_max: Some(order.bounds.pids.saturating_mul(2)),
            ..ProcessLimits::default()
        },
        files: match order.host_network {
            true => network_files::of_host(),
            false => Vec::new(),
        },
    })
}

/// Whose fault it is: what the image and the request made impossible is the caller's, what this machine lacks is not.
fn not_started(error: &SpawnerError, used: &Usage) -> RunError {
    let said = crate::error::chain(error);
    let is_theirs = match error {
        SpawnerError::Setup { source, .. } => !is_shortage(source) || used.pids_refused > 0,
        SpawnerError::Ended => used.out_of_memory_kills > 0 || used.pids_refused > 0,
        SpawnerError::TooLarge(_) => true,
        SpawnerError::Gone(_) | SpawnerError::Start(_) | SpawnerError::Cgroup(_) => false,
    };
    match is_theirs {
        true => RunError::invalid(said),
        false => RunError::unavailable(said),
    }
}

/// Whether the machine had no more of something.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [
        Errno::NOMEM,
        Errno::NOSPC,
        Errno::AGAIN,
        Errno::MFILE,
        Errno::NFILE,
        Errno::IO,
        Errno::USERS,
    ];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

/// How long ago, microseconds.
pub(crate) fn since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn what_the_machine_lacks_is_not_the_caller_s_fault() {
        let setup = |errno: rustix::io::Errno| SpawnerError::Setup {
            step: "x".into(),
            source: errno.into(),
        };
        let full = Usage {
            pids_refused: 1,
            ..Usage::default()
        };
        let hit = Usage {
            out_of_memory_kills: 1,
            ..Usage::default()
        };
        for (error, used, code) in [
            (
                setup(rustix::io::Errno::NOENT),
                Usage::default(),
                Code::InvalidArgument,
            ),
            (
                setup(rustix::io::Errno::NOSPC),
                Usage::default(),
                Code::Unavailable,
            ),
            (
                setup(rustix::io::Errno::AGAIN),
                Usage::default(),
                Code::Unavailable,
            ),
            (setup(rustix::io::Errno::AGAIN), full, Code::InvalidArgument),
            (SpawnerError::Ended, hit, Code::InvalidArgument),
            (SpawnerError::Ended, Usage::default(), Code::Unavailable),
            (
                SpawnerError::TooLarge(1),
                Usage::default(),
                Code::InvalidArgument,
            ),
        ] {
            assert_eq!(not_started(&error, &used).code(), code, "{error}");
        }
    }
}
