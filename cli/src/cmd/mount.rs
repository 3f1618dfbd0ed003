//! `mount`, `umount`, `prefetch`: talking to the agent of an instance.

use super::stores;
use crate::args::{self, ModeArg};
use crate::output;
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use lamina_nodeagent::agent::offline::{self, RecordedTarget};
use lamina_nodeagent::api::{
    self, Answer, CallError, FailureKind, ModeRequest, MountCall, PrefetchCall, Request, UmountCall,
};
use lamina_nodeagent::instance::Instance;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long short questions to an agent may take.
pub(super) const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent may take to undo a mount that was not done in time, and say so.
const ANSWER_GRACE: Duration = Duration::from_secs(2);

pub(crate) fn mount(args: &args::Mount) -> Result<()> {
    let call = mount_call(args)?;
    let target = call.target.clone();
    let request = Request::Mount(call);
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
    tracing::info!(mode = info.mode, ready_us = info.ready_us, "mounted");
    if args.foreground {
        wait_for_signal()?;
        let call = UmountCall {
            target,
            force: true,
            timeout_ms: args.timeout.as_millis() as u64,
        };
        api::call(&instance.api_socket(), &Request::Umount(call), args.timeout)?;
    }
    Ok(())
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
    Ok(MountCall {
        flist,
        target,
        upper,
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

fn absolute_dir(dir: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(dir).with_context(|| format!("make directory {}", dir.display()))?;
    std::fs::canonicalize(dir).with_context(|| format!("resolve {}", dir.display()))
}

fn wait_for_signal() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

pub(crate) fn umount(args: &args::Umount) -> Result<()> {
    let target = resolve(&args.dir)?;
    let request = Request::Umount(UmountCall {
        target: target.clone(),
        force: args.force,
        timeout_ms: args.timeout.as_millis() as u64,
    });
    let timeout = args.timeout + QUESTION_TIMEOUT;
    let done = match owner(&args.instance.run_dir, &target)? {
        Some((instance, recorded)) => match daemon::ask_owner(&instance, &request, timeout) {
            // The daemons cannot be had; the mount can be taken down without them.
            Err(CallError::NoAgent { .. }) => recorded
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
        None => ask_everybody(&args.instance.run_dir, &request, timeout)?,
    };
    done.with_context(|| format!("unmount {}", target.display()))
}

/// Nobody has the target on record: it is not ours, or an agent knows that it was until a moment ago.
fn ask_everybody(
    run_dir: &Path,
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
    bail!(not_mounted())
}

/// A mount point as the agent knows it: canonical, but without touching the mount itself, which may
/// hang.
fn resolve(dir: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(dir).context("resolve the directory")?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    let parent = std::fs::canonicalize(parent)
        .with_context(|| format!("resolve the directory {}", parent.display()))?;
    Ok(parent.join(name))
}

/// The instance that has `target` on record: its daemons need not run for that.
fn owner(run_dir: &Path, target: &Path) -> Result<Option<(Instance, RecordedTarget)>> {
    for instance in instances(run_dir)? {
        let recorded = offline::recorded_targets(&instance)
            .with_context(|| format!("read the records in {}", instance.dir().display()))?;
        let found = recorded.into_iter().find(|known| known.target() == target);
        if let Some(found) = found {
            return Ok(Some((instance, found)));
        }
    }
    Ok(None)
}

pub(super) fn instances(run_dir: &Path) -> Result<Vec<Instance>> {
    Instance::all(run_dir).with_context(|| format!("read the run directory {}", run_dir.display()))
}

fn not_mounted() -> exit::NotFound {
    exit::NotFound("it is not mounted by lamina; `lamina mounts` lists what is".into())
}

pub(crate) fn prefetch(args: &args::Prefetch) -> Result<()> {
    let target = resolve(&args.dir)?;
    let (instance, _) = owner(&args.instance.run_dir, &target)?
        .ok_or_else(not_mounted)
        .with_context(|| format!("prefetch into {}", target.display()))?;
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
