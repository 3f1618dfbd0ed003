//! What `lamina run` takes.

use super::{Instance, StoreAccess};
use clap::{Args, ValueEnum};
use lamina_runtime::Capability;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
#[allow(
    clippy::struct_field_names,
    reason = "a field is named as its option is: --run-dir"
)]
pub(crate) struct Run {
    /// Flist, or an image as for `convert`, which is converted when it is used the first time
    pub(crate) image: String,
    /// Command, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Hand standard input on to the command
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Set a variable, NAME=VALUE, or NAME to take its value from here; repeatable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = variable)]
    pub(crate) env: Vec<String>,
    /// Directory the command starts in, made if it is not there (default: the image's)
    #[arg(short, long, value_name = "DIR", value_parser = directory_inside)]
    pub(crate) workdir: Option<String>,
    /// User, USER[:GROUP], names of the image or numbers (default: the image's)
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Let root inside do what needs this capability, over its own files and processes; ALL for what installing
    /// packages takes; repeatable
    #[arg(long, value_name = "CAPABILITY", value_parser = Capability::parse)]
    pub(crate) cap_add: Vec<Vec<Capability>>,
    /// Program to run instead of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// What the machine is called inside
    #[arg(long, default_value = "lamina", value_parser = hostname)]
    pub(crate) hostname: String,
    /// Network: nothing but a loopback, or this machine's
    #[arg(long, value_enum, default_value_t)]
    pub(crate) net: Net,
    #[command(flatten)]
    pub(crate) limits: Limits,
    /// Write what was changed as the layer of an image, a tar.gz
    #[arg(long, value_name = "FILE")]
    pub(crate) diff: Option<PathBuf>,
    /// Write the image with what was changed over it as a flist, whatever the command's exit code; only what is new is
    /// stored
    #[arg(long, value_name = "FILE")]
    pub(crate) commit: Option<PathBuf>,
    /// Store for what --commit finds new, as for `pack`; repeat to replicate (default: that of the state directory)
    #[arg(long = "commit-store", value_name = "STORE", requires = "commit")]
    pub(crate) commit_stores: Vec<String>,
    #[command(flatten)]
    pub(crate) instance: Instance,
    /// Read from these stores instead of those named in the flist
    #[arg(short, long = "store", value_name = "STORE")]
    pub(crate) stores: Vec<String>,
    #[command(flatten)]
    pub(crate) access: StoreAccess,
}

/// What the command may use.
#[derive(Debug, Args)]
pub(crate) struct Limits {
    /// Processors, e.g. 1.5 (default: all)
    #[arg(long, value_name = "N", value_parser = cpu_millis)]
    pub(crate) cpus: Option<u64>,
    /// Most memory, page cache and changes kept in memory included, e.g. 2GiB; no swap (default: no limit)
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub(crate) memory: Option<u64>,
    /// Most processes and threads
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(2..=4_194_304))]
    pub(crate) pids: u64,
    /// Most changes to files
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = disk)]
    pub(crate) disk: u64,
    /// Where changes are kept while the command runs
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scratch: Scratch,
    /// With `--scratch disk`: most bytes a second from the disk of the changes; needs cgroups of version 2
    #[arg(long, value_name = "SIZE", value_parser = bytes_a_second)]
    pub(crate) io_read_bps: Option<u64>,
    /// The same of bytes to it
    #[arg(long, value_name = "SIZE", value_parser = bytes_a_second)]
    pub(crate) io_write_bps: Option<u64>,
    /// Kill everything after this long, e.g. 30s
    #[arg(long, value_name = "TIME", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Net {
    /// Nothing but a loopback
    #[default]
    None,
    /// The network of the machine it runs on, shared
    Host,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub(crate) enum Scratch {
    /// Memory, as it is written
    #[default]
    Memory,
    /// The disk of the run directory, all of --disk from the start
    Disk,
}

/// A variable with its value, or to be taken from here.
pub(super) fn variable(text: &str) -> Result<String, String> {
    match text.starts_with('=') || text.is_empty() {
        true => Err("give NAME=VALUE, or NAME to take its value from here".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// A directory of the command's file system.
pub(super) fn directory_inside(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("give a path that begins with `/`".to_owned()),
    }
}

/// Processors as people say them, `0.5`.
#[allow(clippy::cast_sign_loss, reason = "the range is checked first")]
fn cpu_millis(text: &str) -> Result<u64, String> {
    let cpus: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    match cpus {
        cpus if (0.01..=10_000.0).contains(&cpus) => Ok((cpus * 1000.0).round() as u64),
        _ => Err("give 0.01 to 10000".to_owned()),
    }
}

/// Less than this does not hold a process and its page tables.
const MEMORY_MIN: u64 = 4 << 20;

fn memory(text: &str) -> Result<u64, String> {
    match crate::output::parse_size(text)? {
        bytes if bytes >= MEMORY_MIN => Ok(bytes),
        _ => Err("give 4MiB or more".to_owned()),
    }
}

/// Less does not hold the directories that a union needs.
const DISK_MIN: u64 = 64 << 10;

fn disk(text: &str) -> Result<u64, String> {
    match crate::output::parse_size(text)? {
        bytes if bytes >= DISK_MIN => Ok(bytes),
        _ => Err("give 64KiB or more".to_owned()),
    }
}

/// Slower than this, nothing gets done that is worth waiting for.
const BPS_MIN: u64 = 4 << 10;

fn bytes_a_second(text: &str) -> Result<u64, String> {
    match crate::output::parse_size(text)? {
        bytes if bytes >= BPS_MIN => Ok(bytes),
        _ => Err("give 4KiB or more".to_owned()),
    }
}

/// As the kernel takes it.
fn hostname(text: &str) -> Result<String, String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    match !text.is_empty() && text.len() <= 64 && text.chars().all(is_fine) {
        true => Ok(text.to_owned()),
        false => Err("give 1 to 64 letters, digits, `-` and `.`".to_owned()),
    }
}
