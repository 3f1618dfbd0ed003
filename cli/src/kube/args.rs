//! What a person may type after `kubectl lamina` or `lamina k8s`. No behaviour here.

use crate::args::Output;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Lamina in a Kubernetes cluster: what runs, what is wrong, what pods read.
#[derive(Debug, Parser)]
#[command(name = "kubectl-lamina", bin_name = "kubectl lamina", version, propagate_version = true, after_help = crate::args::EXIT_CODES)]
pub(crate) struct Plugin {
    /// Say more on standard error (repeat for debug output)
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
    #[command(flatten)]
    pub(crate) k8s: K8s,
}

#[derive(Debug, Args)]
pub(crate) struct K8s {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which cluster, and where in it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Kubeconfig (default: as kubectl finds it)
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
    /// Namespace of pods and secrets (default: the context's)
    #[arg(short, long, global = true)]
    pub(crate) namespace: Option<String>,
    /// Namespace Lamina is installed in
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "LAMINA_SYSTEM_NAMESPACE",
        default_value = "lamina-system",
        global = true
    )]
    pub(crate) system: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show workloads, conditions, objects and nodes
    Status(Shown),
    /// Look for what is wrong, with a fix for each finding
    Doctor(Shown),
    /// Show what nodes, or volumes, hold and fetch
    Top(Top),
    /// List a directory of an image, without a pod
    Ls(Ls),
    /// Print a file of an image, without a pod
    Cat(Cat),
    /// Bring an image's data to nodes before anybody asks
    Prefetch(Prefetch),
    /// Tell what became of a pod's volumes: scheduled, mounted, read, warm
    Explain(Explain),
    /// Print the last lines that a Job's command wrote
    Logs(Logs),
    /// List the Flists that a Job's runs left (keepDiff), or what one of them changed
    Diff(Diff),
    /// Collect what is needed to find a fault into one file, without secrets
    Report(Report),
}

#[derive(Debug, Args)]
pub(crate) struct Shown {
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Top {
    /// What to list
    #[arg(value_enum, default_value_t)]
    pub(crate) what: TopOf,
    /// Show hit rates by tier: page, disk, peer, store, registry
    #[arg(long)]
    pub(crate) tiers: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Default)]
pub(crate) enum TopOf {
    /// A line for each node
    #[default]
    Nodes,
    /// A line for each volume
    Volumes,
}

/// How an image is reached.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// os/arch[/variant] (default: the node's)
    #[arg(long)]
    pub(crate) platform: Option<String>,
    /// Secret of the namespace (type kubernetes.io/dockerconfigjson) to pull with
    #[arg(long, value_name = "NAME")]
    pub(crate) pull_secret: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// `IMAGE:/PATH`; IMAGE is a reference, or a flist's digest (64 hex digits)
    pub(crate) path: super::tree::ImagePath,
    /// Mode, owner, size, time
    #[arg(short, long)]
    pub(crate) long: bool,
    /// Node to ask (default: one that has it)
    #[arg(long)]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) pull: Pull,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// `IMAGE:/PATH`; IMAGE is a reference, or a flist's digest (64 hex digits)
    pub(crate) path: super::tree::ImagePath,
    /// Node to ask (default: one that has it)
    #[arg(long)]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) pull: Pull,
}

#[derive(Debug, Args)]
pub(crate) struct Prefetch {
    /// Reference of an image, or a flist's digest (64 hex digits)
    pub(crate) image: String,
    /// Nodes to bring it to, separated by commas (default: all)
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    pub(crate) nodes: Vec<String>,
    /// Only what the access profile names
    #[arg(long)]
    pub(crate) profile: bool,
    /// Give up after this long; nodes go on
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = crate::output::parse_duration)]
    pub(crate) timeout: std::time::Duration,
    #[command(flatten)]
    pub(crate) pull: Pull,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// Name of the pod
    pub(crate) pod: String,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Name of the Job
    pub(crate) job: String,
    /// Of this attempt (default: of the run that ended last)
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// Name of the Job
    pub(crate) job: String,
    /// Show what the run of this index changed
    #[arg(long, value_name = "N")]
    pub(crate) index: Option<i32>,
    /// Node to compare on (default: the one it ran on)
    #[arg(long, requires = "index")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Report {
    /// File to write (default: lamina-report-TIME.tar.gz here)
    #[arg(short = 'f', long = "out", value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Most bytes of one container's log
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = crate::output::parse_size)]
    pub(crate) log_bytes: u64,
}
