//! The sandbox's root: the flist mounted by the agent, and a union of our own over it.

use super::medium;
use crate::args;
use crate::args::run::Run;
use crate::cmd::{mount, stores};
use crate::daemon;
use anyhow::{Context, Result, bail};
use lamina_mount::union::scratch::{self, Scratch, ScratchSpec};
use lamina_nodeagent::api::{self, Answer, MountCall, Request};
use lamina_runtime::slots::Slot;
use rustix::fs::{Mode, OFlags};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long the agent may take to mount: it fetches nothing for that.
const MOUNT_PATIENCE: Duration = Duration::from_secs(30);

/// The flist, mounted read-only in the slot's directory; unmounted when this is dropped.
pub(super) struct Mounted {
    target: PathBuf,
    run_dir: PathBuf,
}

impl Mounted {
    pub(super) fn new(args: &Run, flist: &Path, slot: &Slot) -> Result<Self> {
        let target = slot.dir().join("lower");
        std::fs::create_dir(&target).with_context(|| format!("make {}", target.display()))?;
        // From now on, for the call may be done although its answer is not had.
        let mounted = Self {
            target,
            run_dir: args.instance.run_dir.clone(),
        };
        let call = Request::Mount(Box::new(call(args, flist, &mounted.target)?));
        let (run_dir, cache) = (&args.instance.run_dir, &args.instance.cache);
        let (_, answer) = daemon::call(run_dir, cache, &call, MOUNT_PATIENCE)
            .with_context(|| format!("mount {}", flist.display()))?;
        match answer {
            Answer::Mounted(_) => Ok(mounted),
            _ => bail!("the agent gave an answer of another kind"),
        }
    }

    /// A root for one sandbox.
    pub(super) fn root(
        &self,
        args: &Run,
        slot: &Slot,
        user_namespace: BorrowedFd<'_>,
    ) -> Result<Scratch> {
        let at = slot.dir().join("scratch");
        std::fs::create_dir(&at).with_context(|| format!("make {}", at.display()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lower = rustix::fs::open(&self.target, flags, Mode::empty())
            .with_context(|| format!("open {}", self.target.display()))?;
        let spec = ScratchSpec {
            lower: lower.as_fd(),
            user_namespace,
            bytes_max: args.limits.disk,
            files_max: scratch::files_max(args.limits.disk),
            medium: medium(args.limits.scratch),
            at: &at,
        };
        Scratch::build(&spec).context("make the sandbox's root file system")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.run_dir, &self.target) {
            tracing::warn!("{error:#}; the next run tries again");
        }
    }
}

/// Unmounts a slot's flist, if it is mounted.
pub(super) fn unmount(run_dir: &Path, target: &Path) -> Result<()> {
    if mount::owner(run_dir, target)?.is_none() {
        return Ok(());
    }
    mount::umount(&args::Umount {
        dir: target.to_owned(),
        force: true,
        instance: args::RunDir {
            run_dir: run_dir.to_owned(),
        },
        timeout: MOUNT_PATIENCE,
    })
}

fn call(args: &Run, flist: &Path, target: &Path) -> Result<MountCall> {
    let stores = args.stores.iter().map(|store| stores::absolute(store));
    Ok(MountCall {
        flist: flist.to_owned(),
        target: target.to_owned(),
        upper: None,
        upper_bytes_max: None,
        upper_medium: api::Medium::default(),
        sub_path: None,
        image: None,
        docker_config: api::DockerConfig::default(),
        mode: api::ModeRequest::Auto,
        stores: stores.collect::<Result<_>>()?,
        store_env: stores::env(&args.access)?,
        cache_size: None,
        cache_expire_s: None,
        trusted: false,
        prefetch: true,
        deadline_ms: Some(api::clock_ms() + MOUNT_PATIENCE.as_millis() as u64),
    })
}
