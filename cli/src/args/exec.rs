//! What `lamina exec` takes.

use super::proxy::Reach;
use super::run::Net;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Image, a registry reference; or `flist:` and the digest of one that the nodes' stores have
    pub(crate) image: String,
    /// Command, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Processors, reserved for it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) cpu: u32,
    /// Memory, reserved for it; its files and changes are in it
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = mebibytes)]
    pub(crate) memory: i64,
    /// Most changes to files (default: the afslet's)
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) disk: Option<i64>,
    /// Most processes and threads (default: the afslet's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4_194_304))]
    pub(crate) pids: Option<u32>,
    /// Kill everything after this long, e.g. 60s (default: the afslet's)
    #[arg(long, value_name = "TIME", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Set a variable, NAME=VALUE, or NAME to take its value from here; repeatable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    pub(crate) env: Vec<String>,
    /// Directory the command starts in (default: the image's)
    #[arg(short, long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// User, USER[:GROUP], names of the image or numbers (default: the image's)
    #[arg(short, long)]
    pub(crate) user: Option<String>,
    /// Let root inside do what needs this capability, over its own files and processes; ALL for what installing
    /// packages takes; repeatable
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) cap_add: Vec<String>,
    /// Program to run instead of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Network: nothing but a loopback, or that of its node
    #[arg(long, value_enum, default_value_t)]
    pub(crate) net: Net,
    /// Put this directory there with all that is in it (default: its name, below /); repeatable. Links are links
    #[arg(long, value_name = "DIR[:/PATH]")]
    pub(crate) upload: Vec<String>,
    /// Put this file there; repeatable
    #[arg(long, value_name = "FILE:/PATH")]
    pub(crate) file: Vec<String>,
    /// Write what was changed as the layer of an image, a tar.gz
    #[arg(long, value_name = "FILE")]
    pub(crate) diff: Option<PathBuf>,
    /// Run on this node only
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Platform, `os/arch[/variant]` (default: that of the node)
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Ask the registry anew what the tag stands for
    #[arg(long)]
    pub(crate) pull: bool,
    /// Docker configuration with credentials for the image's registry (default: none)
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_config: Option<PathBuf>,
    /// How often a place is looked for again when there is none; 0 for not at all (default: the proxy's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(crate) retries: Option<u32>,
}

const MIB: u64 = 1 << 20;

/// As the contract has it: whole ones, rounded up.
fn mebibytes(text: &str) -> Result<i64, String> {
    match crate::output::parse_size(text)? {
        0..MIB => Err("give 1MiB or more".to_owned()),
        bytes => i64::try_from(bytes.div_ceil(MIB)).map_err(|_| "too much".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_mebibytes() {
        assert_eq!(mebibytes("512M"), Ok(512));
        assert_eq!(mebibytes("1.5MiB"), Ok(2));
        assert_eq!(mebibytes("2GiB"), Ok(2048));
        assert!(mebibytes("512").unwrap_err().contains("1MiB"));
    }
}
