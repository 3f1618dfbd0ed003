//! Leaving the pod: a process started in a container becomes one of the host, so that the end of the
//! container, of its pod or of its `DaemonSet` does not concern it (`docs/decisions/0004`).
//!
//! What a container runtime ends a container by is its control groups; what disappears with it are its
//! mount namespace and its root file system. The process moves into the namespaces of process 1, into a
//! control group `/lamina` in every hierarchy, and into a session of its own.
//!
//! Needs the pod to see the host's processes (`hostPID`) and to be privileged.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lamina_mount::unmount::mountinfo::MountTable;
use nix::sched::{CloneFlags, setns, unshare};

use crate::agent::trouble;
use crate::instance::Instance;
use crate::sys;

/// The host's first process.
const HOST: &str = "/proc/1";
/// The control group, in every hierarchy.
const GROUP: &str = "lamina";
/// Namespaces that decide what a process can reach; the mount namespace last, for the others are found
/// in the `/proc` of this one.
const NAMESPACES: [&str; 5] = ["cgroup", "ipc", "uts", "net", "mnt"];
/// Shortage of memory: after everything of users, before the node's own services.
const OOM_SCORE: &str = "-900";
/// How long the last processes of a control group may take to be gone.
const EMPTY_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Makes the calling process, which must have one thread, a process of the host. A failure is left for
/// those who wait for the instance.
///
/// # Errors
/// When the host cannot be seen, or it does not let us in.
pub fn leave_pod(instance: &Instance) -> Result<()> {
    leave()
        .context("leave the pod to become a process of the host")
        .inspect_err(|error| trouble::leave(instance, error))
}

fn leave() -> Result<()> {
    if std::process::id() == 1 {
        bail!("this is process 1: the pod needs `hostPID: true`");
    }
    enter_namespaces()?;
    std::env::set_current_dir("/").context("go to the host's root directory")?;
    join_groups()?;
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        tracing::warn!(%error, "shortage of memory may end this process as early as any other");
    }
    // EPERM: it leads a session already.
    let _ = rustix::process::setsid();
    Ok(())
}

/// Does something on the host's file systems, on a thread that has left the pod for it.
///
/// # Errors
/// When the host cannot be seen, or it does not let us in.
pub(crate) fn visit<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let path = Path::new(HOST).join("ns/mnt");
    let host = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let visiting = std::thread::Builder::new().name("host".into());
    let visiting = visiting.spawn(move || {
        // A thread that shares its root directory with others cannot go.
        unshare(CloneFlags::CLONE_FS).context("part from the other threads")?;
        setns(host, CloneFlags::CLONE_NEWNS).context("enter the host's mnt namespace")?;
        Ok(work())
    });
    let visited = visiting.context("start a thread")?.join();
    visited.unwrap_or_else(|_| bail!("the work on the host ended by a panic"))
}

/// Removes the control groups, once nobody is in them any more.
pub(crate) fn remove_groups() -> io::Result<()> {
    let end = Instant::now() + EMPTY_PATIENCE;
    for hierarchy in hierarchies(&MountTable::read()?) {
        let group = hierarchy.join(GROUP);
        loop {
            match fs::remove_dir(&group) {
                // The last process may not be reaped yet.
                Err(error)
                    if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end =>
                {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let what = format!("remove the control group {}: {error}", group.display());
                    return Err(io::Error::new(error.kind(), what));
                }
                _ => break,
            }
        }
    }
    Ok(())
}

fn hierarchies(table: &MountTable) -> Vec<&Path> {
    let entries = table.entries().iter();
    entries
        .filter(|entry| matches!(entry.fs_type.as_str(), "cgroup" | "cgroup2"))
        .map(|entry| entry.mount_point.as_path())
        .collect()
}

fn enter_namespaces() -> Result<()> {
    let open = |name: &str| {
        let path = Path::new(HOST).join("ns").join(name);
        File::open(&path).with_context(|| format!("open {}", path.display()))
    };
    let namespaces = NAMESPACES
        .iter()
        .map(|name| open(name))
        .collect::<Result<Vec<_>>>()?;
    for (name, namespace) in NAMESPACES.iter().zip(&namespaces) {
        if is_own(name)? {
            continue;
        }
        sys::enter_namespace(namespace.as_fd())
            .with_context(|| format!("enter the host's {name} namespace"))?;
    }
    Ok(())
}

/// Whether we are in the host's namespace already, which not every process may enter again.
fn is_own(name: &str) -> Result<bool> {
    let read = |process: &str| fs::read_link(format!("/proc/{process}/ns/{name}"));
    let (own, host) = (read("self"), read("1"));
    Ok(own.context("find the own namespaces")? == host.context("find the host's namespaces")?)
}

/// Every hierarchy counts: runtimes end a container by whichever they use.
fn join_groups() -> Result<()> {
    let table = MountTable::read().context("read the host's mounts")?;
    let hierarchies = hierarchies(&table);
    let mut joined = 0;
    for hierarchy in &hierarchies {
        match join_group(hierarchy) {
            Ok(()) => joined += 1,
            Err(error) => {
                let hierarchy = hierarchy.display();
                tracing::warn!(%error, %hierarchy, "not in a control group of its own there");
            }
        }
    }
    if joined == 0 {
        bail!(
            "none of the {} control group hierarchies lets it in; the log says why",
            hierarchies.len()
        );
    }
    Ok(())
}

fn join_group(hierarchy: &Path) -> io::Result<()> {
    let group = hierarchy.join(GROUP);
    match fs::create_dir(&group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(hierarchy, &group, file)?;
    }
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// In version 1 a new group may run nowhere until it is said where.
fn inherit(hierarchy: &Path, group: &Path, file: &str) -> io::Result<()> {
    let (from, to): (PathBuf, PathBuf) = (hierarchy.join(file), group.join(file));
    let is_unset = fs::read(&to).is_ok_and(|text| text.trim_ascii().is_empty());
    match fs::read(from) {
        Ok(all) if is_unset && !all.trim_ascii().is_empty() => fs::write(to, all),
        _ => Ok(()),
    }
}
