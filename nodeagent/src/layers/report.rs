//! What discovery is told of this node: at start, and at once after every change.

use std::sync::{Arc, Weak};

use lamina_proto::discovery::v1::{HeartbeatRequest, LayerStat};

use super::layerstore::Inner;

/// As many layers as a heartbeat may name.
const LAYERS_MAX: usize = 65_536;

/// Begins to tell; ends with the layerstore.
pub(super) fn start(inner: &Arc<Inner>) {
    if inner.cluster.is_some() {
        tokio::spawn(tell(Arc::downgrade(inner), inner.shelf.changes()));
    }
}

async fn tell(inner: Weak<Inner>, mut changes: tokio::sync::watch::Receiver<u64>) {
    loop {
        changes.mark_unchanged();
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let looked = Arc::clone(&inner);
        let Ok(holds) = tokio::task::spawn_blocking(move || holds(&looked)).await else {
            return;
        };
        if let Some(cluster) = &inner.cluster {
            cluster.report(holds);
        }
        drop(inner);
        // The sender lives in the shelf: an error is its end, and ours.
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// All that is here. Who this is says the cluster.
fn holds(inner: &Inner) -> HeartbeatRequest {
    let mut layers = inner.shelf.layers();
    layers.truncate(LAYERS_MAX);
    let (_, max) = inner.shelf.bytes();
    HeartbeatRequest {
        layer_digests: layers.iter().map(|(layer, _)| layer.to_string()).collect(),
        layer_stats: layers
            .iter()
            .map(|(layer, bytes)| LayerStat {
                digest: layer.to_string(),
                afs_size: signed(*bytes),
            })
            .collect(),
        cached_images: inner.whole_images(),
        cache_max_bytes: signed(max),
        ..HeartbeatRequest::default()
    }
}

/// A count of bytes as the protocol has it.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
