//! What `lamina afslet` takes.

use super::{RunDir, absolute_dir};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Afslet {
    /// Serve here; beyond this machine only with --tls-dir or --insecure
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7170")]
    pub(crate) listen: SocketAddr,
    /// Socket of this machine's `lamina node`
    #[arg(long, value_name = "PATH", default_value = "/run/lamina/node.sock")]
    pub(crate) node_socket: PathBuf,
    /// Where images are mounted; below `plugins` or `pods` of the node's --kubelet-dir
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/kubelet/plugins/afslet.lamina.dev",
        value_parser = absolute_dir()
    )]
    pub(crate) volumes: PathBuf,
    #[command(flatten)]
    pub(crate) instance: RunDir,
    /// Name of the node (default: the machine's)
    #[arg(long = "node", value_name = "NAME", env = "NODE_NAME")]
    pub(crate) name: Option<String>,
    /// Processors of all runs together (default: the machine's)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) cpu: Option<u64>,
    /// Mebibytes of memory of all runs together (default: the machine's)
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub(crate) memory: Option<u64>,
    /// Most mebibytes of changes of one run, kept in its memory; also of one that does not say
    #[arg(long, value_name = "MB", default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..=1 << 24))]
    pub(crate) disk_mb_max: u64,
    /// Most processes and threads of one run; also of one that does not say
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u64).range(2..=4_194_304))]
    pub(crate) pids_max: u64,
    /// Longest time of one run; also of one that does not say
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::output::parse_duration)]
    pub(crate) timeout_max: Duration,
    /// Most bytes of logs of one run, which is killed when it writes more
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = crate::output::parse_size)]
    pub(crate) log_bytes_max: u64,
    /// Most runs at one time
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=3_500))]
    pub(crate) runs_max: u64,
    /// Most images kept mounted that no run uses
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub(crate) images_max: u64,
    /// Sandboxes made ahead, a megabyte each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(0..=256))]
    pub(crate) warm: u64,
    /// Let runs have this machine's network when they ask for it
    #[arg(long)]
    pub(crate) allow_host_network: bool,
    /// How long runs may go on after SIGTERM, then they are killed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::output::parse_duration)]
    pub(crate) drain_timeout: Duration,
    /// Directory of tls.crt, tls.key and ca.crt; read again when they change. Clients need a certificate of the
    /// authority for client.lamina.internal
    #[arg(long, value_name = "DIR", value_parser = absolute_dir())]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Serve anybody, without TLS
    #[arg(long, conflicts_with = "tls_dir")]
    pub(crate) insecure: bool,
    /// Serve /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
}
