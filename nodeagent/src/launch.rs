//! Starting an instance when none runs: what `lamina mount` does on one machine, and `lamina node` on a
//! Kubernetes node, there outside its pod (see [`crate::host`]).
//!
//! What always holds: two starts at once are harmless, for the holder takes a lock and the loser ends; an
//! instance is started only for a cache that no other instance uses.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::agent::{cache_lock, trouble};
use crate::api::{self, Answer, CallError, Request};
use crate::holder::{ChildSpec, HolderClient, HolderError};
use crate::instance::Instance;

/// How often a holder that hangs up is dialled again, and after how long.
const HUNG_UP_MAX: u32 = 20;
const HUNG_UP_PAUSE: Duration = Duration::from_millis(50);
/// How long another instance of the same cache is waited for: it ends soon after its last mount.
const CACHE_PATIENCE: Duration = Duration::from_secs(6);
/// The children of a holder in the order of their start.
const CHILDREN: [&str; 2] = ["mountd", "agent"];

/// How the processes of an instance are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The program that knows the roles: `PROGRAM mountd --role ROLE …`.
    pub program: PathBuf,
    /// Where what outlives the cache is kept.
    pub state: PathBuf,
    /// Stay when nothing is mounted.
    pub linger: bool,
    /// Run as processes of the host, although started in a pod.
    pub outside_pod: bool,
}

impl Launch {
    /// The command line of one process of an instance.
    pub fn argv(&self, role: &str, instance: &Instance, cache: &Path) -> Vec<OsString> {
        let mut argv: Vec<OsString> = vec![self.program.clone().into()];
        argv.extend(["mountd", "--role", role, "--run-dir"].map(OsString::from));
        argv.push(instance.dir().into());
        argv.push("--cache".into());
        argv.push(cache.into());
        argv.push("--state".into());
        argv.push(self.state.clone().into());
        if self.linger {
            argv.push("--linger".into());
        }
        argv
    }

    /// What a holder keeps running.
    pub fn children(&self, instance: &Instance, cache: &Path) -> Vec<ChildSpec> {
        let child = |role: &str| ChildSpec {
            name: role.to_owned(),
            argv: self.argv(role, instance, cache),
        };
        CHILDREN.map(child).into()
    }

    /// Starts the holder in a session of its own.
    fn start(&self, instance: &Instance, cache: &Path) -> io::Result<Child> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(instance.dir().join("log"))?;
        let mut argv = self.argv("holder", instance, cache);
        if self.outside_pod {
            argv.push("--outside-pod".into());
        }
        let mut command = Command::new(&argv[0]);
        command
            .args(&argv[1..])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        let child = command.spawn()?;
        tracing::info!(pid = child.id(), "started the holder");
        Ok(child)
    }
}

/// A holder that was started; waited for by somebody once nobody looks any more.
struct Started(Option<Child>);

impl Started {
    fn is_starting(&mut self) -> bool {
        let child = self.0.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else {
            return;
        };
        if matches!(child.try_wait(), Ok(None)) {
            // A starter that lives on must not keep it as a zombie.
            let reaper = std::thread::Builder::new().name("reaper".into());
            let _ = reaper.spawn(move || child.wait());
        }
    }
}

/// Calls an agent, starting what does not run. Also a holder alone: the daemons it leaves behind
/// serve on, but nobody would start them again.
///
/// # Errors
/// See [`CallError`].
pub fn call(
    launch: &Launch,
    instance: &Instance,
    cache: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Answer, CallError> {
    call_while(&|| true, launch, instance, cache, request, timeout)
}

/// The same, but starts nothing once it may not any more: then who is not there is unavailable.
///
/// # Errors
/// See [`CallError`].
pub(crate) fn call_while(
    may_start: &dyn Fn() -> bool,
    launch: &Launch,
    instance: &Instance,
    cache: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Answer, CallError> {
    let mut started = Started(None);
    let began_ms = api::clock_ms();
    let no_agent = |source| CallError::NoAgent {
        path: instance.api_socket(),
        source,
    };
    let mut start = || {
        check_trouble(instance, began_ms)?;
        if !may_start() {
            let why = io::Error::other("Lamina is being taken off this node");
            return Err(no_agent(why));
        }
        if !started.is_starting() && !is_running(instance) {
            cache_lock::check(cache, instance.dir(), CACHE_PATIENCE)
                .map_err(|error| no_agent(io::Error::other(error)))?;
            if started.0.is_none() {
                trouble::forget(instance);
            }
            let child = launch.start(instance, cache).map_err(|error| {
                let program = launch.program.display();
                no_agent(io::Error::other(format!(
                    "start the holder {program}: {error}"
                )))
            })?;
            started.0 = Some(child);
        }
        Ok(())
    };
    start()?;
    api::call_starting(&instance.api_socket(), request, timeout, start)
}

/// Fails with the agent's own error when it has kept failing since a call began.
fn check_trouble(instance: &Instance, began_ms: u64) -> Result<(), CallError> {
    trouble::since(instance, began_ms)
        .map_or(Ok(()), |failure| Err(CallError::CannotStart(failure)))
}

/// Asks the agent of an instance; `None` when the instance has ended. One that should answer and
/// does not is an error.
///
/// # Errors
/// See [`CallError`].
pub fn ask(
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

/// Whether an instance has a holder. One that is being killed takes connections until the kernel closes its socket;
/// one with too many clients takes them and hangs up for as long as it has: so who is hung up on dials again.
pub fn is_running(instance: &Instance) -> bool {
    for _ in 0..HUNG_UP_MAX {
        let Ok(holder) = HolderClient::connect(instance.dir()) else {
            return false;
        };
        match holder.status() {
            Err(HolderError::Io { source, .. }) if source.kind() != io::ErrorKind::WouldBlock => {
                std::thread::sleep(HUNG_UP_PAUSE);
            }
            // It answers, or hangs.
            _ => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::HOLDER_SOCKET;
    use rustix::net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept, bind, listen, socket_with,
    };

    #[test]
    fn a_holder_that_hangs_up_is_running_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let instance = Instance::at(dir.path().to_owned());
        let flags = SocketFlags::CLOEXEC;
        let holder = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let path = dir.path().join(HOLDER_SOCKET);
        bind(&holder, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&holder, 8).unwrap();
        let hangs_up = |times: u32| {
            let (holder, instance) = (holder.try_clone().unwrap(), instance.clone());
            let hanging_up = std::thread::spawn(move || {
                (0..times).for_each(|_| drop(accept(&holder).unwrap()));
            });
            let is_running = is_running(&instance);
            hanging_up.join().unwrap();
            is_running
        };
        assert!(hangs_up(HUNG_UP_MAX));
        let dying = std::thread::spawn(move || drop((accept(&holder).unwrap(), holder)));
        assert!(!is_running(&instance));
        dying.join().unwrap();
    }
}
