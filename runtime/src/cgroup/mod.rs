//! A sandbox's cgroups: what it may use, what it used, and which limit it hit. Version 1 and 2.
//!
//! What always holds: a cgroup is made below the one this process is in (version 2: below the nearest one that may have
//! children), so what bounds us bounds sandboxes, too; dropping it kills what is in it and removes it.

mod find;
mod tree;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use find::Cgroups;
use rustix::fs::{Mode, OFlags};
use tree::Files;

/// How long killed processes may take to leave a cgroup.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to remove one.
const REMOVE_PAUSE: Duration = Duration::from_millis(1);

/// What a sandbox may use, all of its processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Thousandths of a processor's time.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory, page cache and memory files included; no swap beside it.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Speed of a disk.
    pub io: Option<IoLimit>,
}

/// How fast a block device may be used. Writes count although they go through the page cache, which only version 2 can do: with
/// version 1 there is no such limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoLimit {
    /// Its major and minor number.
    pub device: (u32, u32),
    /// Bytes a second from it.
    pub read_bps: Option<u64>,
    /// Bytes a second to it.
    pub write_bps: Option<u64>,
}

/// What a sandbox used, as far as this machine counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, microseconds.
    pub cpu_us: u64,
    /// Most bytes of memory at once.
    pub memory_peak_bytes: u64,
    /// Processes killed for want of memory.
    pub out_of_memory_kills: u64,
    /// Times a process could not be made because there were too many.
    pub pids_refused: u64,
}

/// Cgroups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// A limit needs a controller that this machine does not give us.
    #[error(
        "this machine offers no cgroup controller `{controller}` here, which a limit of {what} needs: leave that limit \
         away, or run where cgroups can be made"
    )]
    Missing {
        /// The controller.
        controller: &'static str,
        /// What it limits.
        what: &'static str,
    },
    /// A file or directory of the cgroup file system.
    #[error("{what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

pub(crate) fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> CgroupError + 'a {
    move |source| CgroupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

/// One sandbox's cgroup, in every hierarchy that is used.
#[derive(Debug)]
pub struct Cgroup {
    files: Files,
    is_removed: bool,
}

impl Cgroup {
    /// Puts a process into it, and with that whatever it starts from then on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn add(&self, pid: i32) -> Result<(), CgroupError> {
        self.files.dirs().try_for_each(|dir| {
            let path = dir.join("cgroup.procs");
            std::fs::write(&path, pid.to_string()).map_err(io_error("adding a process to", &path))
        })
    }

    /// What processes can be made in it by (`CLONE_INTO_CGROUP`), where one directory is all of it: version 2.
    pub(crate) fn entrance(&self) -> Result<Option<OwnedFd>, CgroupError> {
        let Files::Version2(dir) = &self.files else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty());
        let opened = opened.map_err(|errno| io_error("opening", dir)(errno.into()));
        opened.map(Some)
    }

    /// Sets limits, in place of those it has; what is not limited stays as it is.
    ///
    /// # Errors
    /// When the kernel refuses, as it does for less memory than is in use.
    pub fn limit(&self, limits: &ResourceLimits) -> Result<(), CgroupError> {
        self.files.limit(limits)
    }

    /// What was used until now.
    pub fn usage(&self) -> Usage {
        self.files.usage()
    }

    /// Kills what is in it and removes it.
    ///
    /// # Errors
    /// When processes do not die in time.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        self.is_removed = true;
        self.take_down()
    }

    fn take_down(&self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        self.files.dirs().try_for_each(|dir| remove(dir, deadline))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.is_removed
            && let Err(error) = self.take_down()
        {
            tracing::warn!(%error, "remove a cgroup");
        }
    }
}

fn remove(dir: &Path, deadline: Instant) -> Result<(), CgroupError> {
    loop {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(io_error("removing", dir)(error));
            }
            Err(error) if Instant::now() >= deadline => {
                return Err(io_error("removing", dir)(error));
            }
            Err(_) => kill_all(dir),
        }
        std::thread::sleep(REMOVE_PAUSE);
    }
}

fn kill_all(dir: &Path) {
    let procs = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let pids = procs.lines().filter_map(|line| line.parse().ok());
    for pid in pids.filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
