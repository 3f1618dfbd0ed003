//! The node's daemons as the tests run them: the real holder and mount daemon,
//! an agent that fills from files, and readers that check what they read.
//!
//! `testnode holder RUN_DIR AGENT_ARGS…`, `testnode mountd RUN_DIR DEADLINE_MS`,
//! `testnode agent RUN_DIR CACHE SOURCES DELAY_MIN_MS DELAY_MAX_MS`,
//! `testnode reader ROOT SEED THREADS`.

mod agent;
mod content;
mod reader;
mod sys;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lamina_nodeagent::holder::{self, ChildSpec, HolderConfig};
use lamina_nodeagent::mountd::{self, MountdConfig};

fn main() -> anyhow::Result<()> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    if let Some(level) = std::env::var_os("TESTNODE_LOG") {
        tracing_subscriber::fmt()
            .with_env_filter(level.to_string_lossy().into_owned())
            .with_writer(std::io::stderr)
            .init();
    }
    match words[..] {
        ["holder", run_dir, deadline_ms, ref agent @ ..] => run_holder(run_dir, deadline_ms, agent),
        ["mountd", run_dir, deadline_ms] => {
            let mut config = MountdConfig::new(run_dir);
            config.fill_deadline = Duration::from_millis(deadline_ms.parse()?);
            mountd::run(&config)
        }
        ["agent", run_dir, cache, sources, min_ms, max_ms] => {
            let delay = min_ms.parse()?..max_ms.parse()?;
            agent::run(&PathBuf::from(run_dir), cache.into(), sources.into(), delay)
        }
        ["reader", root, seed, threads] => {
            reader::run(&PathBuf::from(root), seed.parse()?, threads.parse()?)
        }
        _ => anyhow::bail!("unknown role {words:?}"),
    }
}

/// Without agent arguments nobody fills.
fn run_holder(run_dir: &str, deadline_ms: &str, agent: &[&str]) -> anyhow::Result<()> {
    let program = std::env::current_exe()?.into_os_string();
    let child = |name: &str, rest: &[&str]| ChildSpec {
        name: name.to_owned(),
        argv: [vec![program.clone(), name.into(), run_dir.into()], {
            rest.iter().map(OsString::from).collect()
        }]
        .concat(),
    };
    let mut children = vec![child("mountd", &[deadline_ms])];
    if !agent.is_empty() {
        children.push(child("agent", agent));
    }
    holder::run(HolderConfig {
        run_dir: run_dir.into(),
        children,
    })
}
