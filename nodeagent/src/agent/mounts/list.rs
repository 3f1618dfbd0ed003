//! What the mounts did: their figures.

use super::Agent;
use crate::agent::failure::{Result, failure};
use crate::agent::live::LiveMount;
use crate::api::{Answer, FailureKind, MountInfo, MountState, MountsCall};
use lamina_flist::FlistDigest;
use std::collections::HashMap;
use std::sync::Arc;

impl Agent {
    pub(super) fn list_now(&self, call: MountsCall) -> Result<Answer> {
        let stats = self
            .mountd()?
            .stats()
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let mounts: Vec<Arc<LiveMount>> = self.mounts().values().cloned().collect();
        let resident = match call.resident {
            true => resident(&mounts),
            false => HashMap::new(),
        };
        let mut mounts: Vec<MountInfo> = mounts
            .iter()
            .map(|mount| MountInfo {
                bytes_resident: resident.get(&mount.flist.digest).copied().flatten(),
                ..mount.info(&stats.blobs)
            })
            .collect();
        mounts.extend(self.pending().values().map(super::Pending::info));
        let detached = self.detached();
        mounts.extend(detached.iter().map(|mount| MountInfo {
            state: MountState::Detached,
            note: "unmounted, but still read; it ends with its last reader".into(),
            ..mount.info(&stats.blobs)
        }));
        drop(detached);
        let (bytes, bytes_max, expire) = self.space.report();
        let cache = crate::api::CacheInfo {
            dir: self.config.cache.clone(),
            bytes,
            bytes_max,
            expire_s: expire.map(|time| time.as_secs()),
            peers: self.fetcher.peer_counts(),
        };
        Ok(Answer::Mounts { mounts, cache })
    }

    /// Keeps the profiles of mounts that never end. In turn: the end of a mount writes them as well.
    pub(crate) async fn keep_profiles(self: &Arc<Self>) {
        self.adopted().await;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let agent = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || {
            agent.save_profiles();
            drop(turn);
        });
        if let Err(error) = kept.await {
            tracing::warn!(%error, "keep access profiles");
        }
    }
}

/// What of each flist is in memory; once for all targets that show it.
fn resident(mounts: &[Arc<LiveMount>]) -> HashMap<FlistDigest, Option<u64>> {
    let mut found = HashMap::new();
    for mount in mounts {
        let live = &mount.flist;
        let looked = found.entry(live.digest);
        looked.or_insert_with(|| live.bytes_resident());
    }
    found
}
