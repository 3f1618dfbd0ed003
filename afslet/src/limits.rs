//! What this node gives to runs, and what one run may have of it. Decided at start.

use std::time::Duration;

/// Bounds of an afslet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processors of all runs together.
    pub cpu_cores: u64,
    /// Mebibytes of memory of all runs together.
    pub memory_mb: u64,
    /// Runs at one time.
    pub runs: usize,
    /// Most mebibytes of changes of one run, and what one has that does not say.
    pub disk_mb: u64,
    /// Most processes and threads of one run, and what one has that does not say.
    pub pids: u64,
    /// Longest time of one run, and that of one that does not say.
    pub timeout: Duration,
    /// Most bytes of logs of one run.
    pub log_bytes: u64,
    /// Images kept mounted while nobody uses them.
    pub images: usize,
    /// Runs may ask for this machine's network.
    pub host_network: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_cores: 1,
            memory_mb: 1024,
            runs: 256,
            disk_mb: 2048,
            pids: 4096,
            timeout: Duration::from_secs(3600),
            log_bytes: 256 << 20,
            images: 64,
            host_network: false,
        }
    }
}

/// A bound in bytes as callers are told of it: in mebibytes where those are whole.
pub(crate) fn size(bytes: u64) -> String {
    match bytes % (1 << 20) {
        0 => format!("{} MiB", bytes >> 20),
        _ => format!("{bytes} bytes"),
    }
}
