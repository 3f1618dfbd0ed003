//! What `lamina proxy` and `lamina status` take, and how proxies are reached.

use super::{Output, absolute_dir};
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Proxy {
    /// Serve here; beyond this machine only with --tls-dir or --insecure
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7180")]
    pub(crate) listen: SocketAddr,
    /// Serve /status, /metrics, /healthz and /readyz here
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7181")]
    pub(crate) http: SocketAddr,
    /// Afslet that runs are given to; a name stands for all its addresses, which are looked up again and again;
    /// repeatable
    #[arg(long = "afslet", value_name = "HOST:PORT", required = true)]
    pub(crate) afslets: Vec<String>,
    /// Discovery that knows layerstores and images; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) discovery: Vec<String>,
    /// How long runs may go on after SIGTERM, then they are cut off
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = crate::output::parse_duration)]
    pub(crate) drain_timeout: Duration,
    /// Directory of tls.crt, tls.key and ca.crt; read again when they change. Clients need a certificate of the
    /// authority for user.lamina.internal or client.lamina.internal
    #[arg(long, value_name = "DIR", value_parser = absolute_dir())]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Serve anybody, without TLS, and speak to afslets without
    #[arg(long, conflicts_with = "tls_dir")]
    pub(crate) insecure: bool,
}

/// A proxy to be called.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// Proxy to ask (default: that of `lamina up` on this machine, with the certificate that it made)
    #[arg(long, value_name = "HOST:PORT", env = "LAMINA_PROXY")]
    pub(crate) proxy: Option<String>,
    /// Directory of tls.crt, tls.key and ca.crt: our certificate, and the authority of the proxy's
    #[arg(long, value_name = "DIR", env = "LAMINA_TLS_DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}
