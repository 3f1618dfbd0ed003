//! Publishing and unpublishing volumes.
//!
//! ```text
//!  order ──> target made ──> record ──> flist here ──> agent mounts ──> record: published
//! ```
//!
//! What always holds: one call at a time works on a publication; what it began goes on when its caller is
//! gone; the same call again finds what was done, another one for the same volume is refused; a publish
//! that fails leaves no record behind, and an unpublish ends one that is under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lamina_proto::lamina::v1::{FlistInfo, PublishResponse, Warm};
use tokio::sync::watch;
use tokio::time::timeout_at;
use tonic::Code;

use super::Parts;
use super::daemons::blocking;
use super::error::NodeError;
use super::keep;
use super::library::Have;
use super::listen::stopped;
use super::order::Order;
use super::target::Target;
use super::volumes::{Key, Record, VolumeId};
use crate::api::{
    self, Answer, CallError, FailureKind, ModeRequest, MountCall, MountInfo, MountState,
    PrefetchCall, Request, UmountCall,
};

/// How long the agent may take to mount what is here.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(60);
const UMOUNT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long fetching all of a flist may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Bytes of changes where the call does not say.
const OVERLAY_BYTES_DEFAULT: u64 = 1 << 30;

/// Who works on a publication.
#[derive(Debug, Default)]
struct Slot {
    turn: Arc<tokio::sync::Mutex<()>>,
    cancel: watch::Sender<bool>,
}

/// The volumes of this node and the calls that change them.
pub(super) struct Publisher {
    parts: Parts,
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    /// No volume is published any more.
    closed: AtomicBool,
    leaving: tokio::sync::Mutex<()>,
}

impl Publisher {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            parts,
            slots: Mutex::default(),
            closed: AtomicBool::new(false),
            leaving: tokio::sync::Mutex::default(),
        }
    }

    /// The node is left by one call at a time.
    pub(super) async fn leaving(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.leaving.lock().await
    }

    /// Refuses volumes from now on, or takes them again.
    pub(super) fn close(&self, closed: bool) {
        self.closed.store(closed, Ordering::SeqCst);
    }

    pub(super) fn check_open(&self) -> Result<(), NodeError> {
        match self.closed.load(Ordering::SeqCst) {
            true => Err(NodeError::new(
                Code::Unavailable,
                "Lamina is being taken off this node",
            )),
            false => Ok(()),
        }
    }

    /// Volumes that are mounted or about to be.
    pub(super) async fn in_use(&self) -> Result<Vec<Record>, NodeError> {
        if self.parts.daemons.is_over() {
            return Ok(Vec::new());
        }
        let (mounts, _) = blocking(&self.parts.daemons, super::daemons::Daemons::mounts).await?;
        let is_there = |record: &Record| {
            let mut mounts = mounts.iter();
            mounts.any(|m| m.target == record.target && m.state != MountState::Detached)
        };
        let mut records = self.parts.volumes.all();
        records.retain(|record| !record.is_published() || is_there(record));
        Ok(records)
    }

    /// Calls off what is being published, and waits until nobody works on a volume; closed before.
    pub(super) async fn settle(&self, patience: Duration) -> Result<(), NodeError> {
        let end = tokio::time::Instant::now() + patience;
        let slots: Vec<Arc<Slot>> = {
            let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.values().cloned().collect()
        };
        for slot in slots {
            slot.cancel.send_replace(true);
            let turn = timeout_at(end, slot.turn.lock()).await;
            drop(turn.map_err(|_| NodeError::unfinished("a volume"))?);
        }
        Ok(())
    }

    /// Mounts a volume; `patience` is how long the caller waits.
    pub(super) async fn publish(
        self: &Arc<Self>,
        order: Order,
        patience: Duration,
    ) -> Result<PublishResponse, NodeError> {
        let end = tokio::time::Instant::now() + patience;
        self.check_open()?;
        self.refuse_another(&order)?;
        let slot = self.slot(&order.key);
        let turn = timeout_at(end, Arc::clone(&slot.turn).lock_owned()).await;
        let turn = turn.map_err(|_| NodeError::unfinished("the volume"))?;
        self.check_open()?;
        self.refuse_another(&order)?;
        slot.cancel.send_replace(false);
        let publisher = Arc::clone(self);
        let job = tokio::spawn(async move {
            let done = publisher.publish_now(order, slot.cancel.subscribe()).await;
            drop(turn);
            done
        });
        match timeout_at(end, job).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(NodeError::internal("publish a volume", &error)),
            Err(_) => Err(NodeError::unfinished("the volume")),
        }
    }

    /// The same volume may be shown at several targets, but always the same of it; a target shows one.
    fn refuse_another(&self, order: &Order) -> Result<(), NodeError> {
        let key = &order.key;
        for record in self.parts.volumes.all() {
            let (id, target) = (record.volume_id.as_str(), record.target.display());
            if record.volume_id != key.id && record.target == key.target {
                let message = format!("volume {id} is published at {target}");
                return Err(NodeError::new(Code::FailedPrecondition, message));
            }
            if record.volume_id == key.id && record.what != order.what {
                let message = format!(
                    "volume {id} is published at {target} with other arguments: {} is shown there",
                    record.reference
                );
                return Err(NodeError::new(Code::AlreadyExists, message));
            }
        }
        Ok(())
    }

    async fn publish_now(
        self: &Arc<Self>,
        order: Order,
        cancel: watch::Receiver<bool>,
    ) -> Result<PublishResponse, NodeError> {
        // Said after the call was let in, and before anything is begun.
        self.check_open()?;
        if let Some(record) = self.parts.volumes.get(&order.key)
            && let Some(mount) = self.mounted(&order.key).await?
        {
            return self.published_before(record, &mount);
        }
        let made = self.parts.targets.make(&order.target)?;
        let done = self.show(&order, cancel).await;
        if done.is_err() {
            if let Err(error) = self.parts.volumes.remove(&order.key) {
                tracing::warn!(%error, "forget a volume that could not be published");
            }
            if made {
                self.remove_target(&order.target);
            }
        }
        done
    }

    async fn show(
        self: &Arc<Self>,
        order: &Order,
        cancel: watch::Receiver<bool>,
    ) -> Result<PublishResponse, NodeError> {
        let began = Instant::now();
        let mut record = order.record();
        self.parts.volumes.put(record.clone())?;
        let source = order.named.source.clone();
        let ensured = self
            .parts
            .library
            .ensure(source, &order.stores, |_, _, _| ());
        let have = tokio::select! {
            have = ensured => have?,
            () = stopped(cancel) => {
                return Err(NodeError::new(Code::Aborted, "the volume was unpublished meanwhile"));
            }
        };
        let ensure_us = match have.was_here {
            true => 0,
            false => began.elapsed().as_micros() as u64,
        };
        let mount = self.mount(order, &have).await?;
        record.digest.clone_from(&mount.digest);
        record.mode.clone_from(&mount.mode);
        record.published_unix_ms = unix_ms();
        record.took_us = began.elapsed().as_micros() as u64;
        record.ensure_us = ensure_us;
        self.parts.volumes.put(record.clone())?;
        tracing::info!(
            volume = record.volume_id.as_str(),
            pod = record.pod.name,
            namespace = record.pod.namespace,
            reference = record.reference,
            digest = record.digest,
            took_us = record.took_us,
            ensure_us,
            "published"
        );
        self.parts.metrics.published(&record);
        if order.warm == Warm::All {
            self.fetch_all(order.key.clone());
        }
        Ok(response(&record, have.info, &mount))
    }

    async fn mount(&self, order: &Order, have: &Have) -> Result<MountInfo, NodeError> {
        let stores = match order.stores.is_empty() {
            true => have.stores.clone(),
            false => order.stores.clone(),
        };
        let what = &order.what;
        let bytes_max = match what.overlay_bytes_max {
            0 => OVERLAY_BYTES_DEFAULT,
            bytes => bytes,
        };
        let call = MountCall {
            flist: have.flist.clone(),
            target: order.key.target.clone(),
            upper: what.writable.then(|| self.parts.volumes.upper(&order.key)),
            upper_bytes_max: what.writable.then_some(bytes_max),
            upper_medium: what.overlay_medium,
            sub_path: (!what.sub_path.is_empty()).then(|| what.sub_path.clone()),
            image: have.image(),
            docker_config: keep::docker_config(&order.named.source, have).await,
            mode: ModeRequest::Auto,
            stores,
            store_env: self.parts.settings.store_env.clone(),
            cache_size: self.parts.settings.cache_bytes_max,
            cache_expire_s: None,
            trusted: false,
            prefetch: order.warm != Warm::None,
            deadline_ms: Some(api::clock_ms() + MOUNT_TIMEOUT.as_millis() as u64),
        };
        let answer = blocking(&self.parts.daemons, move |daemons| {
            Ok(daemons.call(
                &Request::Mount(Box::new(call)),
                MOUNT_TIMEOUT + Duration::from_secs(2),
            )?)
        });
        match answer.await? {
            Answer::Mounted(info) => Ok(*info),
            _ => Err(NodeError::new(
                Code::Internal,
                "the agent gave an answer of another kind",
            )),
        }
    }

    /// The same call was made before, maybe of a node that was killed before it could note its end.
    fn published_before(
        &self,
        mut record: Record,
        mount: &MountInfo,
    ) -> Result<PublishResponse, NodeError> {
        if !record.is_published() {
            record.digest.clone_from(&mount.digest);
            record.mode.clone_from(&mount.mode);
            record.took_us = mount.ready_us;
            record.published_unix_ms = unix_ms();
            self.parts.volumes.put(record.clone())?;
        }
        let mut known = self.parts.library.list().into_iter();
        let info = known
            .find(|info| info.digest == record.digest)
            .unwrap_or_else(|| FlistInfo {
                digest: record.digest.clone(),
                reference: record.reference.clone(),
                entries: mount.entries,
                ..FlistInfo::default()
            });
        Ok(response(&record, info, mount))
    }

    /// What the agent shows at a publication's target and can serve.
    async fn mounted(&self, key: &Key) -> Result<Option<MountInfo>, NodeError> {
        let (mounts, _) = blocking(&self.parts.daemons, super::daemons::Daemons::mounts).await?;
        Ok(mounts
            .into_iter()
            .find(|mount| mount.target == key.target && mount.state == MountState::Mounted))
    }

    /// Unmounts a volume from a target, or from all of them where none is named.
    pub(super) async fn unpublish(
        self: &Arc<Self>,
        id: &VolumeId,
        target: Option<Target>,
        patience: Duration,
    ) -> Result<(), NodeError> {
        let end = tokio::time::Instant::now() + patience;
        let targets: Vec<Target> = if let Some(target) = target {
            vec![target]
        } else {
            let records = self.parts.volumes.of(id).into_iter();
            let paths = records.map(|record| record.target.display().to_string());
            let parsed = paths.map(|path| self.parts.targets.parse(&path));
            parsed.collect::<Result<_, _>>()?
        };
        for target in targets {
            let key = Key {
                id: id.clone(),
                target: target.path().into(),
            };
            let slot = self.slot(&key);
            slot.cancel.send_replace(true);
            let turn = timeout_at(end, Arc::clone(&slot.turn).lock_owned()).await;
            let turn = turn.map_err(|_| NodeError::unfinished("the volume"))?;
            let publisher = Arc::clone(self);
            let job = tokio::spawn(async move {
                let done = publisher.unpublish_now(&key, &target).await;
                drop(slot);
                drop(turn);
                done
            });
            match timeout_at(end, job).await {
                Ok(Ok(done)) => done?,
                Ok(Err(error)) => return Err(NodeError::internal("unpublish a volume", &error)),
                Err(_) => return Err(NodeError::unfinished("the end of the volume")),
            }
        }
        Ok(())
    }

    async fn unpublish_now(&self, key: &Key, target: &Target) -> Result<(), NodeError> {
        if self.parts.daemons.is_over() {
            // Nothing is mounted on this node any more.
            return Ok(());
        }
        let is_known = self.parts.volumes.get(key).is_some();
        // Another volume's target is not this one's to take down.
        let is_others = |record: &Record| record.target == key.target;
        if !is_known && self.parts.volumes.all().iter().any(is_others) {
            return Ok(());
        }
        let call = Request::Umount(UmountCall {
            target: key.target.clone(),
            force: true,
            timeout_ms: UMOUNT_TIMEOUT.as_millis() as u64,
        });
        let undone = blocking(&self.parts.daemons, move |daemons| {
            match daemons.call(&call, UMOUNT_TIMEOUT + Duration::from_secs(2)) {
                Err(CallError::Failed(failure)) if failure.kind == FailureKind::NotFound => Ok(()),
                answer => Ok(answer.map(drop)?),
            }
        });
        undone.await?;
        if is_known {
            self.remove_target(target);
            self.parts.volumes.remove(key)?;
            tracing::info!(volume = key.id.as_str(), "unpublished");
        }
        Ok(())
    }

    /// What is in it, or on it, is not ours.
    fn remove_target(&self, target: &Target) {
        if let Err(error) = self.parts.targets.remove(target) {
            tracing::warn!(%error, "a volume's directory stays");
        }
    }

    /// Brings the rest of a published volume, whoever waits.
    fn fetch_all(&self, key: Key) {
        let daemons = Arc::clone(&self.parts.daemons);
        tokio::task::spawn_blocking(move || {
            let call = Request::Prefetch(PrefetchCall {
                target: key.target,
                paths: Vec::new(),
                profile: false,
            });
            if let Err(error) = daemons.call(&call, FETCH_TIMEOUT) {
                tracing::warn!(%error, volume = key.id.as_str(), "fetch all of a volume");
            }
        });
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

fn response(record: &Record, mut flist: FlistInfo, mount: &MountInfo) -> PublishResponse {
    flist.bytes_local = local(flist.bytes, mount);
    PublishResponse {
        flist: Some(flist),
        mode: record.mode.clone(),
        took_us: record.took_us,
        ensure_us: record.ensure_us,
    }
}

/// Of `bytes` of files, those that are here; a mount counts what several files share once.
pub(super) fn local(bytes: u64, mount: &MountInfo) -> u64 {
    let here = u128::from(mount.bytes_local.min(mount.bytes_total));
    let part = (u128::from(bytes) * here).checked_div(u128::from(mount.bytes_total));
    // Without blobs all of it is in the flist.
    part.map_or(bytes, |part| part as u64)
}

/// Milliseconds since the Unix epoch.
fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_how_much_of_the_files_is_here() {
        let mount = |bytes_local, bytes_total| MountInfo {
            bytes_total,
            bytes_local,
            ..MountInfo::default()
        };
        assert_eq!(local(3000, &mount(0, 1000)), 0);
        assert_eq!(local(3000, &mount(500, 1000)), 1500);
        // Three equal files are one in the blobs.
        assert_eq!(local(3000, &mount(1000, 1000)), 3000);
        assert_eq!(local(3000, &mount(0, 0)), 3000);
        assert_eq!(local(u64::MAX, &mount(u64::MAX, u64::MAX)), u64::MAX);
    }
}
