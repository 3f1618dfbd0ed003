//! `kubectl lamina`: Lamina in a cluster, seen from a desk. The program is `lamina` under another name.
//!
//! Each verb gathers what the API server and the nodes say, decides in pure functions, and prints. Nothing
//! in the cluster is changed, except that nodes convert and fetch what `ls`, `cat` and `prefetch` name.

pub(crate) mod args;
mod check;
mod cluster;
mod diff;
mod discovery;
mod doctor;
mod explain;
mod fault;
mod logs;
mod node;
mod objects;
mod page;
mod prefetch;
mod redact;
mod report;
mod status;
mod top;
mod tree;

pub(crate) use fault::{Fault, Kind, chain as message_of, kind_of};

use crate::args::{Cli, Command};
use ::clap::Parser as _;
use anyhow::Result;
use args::{K8s, Plugin, Verb};
use std::ffi::OsStr;
use std::path::Path;

/// File name of the program by which kubectl finds it as `kubectl lamina`.
const PLUGIN: &str = "kubectl-lamina";

/// The command line: of kubectl's plugin, if the program was started under that name.
pub(crate) fn parse() -> Cli {
    let name = std::env::args_os().next().unwrap_or_default();
    match is_plugin(&name) {
        true => from_plugin(Plugin::parse()),
        false => Cli::parse(),
    }
}

fn is_plugin(name: &OsStr) -> bool {
    Path::new(name).file_stem() == Some(OsStr::new(PLUGIN))
}

fn from_plugin(plugin: Plugin) -> Cli {
    Cli {
        verbose: plugin.verbose,
        command: Command::K8s(plugin.k8s),
    }
}

/// Runs one verb.
pub(crate) async fn run(args: &K8s) -> Result<()> {
    let cluster = cluster::Cluster::connect(&args.place).await?;
    match &args.verb {
        Verb::Status(args) => status::status(&cluster, args).await,
        Verb::Ls(args) => tree::ls(&cluster, args).await,
        Verb::Cat(args) => tree::cat(&cluster, args).await,
        Verb::Doctor(args) => doctor::doctor(&cluster, args).await,
        Verb::Report(args) => report::report(&cluster, args).await,
        Verb::Top(args) => top::top(&cluster, args).await,
        Verb::Prefetch(args) => prefetch::prefetch(&cluster, args).await,
        Verb::Logs(args) => logs::logs(&cluster, args).await,
        Verb::Diff(args) => diff::diff(&cluster, args).await,
        Verb::Explain(args) => explain::explain(&cluster, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_decides() {
        assert!(is_plugin(OsStr::new("/usr/local/bin/kubectl-lamina")));
        assert!(!is_plugin(OsStr::new("/usr/local/bin/lamina")));
    }

    #[test]
    fn the_plugin_and_the_hidden_verb_read_the_same_words() {
        let words = ["explain", "web", "-n", "shop", "--context", "test"];
        let plugin = Plugin::try_parse_from([&["kubectl-lamina"], &words[..]].concat()).unwrap();
        let verb = Cli::try_parse_from([&["lamina", "k8s"], &words[..]].concat()).unwrap();
        let said = |cli: Cli| format!("{:?}", cli.command);
        assert_eq!(said(from_plugin(plugin)), said(verb));
    }
}
