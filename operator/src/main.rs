//! `lamina-operator`: what is given on its command line.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lamina_operator::{RunConfig, apply, cleanup, run};

/// Makes the cluster match Lamina's objects.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Reconciles until it is told to stop; of several, one leads
    Run {
        /// Lamina's namespace
        #[arg(long, env = "POD_NAMESPACE", default_value = "lamina-system")]
        namespace: String,
        /// Where /metrics, /healthz and /readyz are served
        #[arg(long, default_value = "0.0.0.0:8080")]
        http: SocketAddr,
        /// Where nodes ask for certificates
        #[arg(long, default_value = "0.0.0.0:7160")]
        certificates: SocketAddr,
        /// Name of this one among several
        #[arg(long, env = "POD_NAME", default_value = "lamina-operator")]
        identity: String,
        /// HOST:PORT of the proxy that finds nodes for the runs of Jobs (default: the Service lamina-proxy)
        #[arg(long)]
        proxy: Option<String>,
        /// Have Jobs with the label kueue.x-k8s.io/queue-name wait for Kueue, by a Workload of each
        #[arg(long)]
        kueue: bool,
    },
    /// Applies the objects of a file and waits for Lamina to be ready
    Apply {
        /// YAML documents
        #[arg(long)]
        file: PathBuf,
        /// How long to wait, such as 240s
        #[arg(long, default_value = "240s", value_parser = seconds)]
        timeout: Duration,
    },
    /// Takes Lamina off the nodes before it is uninstalled
    Cleanup {
        /// Lamina's namespace
        #[arg(long, env = "POD_NAMESPACE", default_value = "lamina-system")]
        namespace: String,
        /// How long to wait, such as 240s
        #[arg(long, default_value = "240s", value_parser = seconds)]
        timeout: Duration,
    },
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("`{text}` is not a time in seconds: use one like 240s"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Log files are searched: no colours in them.
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match Args::parse().verb {
        Verb::Run {
            namespace,
            http,
            certificates,
            identity,
            proxy,
            kueue,
        } => {
            run(RunConfig {
                namespace,
                http,
                certificates,
                identity,
                proxy,
                kueue,
            })
            .await
        }
        Verb::Apply { file, timeout } => apply::run(&file, timeout).await,
        Verb::Cleanup { namespace, timeout } => cleanup::run(&namespace, timeout).await,
    }
}
