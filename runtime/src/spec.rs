//! What is run in a sandbox: plain data, complete, decided before anything is made.

use serde::{Deserialize, Serialize};

pub use crate::sys::tty::WindowSize;

/// Most bytes of a spec: command line and environment, which the kernel bounds by 6 MiB (`execve(2)`).
pub(crate) const SPEC_MAX: u64 = 16 << 20;

/// A command and how it finds its world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments; a program without `/` is looked for along `PATH` of `env`.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=VALUE` each.
    pub env: Vec<Vec<u8>>,
    /// Where it starts; made if missing.
    pub directory: Vec<u8>,
    /// Who it is.
    pub user: Identity,
    /// What the machine is called.
    pub hostname: String,
    /// Give it a terminal of its own, of this size, instead of standard files.
    pub terminal: Option<WindowSize>,
    /// Limits of one process.
    pub limits: ProcessLimits,
    /// Small files that are shown read-only in place of the image's.
    pub files: Vec<ShownFile>,
}

/// A user of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id inside.
    pub uid: u32,
    /// Group id inside.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// Limits of one process (`setrlimit(2)`); what the spawner itself may not do stays forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// Most open files; the soft limit stays 1,024 below it, as programs expect.
    pub open_files_max: u64,
    /// Most processes and threads of this user in the sandbox; a second line behind the cgroup's.
    pub processes_max: Option<u64>,
}

impl Default for ProcessLimits {
    fn default() -> Self {
        Self {
            open_files_max: 524_288,
            processes_max: None,
        }
    }
}

/// A file that comes from outside the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownFile {
    /// Where, absolute.
    pub path: String,
    /// What is in it.
    pub content: Vec<u8>,
}
