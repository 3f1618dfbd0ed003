//! The files of one cgroup, by version.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, IoLimit, ResourceLimits, Usage, io_error};

/// Time slices of the processor limit, microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The kernel refuses shorter ones.
const QUOTA_MIN_US: u64 = 1_000;

/// A controller that a limit needs.
pub(super) struct Need {
    pub(super) controller: &'static str,
    pub(super) what: &'static str,
}

pub(super) fn needs(limits: &ResourceLimits) -> Vec<Need> {
    let all = [
        (limits.cpu_millis, "cpu", "processor time"),
        (limits.memory_bytes, "memory", "memory"),
        (limits.pids, "pids", "processes"),
        (limits.io.map(|_| 0), "io", "disk speed"),
    ];
    let asked = all.into_iter().filter(|(limit, ..)| limit.is_some());
    asked
        .map(|(_, controller, what)| Need { controller, what })
        .collect()
}

#[derive(Debug)]
pub(super) enum Files {
    /// Directories by controller; the same one may be there twice.
    Version1(BTreeMap<String, PathBuf>),
    Version2(PathBuf),
}

impl Files {
    /// Every directory once.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &Path> {
        let mut dirs: Vec<&Path> = match self {
            Self::Version1(controllers) => controllers.values().map(PathBuf::as_path).collect(),
            Self::Version2(dir) => vec![dir],
        };
        dirs.sort_unstable();
        dirs.dedup();
        dirs.into_iter()
    }

    pub(super) fn limit(&self, limits: &ResourceLimits) -> Result<(), CgroupError> {
        if let Some(millis) = limits.cpu_millis {
            let quota = (millis * PERIOD_US / 1000).max(QUOTA_MIN_US);
            let (file, value) = match self {
                Self::Version1(_) => ("cpu.cfs_quota_us", quota.to_string()),
                Self::Version2(_) => ("cpu.max", format!("{quota} {PERIOD_US}")),
            };
            self.write("cpu", file, &value)?;
        }
        if let Some(bytes) = limits.memory_bytes {
            self.limit_memory(bytes)?;
        }
        if let Some(pids) = limits.pids {
            self.write("pids", "pids.max", &pids.to_string())?;
        }
        match &limits.io {
            Some(io) => self.write("io", "io.max", &io_max(io)),
            None => Ok(()),
        }
    }

    fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let text = bytes.to_string();
        match self {
            Self::Version1(_) => {
                self.write("memory", "memory.limit_in_bytes", &text)?;
                // With swap: not there where the kernel does not count it.
                if_there(self.write("memory", "memory.memsw.limit_in_bytes", &text))
            }
            Self::Version2(_) => {
                self.write("memory", "memory.max", &text)?;
                if_there(self.write("memory", "memory.swap.max", "0"))?;
                // A sandbox with holes helps nobody.
                if_there(self.write("memory", "memory.oom.group", "1"))
            }
        }
    }

    pub(super) fn usage(&self) -> Usage {
        match self {
            Self::Version1(_) => Usage {
                cpu_us: self.number("cpuacct", "cpuacct.usage") / 1000,
                memory_peak_bytes: self.number("memory", "memory.max_usage_in_bytes"),
                out_of_memory_kills: self.field("memory", "memory.oom_control", "oom_kill"),
                pids_refused: self.field("pids", "pids.events", "max"),
            },
            Self::Version2(_) => Usage {
                cpu_us: self.field("cpu", "cpu.stat", "usage_usec"),
                memory_peak_bytes: self.number("memory", "memory.peak"),
                out_of_memory_kills: self.field("memory", "memory.events", "oom_kill"),
                pids_refused: self.field("pids", "pids.events", "max"),
            },
        }
    }

    fn path(&self, controller: &str, file: &str) -> Option<PathBuf> {
        match self {
            Self::Version1(controllers) => controllers.get(controller).map(|dir| dir.join(file)),
            Self::Version2(dir) => Some(dir.join(file)),
        }
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<(), CgroupError> {
        let Some(path) = self.path(controller, file) else {
            return Ok(());
        };
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(io_error("setting a limit in", &path))
    }

    fn text(&self, controller: &str, file: &str) -> String {
        let path = self.path(controller, file);
        path.and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default()
    }

    /// 0 where this kernel does not count it.
    fn number(&self, controller: &str, file: &str) -> u64 {
        self.text(controller, file).trim().parse().unwrap_or(0)
    }

    fn field(&self, controller: &str, file: &str, name: &str) -> u64 {
        let text = self.text(controller, file);
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        found.unwrap_or(0)
    }
}

/// As `io.max` takes it (`Documentation/admin-guide/cgroup-v2.rst`).
fn io_max(io: &IoLimit) -> String {
    let bps = |bps: Option<u64>| bps.map_or("max".to_owned(), |bps| bps.to_string());
    let (major, minor) = io.device;
    let (read, write) = (bps(io.read_bps), bps(io.write_bps));
    format!("{major}:{minor} rbps={read} wbps={write}")
}

/// Passes over a file that this kernel does not have.
fn if_there(written: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match written {
        Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_speed_is_told_as_the_kernel_reads_it() {
        let io = IoLimit {
            device: (7, 3),
            read_bps: None,
            write_bps: Some(1 << 20),
        };
        assert_eq!(io_max(&io), "7:3 rbps=max wbps=1048576");
    }
}
