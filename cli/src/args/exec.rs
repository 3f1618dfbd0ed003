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
    /// Image in a registry, HOST/NAME:TAG or HOST/NAME@DIGEST; or `flist:` and the digest of one in the nodes' stores
    pub(crate) image: String,
    /// Command and its words, after `--`, instead of the image's command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
    /// Processors to reserve for it; it gets no more
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) cpu: u32,
    /// Memory to reserve for it; it gets no more. Uploaded and changed files are kept in it, too
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = mebibytes)]
    pub(crate) memory: i64,
    /// Most bytes of changed files, uploaded ones included (default: the node's limit)
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    pub(crate) disk: Option<i64>,
    /// Most processes and threads (default: the node's limit)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4_194_304))]
    pub(crate) pids: Option<u32>,
    /// Kill it after this long, e.g. 60s (default: the node's limit)
    #[arg(long, value_name = "TIME", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: Option<Duration>,
    /// Set a variable, NAME=VALUE, or NAME to take its value from here; repeatable
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = super::run::variable)]
    pub(crate) env: Vec<String>,
    /// Directory the command starts in, made if it is not there (default: the image's)
    #[arg(short, long, value_name = "DIR", value_parser = super::run::directory_inside)]
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
    /// Network it sees; a node must allow `host`
    #[arg(long, value_enum, default_value_t)]
    pub(crate) net: Net,
    /// Copy a directory from here into its file system, to PATH (default: / and the directory's name); symbolic links
    /// stay links; repeatable
    #[arg(long, value_name = "DIR[:/PATH]")]
    pub(crate) upload: Vec<String>,
    /// Copy a file from here to PATH in its file system; repeatable
    #[arg(long, value_name = "FILE:/PATH")]
    pub(crate) file: Vec<String>,
    /// Write the files that it added, changed and deleted, uploaded ones included, to FILE here: a tar.gz, as a layer of an image
    #[arg(long, value_name = "FILE")]
    pub(crate) diff: Option<PathBuf>,
    /// Run on this node only, by its name in `lamina status`
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Platform, `os/arch[/variant]` (default: that of the node)
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Ask the registry anew what the tag stands for; nodes otherwise believe what they know for some minutes
    #[arg(long)]
    pub(crate) pull: bool,
    /// Docker's config.json with credentials for the image's registry; sent with this run, kept nowhere (default: none)
    #[arg(long, value_name = "FILE")]
    pub(crate) registry_config: Option<PathBuf>,
    /// How often to look again for a node with room; 0 gives up at once (default: the proxy's, 20)
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
