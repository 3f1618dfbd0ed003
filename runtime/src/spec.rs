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
    /// What it may do beyond its own files if it is root inside; nothing, for programs that need nothing.
    pub capabilities: Vec<Capability>,
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

/// A capability over what is the sandbox's own (`capabilities(7)`): all that can be asked for. None of them reaches anything
/// of the host, whose ids, processes and devices are in other namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "named as in capabilities(7)")]
pub enum Capability {
    Chown,
    DacOverride,
    Fowner,
    Fsetid,
    Kill,
    NetBindService,
    Setfcap,
    Setgid,
    Setuid,
}

impl Capability {
    /// All that there are; together what installing packages takes.
    pub const ALL: [Self; 9] = [
        Self::Chown,
        Self::DacOverride,
        Self::Fowner,
        Self::Fsetid,
        Self::Kill,
        Self::NetBindService,
        Self::Setfcap,
        Self::Setgid,
        Self::Setuid,
    ];

    /// Its name, without `CAP_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chown => "CHOWN",
            Self::DacOverride => "DAC_OVERRIDE",
            Self::Fowner => "FOWNER",
            Self::Fsetid => "FSETID",
            Self::Kill => "KILL",
            Self::NetBindService => "NET_BIND_SERVICE",
            Self::Setfcap => "SETFCAP",
            Self::Setgid => "SETGID",
            Self::Setuid => "SETUID",
        }
    }

    /// Those that `text` asks for: a name in any case, with or without `CAP_`, or `ALL`.
    ///
    /// # Errors
    /// When there is none of that name, or none that a sandbox may have; says which there are.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(Self::ALL.to_vec());
        }
        let found = Self::ALL.into_iter().find(|known| known.name() == name);
        found.map(|found| vec![found]).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no capability that a sandbox may have; give ALL, or of {names}")
        })
    }
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
