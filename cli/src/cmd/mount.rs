//! `mount`, `umount`, `prefetch`: talking to the agent of an instance.

use super::foreground::Foreground;
use super::stores;
use crate::args::{self, ModeArg};
use crate::output;
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use lamina_nodeagent::agent::offline::{self, RecordedTarget};
use lamina_nodeagent::api::{
    self, Answer, CallError, FailureKind, Medium, ModeRequest, MountCall, PrefetchCall, Request,
    UmountCall,
};
use lamina_nodeagent::instance::Instance;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long short questions to an agent may take.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent may take to undo a mount that was not done in time, and say so.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

pub(crate) fn mount(args: &args::Mount) -> Result<()> {
    let foreground = args.foreground.then(Foreground::new).transpose()?;
    let call = mount_call(args)?;
    let target = call.target.clone();
    let request = Request::Mount(Box::new(call));
    let (instance, answer) = daemon::call(
        &args.instance.run_dir,
        &args.instance.cache,
        &request,
        args.timeout + ANSWER_GRACE,
    )
    .with_context(|| format!("mount {} on {}", args.flist.display(), args.dir.display()))?;
    let Answer::Mounted(info) = answer else {
        bail!("the agent gave an answer of another kind")
    };
    if !info.note.is_empty() {
        eprintln!("warning: {}", info.note);
    }
    tracing::info!(mode = info.mode, ready_us = info.ready_us, "mounted");
    foreground.map_or(Ok(()), |foreground| {
        stay(foreground, &instance, target, args.timeout)
    })
}

/// Stays until a signal asks to unmount, or somebody else has unmounted.
fn stay(
    foreground: Foreground,
    instance: &Instance,
    target: PathBuf,
    timeout: Duration,
) -> Result<()> {
    let recorded = recorded(instance, &target)?;
    let is_mounted = move || recorded.as_ref().is_some_and(RecordedTarget::is_mounted);
    foreground.wait(is_mounted.clone())?;
    if !is_mounted() {
        return Ok(());
    }
    let call = UmountCall {
        target,
        force: true,
        timeout_ms: timeout.as_millis() as u64,
    };
    match daemon::ask_owner(instance, &Request::Umount(call), timeout) {
        // Unmounted elsewhere at the same moment.
        Err(CallError::Failed(failure)) if failure.kind == FailureKind::NotFound => Ok(()),
        answer => answer.map(drop).context("unmount"),
    }
}

fn mount_call(args: &args::Mount) -> Result<MountCall> {
    let flist = std::fs::canonicalize(&args.flist)
        .with_context(|| format!("find flist {}", args.flist.display()))?;
    let target = std::fs::canonicalize(&args.dir)
        .with_context(|| format!("find the directory to mount on, {}", args.dir.display()))?;
    // What is mounted there may be dead and unable to answer; the agent sees to that.
    if std::fs::metadata(&target).is_ok_and(|meta| !meta.is_dir()) {
        bail!(exit::Usage(format!(
            "{} is not a directory",
            target.display()
        )));
    }
    let upper = args
        .rw
        .as_ref()
        .map(|upper| absolute_dir(upper))
        .transpose()?;
    let (run_dir, cache) = (&args.instance.run_dir, &args.instance.cache);
    for path in [&flist, &target, run_dir, cache].into_iter().chain(&upper) {
        must_be_text(path)?;
    }
    Ok(MountCall {
        flist,
        target,
        upper,
        upper_bytes_max: None,
        upper_medium: Medium::default(),
        sub_path: None,
        image: None,
        docker_config: api::DockerConfig::default(),
        mode: match args.mode {
            ModeArg::Auto => ModeRequest::Auto,
            ModeArg::Erofs => ModeRequest::Erofs,
            ModeArg::ErofsLoop => ModeRequest::ErofsLoop,
            ModeArg::Fuse => ModeRequest::Fuse,
        },
        stores: args
            .stores
            .iter()
            .map(|store| stores::absolute(store))
            .collect::<Result<_>>()?,
        store_env: stores::env(&args.access)?,
        cache_size: args.cache_size,
        cache_expire_s: args.cache_expire.map(|time| time.as_secs()),
        trusted: args.trusted,
        prefetch: !args.no_prefetch,
        deadline_ms: Some(api::clock_ms() + args.timeout.as_millis() as u64),
    })
}

/// Calls and records are text.
fn must_be_text(path: &Path) -> Result<()> {
    if path.to_str().is_none() {
        let path = path.display();
        bail!(exit::Usage(format!(
            "{path} is not valid UTF-8, which paths given to mounts must be: use another name, or a \
             bind mount of it"
        )));
    }
    Ok(())
}

fn absolute_dir(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    std::fs::canonicalize(dir).with_context(|| format!("resolve {}", dir.display()))
}

pub(crate) fn umount(args: &args::Umount) -> Result<()> {
    let target = resolve(&args.dir)?;
    must_be_text(&target)?;
    let request = Request::Umount(UmountCall {
        target: target.clone(),
        force: args.force,
        timeout_ms: args.timeout.as_millis() as u64,
    });
    let timeout = args.timeout + QUESTION_TIMEOUT;
    let done = match owner(&args.instance.run_dir, &target)? {
        Some((instance, recorded)) => match daemon::ask_owner(&instance, &request, timeout) {
            // The daemons cannot be had; the mount can be taken down without them.
            Err(CallError::NoAgent { .. } | CallError::CannotStart(_)) => recorded
                .unmount(args.force, args.timeout)
                .map_err(CallError::Failed),
            // Asked twice, because the first answer was lost with an agent.
            Err(CallError::Failed(failure))
                if failure.kind == FailureKind::NotFound && !recorded.is_mounted() =>
            {
                Ok(())
            }
            answer => answer.map(drop),
        },
        None => ask_everybody(&args.instance.run_dir, &target, &request, timeout)?,
    };
    done.with_context(|| format!("unmount {}", target.display()))
}

/// Nobody has the target on record: it is not ours, or an agent knows that it was until a moment ago.
fn ask_everybody(
    run_dir: &Path,
    target: &Path,
    request: &Request,
    timeout: Duration,
) -> Result<Result<(), CallError>> {
    for instance in instances(run_dir)? {
        match daemon::ask(&instance, request, timeout) {
            Ok(None) => {}
            Err(CallError::Failed(failure)) if failure.kind == FailureKind::NotFound => {}
            answer => return Ok(answer.map(drop)),
        }
    }
    bail!(not_mounted(target))
}

/// Symbolic links followed at most, as the kernel does.
const LINKS_MAX: usize = 40;

/// A mount point as the agent knows it: canonical, but without touching the mount itself, which may
/// hang. Reading a link asks the file system of what is no link nothing.
fn resolve(dir: &Path) -> Result<PathBuf> {
    let mut path = std::path::absolute(dir).context("resolve the directory")?;
    for _ in 0..LINKS_MAX {
        let failed = || format!("resolve the directory {}", path.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return std::fs::canonicalize(&path).with_context(failed);
        };
        let parent = std::fs::canonicalize(parent).with_context(failed)?;
        let resolved = parent.join(name);
        match std::fs::read_link(&resolved) {
            Ok(link) => path = parent.join(link),
            Err(_) => return Ok(resolved),
        }
    }
    bail!(exit::Usage(format!(
        "{} is behind too many symbolic links",
        dir.display()
    )))
}

/// The instance that has `target` on record: its daemons need not run for that.
pub(super) fn owner(run_dir: &Path, target: &Path) -> Result<Option<(Instance, RecordedTarget)>> {
    for instance in instances(run_dir)? {
        if let Some(found) = recorded(&instance, target)? {
            return Ok(Some((instance, found)));
        }
    }
    Ok(None)
}

/// What an instance has on record of a target.
fn recorded(instance: &Instance, target: &Path) -> Result<Option<RecordedTarget>> {
    let mut recorded = offline::recorded_targets(instance)
        .with_context(|| format!("read the records in {}", instance.dir().display()))?
        .into_iter();
    Ok(recorded.find(|known| known.target() == target))
}

pub(super) fn instances(run_dir: &Path) -> Result<Vec<Instance>> {
    Instance::all(run_dir).with_context(|| format!("read the run directory {}", run_dir.display()))
}

fn not_mounted(target: &Path) -> exit::NotFound {
    let target = target.display();
    exit::NotFound(format!(
        "{target} is not mounted by lamina; `lamina mounts` lists what is"
    ))
}

pub(crate) fn prefetch(args: &args::Prefetch) -> Result<()> {
    let target = resolve(&args.dir)?;
    let (instance, _) =
        owner(&args.instance.run_dir, &target)?.ok_or_else(|| not_mounted(&target))?;
    let request = Request::Prefetch(PrefetchCall {
        target: target.clone(),
        paths: args.paths.clone(),
        profile: args.profile,
    });
    let answer = daemon::ask_owner(&instance, &request, args.timeout)
        .with_context(|| format!("prefetch into {}", target.display()))?;
    let Answer::Prefetched { bytes } = answer else {
        bail!("the agent gave an answer of another kind")
    };
    output::write_all(format!("fetched {}\n", output::size(bytes)).as_bytes())
}
