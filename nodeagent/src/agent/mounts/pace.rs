//! Large reads on what is all local, small ones on what is not.
//!
//! A flist whose blobs are complete is read as native files on the cache's disk would be: with that
//! disk's read-ahead, and so with page cache folios of the same size. While data is missing, the
//! kernel's default holds: each speculative read may cost a request to a store.

use super::Agent;
use crate::agent::live::LiveFlist;
use lamina_mount::read_ahead;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the kernel gives file systems without a disk, in KiB (`VM_READAHEAD_PAGES`).
const DEFAULT_KB: u32 = 128;

impl Agent {
    /// Sets the read-ahead of a flist's mount by what is local now.
    pub(super) fn pace(&self, live: &LiveFlist) {
        let Some(bdi) = &live.bdi else {
            return;
        };
        let far = live.sources.iter().all(|source| source.is_complete());
        let of_disk = || read_ahead::of_disk(&self.config.cache).unwrap_or(DEFAULT_KB);
        let kb = if far {
            of_disk().max(DEFAULT_KB)
        } else {
            DEFAULT_KB
        };
        // Asked of the kernel: another agent may have set it, before this one was started.
        if bdi.read_ahead_kb().is_ok_and(|now| now == kb) {
            return;
        }
        if let Err(error) = bdi.set_read_ahead_kb(kb) {
            tracing::debug!(digest = %live.digest, kb, %error, "set the read-ahead of a mount");
        }
    }

    /// The same of every flist that is shown.
    pub(crate) async fn pace_all(self: &Arc<Self>) {
        let agent = Arc::clone(self);
        let paced = tokio::task::spawn_blocking(move || {
            let shown: BTreeMap<_, _> = agent
                .mounts()
                .values()
                .map(|mount| (mount.flist.mount_point.clone(), Arc::clone(&mount.flist)))
                .collect();
            for live in shown.values() {
                agent.pace(live);
            }
        });
        if let Err(error) = paced.await {
            tracing::warn!(%error, "look at what is local");
        }
    }
}
