//! Bringing a flist's data to this node before any volume shows it: it is mounted where nobody looks,
//! fetched, and unmounted; what was fetched stays in the cache.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamina_proto::lamina::v1::Warm;
use tonic::Code;

use super::Parts;
use super::daemons::blocking;
use super::error::NodeError;
use super::library::Have;
use crate::api::{
    self, CallError, FailureKind, Medium, ModeRequest, MountCall, PrefetchCall, Request, UmountCall,
};

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
    /// Fetches what is asked, telling how far it is: bytes here, and of them all.
    pub(super) async fn warm(
        &self,
        parts: &Parts,
        have: &Have,
        warm: Warm,
        tell: impl Fn(u64, u64),
    ) -> Result<(), NodeError> {
        if warm == Warm::None {
            return Ok(());
        }
        let turn = self.turn(&have.info.digest);
        let _turn = turn.lock().await;
        let at = parts.settings.state.join("warm").join(&have.info.digest);
        std::fs::create_dir_all(&at)
            .map_err(|error| NodeError::disk(&format!("make {}", at.display()), &error))?;
        let mount = Request::Mount(mount_call(parts, have, at.clone()));
        blocking(&parts.daemons, move |daemons| {
            Ok(daemons.call(&mount, MOUNT_TIMEOUT)?)
        })
        .await?;
        let fetched = fetch(parts, at.clone(), warm, tell).await;
        let unmounted = blocking(&parts.daemons, {
            let target = at.clone();
            move |daemons| unmount(daemons, target)
        });
        unmounted.await?;
        let _ = std::fs::remove_dir(&at);
        fetched
    }

    fn turn(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(digest.to_owned()).or_default())
    }
}

fn mount_call(parts: &Parts, have: &Have, target: PathBuf) -> MountCall {
    MountCall {
        flist: have.flist.clone(),
        target,
        upper: None,
        upper_bytes_max: None,
        upper_medium: Medium::default(),
        sub_path: None,
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
        let glance = blocking(&parts.daemons, super::daemons::Daemons::glance).await;
        let mounts = glance.map(|(mounts, _)| mounts).unwrap_or_default();
        if let Some(mount) = mounts.iter().find(|mount| mount.target == target) {
            tell(mount.bytes_local, mount.bytes_total);
        }
    }
}

fn unmount(daemons: &super::daemons::Daemons, target: PathBuf) -> Result<(), NodeError> {
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
