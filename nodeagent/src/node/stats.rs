//! What the volumes did, and how they are.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use lamina_proto::lamina::v1::{FlistInfo, GetVolumeStatsResponse, Pod, Usage, Volume};
use rustix::fs::StatVfs;
use tonic::Code;

use super::Parts;
use super::daemons::blocking;
use super::error::NodeError;
use super::target::Target;
use super::volumes::{Record, VolumeId};
use crate::api::{MountInfo, MountState};

/// A file system that does not answer sooner has lost its daemons.
const STATFS_TIMEOUT: Duration = Duration::from_secs(5);

/// Every volume on record with what the agent says of its mount.
pub(super) async fn volumes(parts: &Parts) -> Result<Vec<Volume>, NodeError> {
    let mounts = blocking(&parts.daemons, super::daemons::Daemons::mounts_resident);
    let (mounts, _) = mounts.await?;
    let by_target: HashMap<PathBuf, MountInfo> = mounts
        .into_iter()
        .filter(|mount| mount.state != MountState::Detached)
        .map(|mount| (mount.target.clone(), mount))
        .collect();
    let records = parts.volumes.all().into_iter();
    Ok(records
        .map(|record| {
            let mount = by_target.get(&record.target).cloned();
            let unwanted = parts.volumes.is_unwanted(&record.digest);
            Volume {
                unwanted,
                ..volume(record, mount)
            }
        })
        .collect())
}

fn volume(record: Record, mount: Option<MountInfo>) -> Volume {
    let state = match &mount {
        Some(mount) if mount.state == MountState::Degraded => "degraded",
        Some(_) => "mounted",
        // It is on record before it is mounted: its source may be on its way for a long time.
        None if !record.is_published() => "mounting",
        None => "detached",
    };
    let mount = mount.unwrap_or_default();
    let last_error = match mount.note.is_empty() {
        true => mount.last_error,
        false => mount.note,
    };
    Volume {
        volume_id: record.volume_id.as_str().to_owned(),
        target: record.target.display().to_string(),
        digest: record.digest,
        reference: record.reference,
        pod: Some(Pod {
            namespace: record.pod.namespace,
            name: record.pod.name,
            uid: record.pod.uid,
        }),
        writable: record.what.writable,
        mode: record.mode,
        bytes_total: mount.bytes_total,
        bytes_local: mount.bytes_local,
        bytes_fetched: mount.bytes_fetched,
        bytes_transferred: mount.bytes_transferred,
        bytes_from_peers: mount.bytes_from_peers,
        bytes_from_stores: mount.bytes_from_stores,
        bytes_from_registry: mount.bytes_from_registry,
        bytes_waited_peers: mount.bytes_waited_peers,
        bytes_waited_stores: mount.bytes_waited_stores,
        bytes_waited_registry: mount.bytes_waited_registry,
        reads: mount.reads,
        reads_local: mount.reads_local,
        reads_failed: mount.reads_failed,
        first_read_unix_ms: i64::try_from(mount.first_read_unix_ms).unwrap_or_default(),
        bytes_read: mount.bytes_read,
        bytes_read_local: mount.bytes_read_local,
        bytes_resident: mount.bytes_resident,
        bytes_prefetched: mount.bytes_prefetched,
        bytes_prefetched_used: mount.bytes_prefetched_used,
        profile: mount.profile,
        last_error,
        state: state.to_owned(),
        published_unix_ms: record.published_unix_ms,
        took_us: record.took_us,
        ensure_us: record.ensure_us,
        unwanted: false,
    }
}

/// Usage and condition of a volume.
pub(super) async fn usage(
    parts: &Parts,
    id: &VolumeId,
    target: Option<Target>,
) -> Result<GetVolumeStatsResponse, NodeError> {
    let wanted = |record: &Record| {
        let target = target.as_ref();
        target.is_none_or(|target| target.path() == record.target)
    };
    let record = parts.volumes.of(id).into_iter().find(wanted);
    let Some(record) = record.filter(Record::is_published) else {
        let message = format!("volume {} is not published there", id.as_str());
        return Err(NodeError::new(Code::NotFound, message));
    };
    let (mounts, _) = blocking(&parts.daemons, super::daemons::Daemons::mounts).await?;
    let is_it =
        |mount: &&MountInfo| mount.target == record.target && mount.state != MountState::Detached;
    let Some(mount) = mounts.iter().find(is_it) else {
        return Ok(GetVolumeStatsResponse {
            abnormal: true,
            condition: "it is not mounted any more: the pod must be made anew".into(),
            ..GetVolumeStatsResponse::default()
        });
    };
    let (bytes, inodes) = match record.what.writable {
        true => writable(parts, &record).await?,
        false => (full(mount.bytes_total), full(mount.entries)),
    };
    let (abnormal, condition) = condition(mount);
    Ok(GetVolumeStatsResponse {
        bytes: Some(bytes),
        inodes: Some(inodes),
        abnormal,
        condition,
    })
}

fn condition(mount: &MountInfo) -> (bool, String) {
    if mount.state == MountState::Degraded {
        return (true, mount.note.clone());
    }
    let local = format!(
        "{} of {} bytes are here",
        mount.bytes_local, mount.bytes_total
    );
    match mount.reads_failed {
        0 => (false, format!("mounted and served; {local}")),
        failed => {
            let why = &mount.last_error;
            let text = format!("mounted; {failed} reads failed since then, last: {why}; {local}");
            (false, text)
        }
    }
}

fn full(count: u64) -> Usage {
    Usage {
        total: count,
        used: count,
        available: 0,
    }
}

/// What was written, of what may be.
async fn writable(parts: &Parts, record: &Record) -> Result<(Usage, Usage), NodeError> {
    let target = parts.targets.parse(&record.target.display().to_string())?;
    let directory = parts.targets.find(&target)?;
    let Some(directory) = directory else {
        let message = format!("{} is gone", record.target.display());
        return Err(NodeError::new(Code::NotFound, message));
    };
    let stat = tokio::task::spawn_blocking(move || statfs(&directory));
    let late = |_| {
        NodeError::new(
            Code::DeadlineExceeded,
            format!("{} does not say its usage", record.target.display()),
        )
    };
    let stat = tokio::time::timeout(STATFS_TIMEOUT, stat)
        .await
        .map_err(late)?
        .map_err(|error| NodeError::internal("ask a volume for its usage", &error))?
        .map_err(|error| NodeError::disk("ask a volume for its usage", &error))?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    let usage = |total: u64, free: u64, available: u64| Usage {
        total,
        used: total.saturating_sub(free),
        available,
    };
    Ok((
        usage(
            bytes(stat.f_blocks),
            bytes(stat.f_bfree),
            bytes(stat.f_bavail),
        ),
        usage(stat.f_files, stat.f_ffree, stat.f_favail),
    ))
}

fn statfs(directory: &OwnedFd) -> std::io::Result<StatVfs> {
    Ok(rustix::fs::fstatvfs(directory)?)
}

/// The library's flists with what this node has and shows of them.
pub(super) async fn flists(parts: &Parts) -> Result<Vec<FlistInfo>, NodeError> {
    let (mounts, _) = blocking(&parts.daemons, super::daemons::Daemons::mounts).await?;
    let records = parts.volumes.all();
    let mut flists = parts.library.list();
    for flist in &mut flists {
        let shows = |record: &&Record| record.digest == flist.digest;
        flist.volumes = records.iter().filter(shows).count() as u32;
        let local = mounts.iter().filter(|mount| mount.digest == flist.digest);
        let local = local.map(|mount| mount.bytes_local).max();
        flist.bytes_local = local.unwrap_or(flist.bytes_local);
    }
    Ok(flists)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::volumes::{PodName, What};

    #[test]
    fn what_is_not_mounted_yet_is_not_told_as_lost() {
        let record = |published_unix_ms| Record {
            volume_id: VolumeId::parse("v").unwrap(),
            target: "/t".into(),
            what: What {
                source: "image a".into(),
                stores: String::new(),
                writable: false,
                overlay_bytes_max: 0,
                overlay_medium: crate::api::Medium::default(),
                sub_path: String::new(),
            },
            pod: PodName::default(),
            reference: "a".into(),
            digest: String::new(),
            mode: String::new(),
            published_unix_ms,
            took_us: 0,
            ensure_us: 0,
        };
        assert_eq!(volume(record(0), None).state, "mounting");
        assert_eq!(volume(record(1), None).state, "detached");
        let mounted = Some(MountInfo::default());
        assert_eq!(volume(record(1), mounted).state, "mounted");
    }
}
