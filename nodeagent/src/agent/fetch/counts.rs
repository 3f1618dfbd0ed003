//! What was brought for one blob, by where it came from.

use super::Urgency;
use crate::api::MountInfo;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where data came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Another node, at once or as a layer that was copied whole.
    Peer,
    /// A flist's store.
    Store,
    /// A registry, by way of this node's own layerstore.
    Registry,
}

/// Bytes by where they came from.
#[derive(Debug, Default)]
struct ByOrigin {
    peers: AtomicU64,
    stores: AtomicU64,
    registry: AtomicU64,
}

/// Counts of one source, since it was opened.
#[derive(Debug, Default)]
pub(crate) struct FetchCounts {
    /// Plain bytes brought.
    brought: ByOrigin,
    /// Of them, those that a reader waited for.
    waited_for: ByOrigin,
    /// Stored bytes that all of it travelled as.
    stored_bytes: AtomicU64,
    /// Entries brought while a reader waited.
    demanded: AtomicU64,
    /// Entries brought before anybody asked.
    ahead: AtomicU64,
}

impl FetchCounts {
    /// Counts one entry that arrived.
    pub(crate) fn count(&self, len: u64, stored_len: u64, via: Via, urgency: Urgency) {
        self.brought.add(via, len);
        self.stored_bytes.fetch_add(stored_len, Ordering::Relaxed);
        if urgency == Urgency::Demand {
            self.waited_for.add(via, len);
            self.demanded.fetch_add(1, Ordering::Relaxed);
        } else {
            self.ahead.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Plain bytes brought.
    pub(crate) fn bytes(&self) -> u64 {
        self.brought.all()
    }

    /// Adds these figures to a mount's.
    pub(crate) fn add_to(&self, info: &mut MountInfo) {
        info.bytes_fetched += self.brought.all();
        info.bytes_from_peers += get(&self.brought.peers);
        info.bytes_from_stores += get(&self.brought.stores);
        info.bytes_from_registry += get(&self.brought.registry);
        info.bytes_waited_peers += get(&self.waited_for.peers);
        info.bytes_waited_stores += get(&self.waited_for.stores);
        info.bytes_waited_registry += get(&self.waited_for.registry);
        info.bytes_transferred += get(&self.stored_bytes);
        info.chunks_demanded += get(&self.demanded);
        info.chunks_prefetched += get(&self.ahead);
    }

    /// Plain bytes that other nodes gave.
    #[cfg(test)]
    pub(crate) fn peer_bytes(&self) -> u64 {
        get(&self.brought.peers)
    }

    /// Stored bytes that travelled.
    #[cfg(test)]
    pub(crate) fn stored_bytes(&self) -> u64 {
        get(&self.stored_bytes)
    }
}

impl ByOrigin {
    fn add(&self, via: Via, len: u64) {
        let count = match via {
            Via::Peer => &self.peers,
            Via::Store => &self.stores,
            Via::Registry => &self.registry,
        };
        count.fetch_add(len, Ordering::Relaxed);
    }

    fn all(&self) -> u64 {
        get(&self.peers) + get(&self.stores) + get(&self.registry)
    }
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_origin_and_waiting_is_told_apart() {
        let counts = FetchCounts::default();
        counts.count(100, 50, Via::Store, Urgency::Demand);
        counts.count(30, 20, Via::Peer, Urgency::Ahead);
        counts.count(7, 7, Via::Peer, Urgency::Demand);
        counts.count(5, 5, Via::Registry, Urgency::Asked);
        let mut info = MountInfo::default();
        counts.add_to(&mut info);
        assert_eq!(info.bytes_fetched, 142);
        let brought = [
            info.bytes_from_peers,
            info.bytes_from_stores,
            info.bytes_from_registry,
        ];
        assert_eq!(brought, [37, 100, 5]);
        let waited = [
            info.bytes_waited_peers,
            info.bytes_waited_stores,
            info.bytes_waited_registry,
        ];
        assert_eq!(waited, [7, 100, 0]);
        assert_eq!((info.bytes_transferred, info.chunks_demanded), (82, 2));
        assert_eq!(info.chunks_prefetched, 2);
    }
}
