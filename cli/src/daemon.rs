//! The daemons behind mounts: having this program start them, and being one of them.

use crate::args::{Cli, Command as Verb, Mountd, Role};
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_nodeagent::agent::{self, AgentConfig};
use lamina_nodeagent::api::{Answer, CallError, Request};
use lamina_nodeagent::holder::{self, HolderConfig};
use lamina_nodeagent::host;
use lamina_nodeagent::instance::Instance;
use lamina_nodeagent::launch::{self, Launch};
use lamina_nodeagent::logfile::LogFile;
use lamina_nodeagent::mountd::{self, MountdConfig};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use lamina_nodeagent::launch::{ask, is_running};

/// Calls the agent of a cache directory, starting its instance when none runs.
pub(crate) fn call(
    run_dir: &Path,
    cache: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<(Instance, Answer)> {
    if cache.exists() && !cache.is_dir() {
        let cache = cache.display();
        bail!(exit::Usage(format!(
            "--cache {cache}: it is no directory; name one, which is made if it is not there"
        )));
    }
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
    let answer = launch::call(&own()?, &instance, cache, request, timeout)?;
    Ok((instance, answer))
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
    let launch = own().map_err(|error| CallError::NoAgent {
        path: instance.api_socket(),
        source: io::Error::other(format!("{error:#}")),
    })?;
    launch::call(&launch, instance, &cache, request, timeout)
}

/// Where what must outlive the cache is kept: access profiles.
pub(crate) fn state_dir() -> Result<PathBuf> {
    let dir = std::env::var_os("LAMINA_STATE_DIR").unwrap_or_else(|| "/var/lib/lamina".into());
    std::path::absolute(dir).context("resolve LAMINA_STATE_DIR")
}

/// How this program starts an instance: by itself, where it is.
fn own() -> Result<Launch> {
    Ok(Launch {
        program: own_program()?,
        state: state_dir()?,
        linger: false,
        outside_pod: false,
    })
}

pub(crate) fn own_program() -> Result<PathBuf> {
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
    let instance = Instance::at(args.run_dir.clone());
    match args.role {
        Role::Holder => {
            let launch = Launch {
                program: own_program()?,
                state: args.state.clone(),
                linger: args.linger,
                outside_pod: args.outside_pod,
            };
            let children = launch.children(&instance, &args.cache);
            if args.outside_pod {
                host::leave_pod(&instance)?;
            }
            holder::run(HolderConfig {
                run_dir: args.run_dir.clone(),
                children,
            })
        }
        Role::Mountd => mountd::run(&MountdConfig::new(args.run_dir.clone())),
        Role::Agent => agent::run(AgentConfig {
            instance,
            cache: args.cache.clone(),
            state: args.state.clone(),
            linger: args.linger,
        }),
    }
}
