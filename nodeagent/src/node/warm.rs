//! Mounting a flist where nobody looks: to bring its data to this node before any volume shows it, and to read a file
//! whose data only the agent can get. It is unmounted at once; what was fetched stays in the cache.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamina_proto::lamina::v1::Warm;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use tonic::Code;

use super::Parts;
use super::daemons::{Daemons, blocking};
use super::error::NodeError;
use super::library::Have;
use crate::api::{
    self, CallError, FailureKind, Medium, ModeRequest, MountCall, MountInfo, MountState,
    PrefetchCall, Request, UmountCall,
};

/// Where it is mounted, in the state directory.
const DIR: &str = "warm";
/// How long the agent may take to mount or unmount.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long fetching may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// One flist is warmed by one call at a time.
#[derive(Debug, Default)]
pub(super) struct Warming {
    turns: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Warming {
    /// Fetches what is asked, telling how far it is: bytes here, and of them all. Gives the same at the end, if that is
    /// known.
    pub(super) async fn warm(
        &self,
        parts: &Parts,
        have: &Have,
        warm: Warm,
        tell: impl Fn(u64, u64),
    ) -> Result<Option<MountInfo>, NodeError> {
        if warm == Warm::None {
            return Ok(None);
        }
        let turn = self.turn(&have.info.digest);
        let _turn = turn.lock().await;
        let at = parts.settings.state.join(DIR).join(&have.info.digest);
        mount(parts, have, &at).await?;
        let fetched = fetch(parts, at.clone(), warm, tell).await;
        let seen = glance(parts, &at).await;
        take_down(parts, &at).await?;
        fetched.map(|()| seen)
    }

    /// Opens the file at `path` in a flist. Its mount goes at once; what is open is served until it is closed.
    pub(super) async fn open(
        &self,
        parts: &Parts,
        have: &Have,
        path: &str,
    ) -> Result<File, NodeError> {
        // Not where it is warmed: that may take hours.
        let name = format!("{}.open", have.info.digest);
        let turn = self.turn(&name);
        let _turn = turn.lock().await;
        let at = parts.settings.state.join(DIR).join(name);
        mount(parts, have, &at).await?;
        let below_root = at.strip_prefix("/").unwrap_or(&at);
        let opened = open_inside(&parts.settings.host_root.join(below_root), path);
        take_down(parts, &at).await?;
        opened.map_err(|error| NodeError::disk(&format!("open {path} in the flist"), &error))
    }

    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(digest.to_owned()).or_default())
    }
}

/// Unmounts what an earlier process left.
pub(super) fn clear(daemons: &Daemons, state: &Path) -> Result<(), NodeError> {
    let home = state.join(DIR);
    let (mounts, _) = daemons.mounts()?;
    for mount in mounts {
        if mount.target.starts_with(&home) && mount.state != MountState::Detached {
            unmount(daemons, mount.target.clone())?;
            let _ = std::fs::remove_dir(&mount.target);
        }
    }
    Ok(())
}

async fn mount(parts: &Parts, have: &Have, at: &Path) -> Result<(), NodeError> {
    std::fs::create_dir_all(at)
        .map_err(|error| NodeError::disk(&format!("make {}", at.display()), &error))?;
    let mount = Request::Mount(Box::new(mount_call(parts, have, at.to_owned())));
    let mounted = blocking(&parts.daemons, move |daemons| {
        Ok(daemons.call(&mount, MOUNT_TIMEOUT)?)
    });
    mounted.await.map(drop)
}

async fn take_down(parts: &Parts, at: &Path) -> Result<(), NodeError> {
    let target = at.to_owned();
    blocking(&parts.daemons, move |daemons| unmount(daemons, target)).await?;
    let _ = std::fs::remove_dir(at);
    Ok(())
}

/// Opens a file in a mounted flist as a process would that has it as its root.
fn open_inside(root: &Path, path: &str) -> std::io::Result<File> {
    let root = File::open(root)?;
    let name = match path.trim_start_matches('/') {
        "" => ".",
        name => name,
    };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(root, name, flags, Mode::empty(), resolve)?.into())
}

fn mount_call(parts: &Parts, have: &Have, target: PathBuf) -> MountCall {
    MountCall {
        flist: have.flist.clone(),
        target,
        upper: None,
        upper_bytes_max: None,
        upper_medium: Medium::default(),
        sub_path: None,
        image: have.image(),
        docker_config: api::DockerConfig::default(),
        mode: ModeRequest::Auto,
        stores: have.stores.clone(),
        store_env: parts.settings.store_env.clone(),
        cache_size: parts.settings.cache_bytes_max,
        cache_expire_s: None,
        trusted: false,
        prefetch: false,
        deadline_ms: Some(api::clock_ms() + MOUNT_TIMEOUT.as_millis() as u64),
    }
}

async fn fetch(
    parts: &Parts,
    target: PathBuf,
    warm: Warm,
    tell: impl Fn(u64, u64),
) -> Result<(), NodeError> {
    let call = Request::Prefetch(PrefetchCall {
        target: target.clone(),
        paths: Vec::new(),
        profile: warm == Warm::Profile,
    });
    let mut fetching = Box::pin(blocking(&parts.daemons, move |daemons| {
        Ok(daemons.call(&call, FETCH_TIMEOUT)?)
    }));
    loop {
        tokio::select! {
            done = &mut fetching => return done.map(drop),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if let Some(mount) = glance(parts, &target).await {
            tell(mount.bytes_local, mount.bytes_total);
        }
    }
}

/// What is mounted at `target`, if that is known at once.
async fn glance(parts: &Parts, target: &Path) -> Option<MountInfo> {
    let (mounts, _) = blocking(&parts.daemons, Daemons::glance).await.ok()?;
    mounts.into_iter().find(|mount| mount.target == target)
}

fn unmount(daemons: &Daemons, target: PathBuf) -> Result<(), NodeError> {
    let call = Request::Umount(UmountCall {
        target,
        force: true,
        timeout_ms: MOUNT_TIMEOUT.as_millis() as u64,
    });
    match daemons.call(&call, MOUNT_TIMEOUT) {
        Err(CallError::Failed(failure)) if failure.kind == FailureKind::NotFound => Ok(()),
        Err(error) => Err(NodeError::new(
            Code::Internal,
            format!("take down what was warmed: {}", crate::chain(&error)),
        )),
        Ok(_) => Ok(()),
    }
}
