//! `mount`, `umount`, `mounts`, `prefetch`: talking to the agent of an instance.

use super::stores;
use crate::args::{self, ModeArg};
use crate::output::{self, Show};
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use lamina_nodeagent::api::{
    self, Answer, CacheInfo, ModeRequest, MountCall, MountInfo, PrefetchCall, Request, UmountCall,
};
use lamina_nodeagent::instance::Instance;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long short questions to an agent may take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn mount(args: &args::Mount) -> Result<()> {
    let call = mount_call(args)?;
    let target = call.target.clone();
    let request = Request::Mount(call);
    let (instance, answer) = daemon::call(
        &args.instance.run_dir,
        &args.instance.cache,
        &request,
        args.timeout,
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
    if !target.is_dir() {
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
    let (instance, info) = find(&args.instance.run_dir, &target)?;
    let call = UmountCall {
        target: info.target,
        force: args.force,
        timeout_ms: args.timeout.as_millis() as u64,
    };
    api::call(
        &instance.api_socket(),
        &Request::Umount(call),
        args.timeout + QUESTION_TIMEOUT,
    )
    .with_context(|| format!("unmount {}", target.display()))?;
    Ok(())
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

/// The instance that mounted `target`.
fn find(run_dir: &Path, target: &Path) -> Result<(Instance, MountInfo)> {
    for (instance, mounts, _) in all(run_dir)? {
        if let Some(info) = mounts.into_iter().find(|info| info.target == *target) {
            return Ok((instance, info));
        }
    }
    bail!(exit::NotFound(format!(
        "{} is not mounted by lamina; `lamina mounts` lists what is",
        target.display()
    )))
}

type InstanceMounts = (Instance, Vec<MountInfo>, CacheInfo);

/// The mounts of every running instance; one that does not answer is reported, not hidden.
fn all(run_dir: &Path) -> Result<Vec<InstanceMounts>> {
    let instances = Instance::all(run_dir)
        .with_context(|| format!("read the run directory {}", run_dir.display()))?;
    let mut found = Vec::new();
    for instance in instances {
        if !daemon::is_running(&instance) {
            continue;
        }
        match api::call(&instance.api_socket(), &Request::Mounts, QUESTION_TIMEOUT) {
            Ok(Answer::Mounts { mounts, cache }) => found.push((instance, mounts, cache)),
            Ok(_) => bail!("the agent gave an answer of another kind"),
            Err(error) => tracing::warn!("skipping an instance: {error}"),
        }
    }
    Ok(found)
}

#[derive(Serialize)]
struct MountList {
    mounts: Vec<MountInfo>,
    caches: Vec<CacheInfo>,
}

impl Show for MountList {
    fn table(&self) -> String {
        let rows: Vec<_> = self.mounts.iter().map(mount_row).collect();
        let mounts = output::columns(
            [
                "TARGET", "MODE", "ACCESS", "LOCAL", "OF", "FETCHED", "READS", "HITS", "PROFILE",
                "FLIST",
            ],
            &rows,
        );
        let caches: Vec<_> = self.caches.iter().map(cache_line).collect();
        format!("{mounts}\n\n{}", caches.join("\n"))
    }
}

fn mount_row(info: &MountInfo) -> [String; 10] {
    [
        info.target.display().to_string(),
        info.mode.clone(),
        if info.upper.is_some() { "rw" } else { "ro" }.to_owned(),
        output::size(info.bytes_local),
        output::size(info.bytes_total),
        output::size(info.bytes_fetched),
        info.reads.to_string(),
        output::percent(info.reads_local, info.reads),
        info.profile.clone(),
        info.flist.display().to_string(),
    ]
}

fn cache_line(cache: &CacheInfo) -> String {
    let dir = cache.dir.display();
    format!(
        "cache {dir}: {} of {}",
        output::size(cache.bytes),
        output::size(cache.bytes_max)
    )
}

pub(crate) fn mounts(args: &args::Mounts) -> Result<()> {
    let mut list = MountList {
        mounts: Vec::new(),
        caches: Vec::new(),
    };
    for (_, mounts, cache) in all(&args.instance.run_dir)? {
        list.mounts.extend(mounts);
        list.caches.push(cache);
    }
    output::print(&list, args.output.output)
}

pub(crate) fn prefetch(args: &args::Prefetch) -> Result<()> {
    let target = resolve(&args.dir)?;
    let (instance, info) = find(&args.instance.run_dir, &target)?;
    let call = PrefetchCall {
        target: info.target,
        paths: args.paths.clone(),
        profile: args.profile,
    };
    let answer = api::call(
        &instance.api_socket(),
        &Request::Prefetch(call),
        args.timeout,
    )
    .with_context(|| format!("prefetch into {}", target.display()))?;
    let Answer::Prefetched { bytes } = answer else {
        bail!("the agent gave an answer of another kind")
    };
    output::write_all(format!("fetched {}\n", output::size(bytes)).as_bytes())
}
