//! The daemons behind mounts: starting an instance when none runs, and being one of its processes.

use crate::args::{Cli, Command as Verb, Mountd, Role};
use crate::exit;
use anyhow::{Context, Result};
use lamina_nodeagent::agent::{self, AgentConfig, trouble};
use lamina_nodeagent::api::{self, Answer, CallError, Request};
use lamina_nodeagent::holder::{self, ChildSpec, HolderClient, HolderConfig};
use lamina_nodeagent::instance::Instance;
use lamina_nodeagent::logfile::LogFile;
use lamina_nodeagent::mountd::{self, MountdConfig};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long another instance of the same cache is waited for: it ends soon after its last mount.
const CACHE_PATIENCE: Duration = Duration::from_secs(6);

/// Calls the agent of a cache directory, starting its instance when none runs.
pub(crate) fn call(
    run_dir: &Path,
    cache: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Instance, Answer)> {
    std::fs::create_dir_all(cache)
        .with_context(|| format!("make the cache directory {}", cache.display()))?;
    let instance = Instance::of_cache(run_dir, cache)
        .with_context(|| format!("resolve the cache directory {}", cache.display()))?;
    instance
        .check_sockets()
        .map_err(|error| exit::Usage(error.to_string()))?;
    instance
        .create(cache)
        .with_context(|| format!("make the run directory {}", instance.dir().display()))?;
    let answer = call_reviving(&instance, cache, request, timeout)?;
    Ok((instance, answer))
}

/// Calls an agent, starting what does not run. Also a holder alone: the daemons it leaves behind
/// serve on, but nobody would start them again.
fn call_reviving(
    instance: &Instance,
    cache: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Answer, CallError> {
    let mut started: Option<Child> = None;
    let began_ms = api::clock_ms();
    let no_agent = |source| CallError::NoAgent {
        path: instance.api_socket(),
        source,
    };
    let mut start = || {
        check_trouble(instance, began_ms)?;
        let starting = started
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !starting && !is_running(instance) {
            agent::cache_lock::check(cache, instance.dir(), CACHE_PATIENCE)
                .map_err(|error| no_agent(io::Error::other(error)))?;
            let child = start_holder(instance, cache);
            let failed = |error| no_agent(io::Error::other(format!("{error:#}")));
            started = Some(child.map_err(failed)?);
        }
        Ok(())
    };
    start()?;
    api::call_starting(&instance.api_socket(), request, timeout, start)
}

/// Fails with the agent's own error when it has kept failing since this call began.
fn check_trouble(instance: &Instance, began_ms: u64) -> Result<(), CallError> {
    trouble::since(instance, began_ms)
        .map_or(Ok(()), |failure| Err(CallError::CannotStart(failure)))
}

/// Asks the agent of an instance that has mounts, starting its daemons if they are gone.
pub(crate) fn ask_owner(
    instance: &Instance,
    request: &Request,
    timeout: Duration,
) -> Result<Answer, CallError> {
    let cache = instance.cache().map_err(|source| CallError::NoAgent {
        path: instance.api_socket(),
        source,
    })?;
    call_reviving(instance, &cache, request, timeout)
}

/// Asks the agent of an instance; `None` when the instance has ended. One that should answer and
/// does not is an error.
pub(crate) fn ask(
    instance: &Instance,
    request: &Request,
    timeout: Duration,
) -> Result<Option<Answer>, CallError> {
    let ended = || io::Error::from(io::ErrorKind::NotConnected);
    let began_ms = api::clock_ms();
    let start = || match is_running(instance) {
        true => check_trouble(instance, began_ms),
        false => Err(CallError::NoAgent {
            path: instance.api_socket(),
            source: ended(),
        }),
    };
    match api::call_starting(&instance.api_socket(), request, timeout, start) {
        Err(CallError::NoAgent { source, .. }) if source.kind() == ended().kind() => Ok(None),
        answer => answer.map(Some),
    }
}

/// Whether an instance's holder answers.
pub(crate) fn is_running(instance: &Instance) -> bool {
    HolderClient::connect(instance.dir()).is_ok()
}

/// Starts the holder in a session of its own. Two starts at once are harmless: the holder takes a
/// lock, and the loser ends.
fn start_holder(instance: &Instance, cache: &Path) -> Result<Child> {
    let log_path = instance.dir().join("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .with_context(|| format!("open the log {}", log_path.display()))?;
    trouble::forget(instance);
    let mut command = Command::new(own_program()?);
    command
        .arg("mountd")
        .args(["--role", "holder"])
        .arg("--run-dir")
        .arg(instance.dir())
        .arg("--cache")
        .arg(cache)
        .arg("--state")
        .arg(state_dir()?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log)
        .process_group(0);
    let child = command.spawn().context("start the holder process")?;
    tracing::info!(pid = child.id(), log = %log_path.display(), "started the holder");
    Ok(child)
}

/// Where what must outlive the cache is kept: access profiles.
fn state_dir() -> Result<PathBuf> {
    let dir = std::env::var_os("LAMINA_STATE_DIR").unwrap_or_else(|| "/var/lib/lamina".into());
    std::path::absolute(dir).context("resolve LAMINA_STATE_DIR")
}

fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("find this program's own file")
}

/// The log of a process that is to become a daemon and whose standard error goes there.
pub(crate) fn log(args: &Cli) -> Option<LogFile> {
    match &args.command {
        Verb::Mountd(daemon) => LogFile::of_stderr(&daemon.run_dir.join("log")),
        _ => None,
    }
}

/// Becomes one of an instance's processes; returns when it has nothing left to do.
pub(crate) fn run(args: &Mountd) -> Result<()> {
    match args.role {
        Role::Holder => holder::run(HolderConfig {
            run_dir: args.run_dir.clone(),
            children: vec![child(args, "mountd")?, child(args, "agent")?],
        }),
        Role::Mountd => mountd::run(&MountdConfig::new(args.run_dir.clone())),
        Role::Agent => agent::run(AgentConfig {
            instance: Instance::at(args.run_dir.clone()),
            cache: args.cache.clone(),
            state: args.state.clone(),
        }),
    }
}

/// How the holder starts one of its children: this program again, in another role.
fn child(args: &Mountd, role: &str) -> Result<ChildSpec> {
    let mut argv: Vec<OsString> = vec![own_program()?.into()];
    argv.extend(["mountd", "--role", role, "--run-dir"].map(OsString::from));
    argv.push(args.run_dir.clone().into());
    argv.push("--cache".into());
    argv.push(args.cache.clone().into());
    argv.push("--state".into());
    argv.push(args.state.clone().into());
    Ok(ChildSpec {
        name: role.to_owned(),
        argv,
    })
}
