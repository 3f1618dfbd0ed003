//! What callers may cost a replica at most.
//!
//! Each field is configuration with a default; together they bound the memory: at most `items_max` layers and
//! images of about 80 bytes each, `all_parts_max` parts, `nodes_max` nodes, and what `resolve` and `profiles` bound themselves.

use std::time::Duration;

/// Bounds of a replica. All byte counts are bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a node counts as alive after a heartbeat.
    pub ttl: Duration,
    /// For how long after its start a replica does not say that nobody holds something: it may not have
    /// been told yet.
    pub warm_up: Duration,
    /// Nodes.
    pub nodes_max: usize,
    /// Layers of one node (1 TB of layers of 16 MB).
    pub layers_max: usize,
    /// Images of one node.
    pub images_max: usize,
    /// Layers and images of all nodes together.
    pub items_max: usize,
    /// Blobs of one node of which it has parts.
    pub parts_max: usize,
    /// Of all nodes together.
    pub all_parts_max: usize,
    /// Services in an answer about one layer or image.
    pub providers_max: usize,
    /// How often a holder of a layer is named each second.
    pub named_per_s: u32,
    /// Bytes of a list of every service before its lists are left out.
    pub answer_bytes_max: usize,
    /// Bytes of one request.
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::with_ttl(Duration::from_secs(30))
    }
}

impl Limits {
    /// The defaults for this time to live.
    pub fn with_ttl(ttl: Duration) -> Self {
        Self {
            ttl,
            // A node sends every third of it, and waits a little when the first one fails.
            warm_up: ttl / 2,
            nodes_max: 20_000,
            layers_max: 65_536,
            images_max: 8_192,
            items_max: 16_000_000,
            parts_max: 256,
            // About 150 bytes each.
            all_parts_max: 1_000_000,
            providers_max: 64,
            // Some at once, and most of them are done in less than a second.
            named_per_s: 32,
            answer_bytes_max: 32 << 20,
            request_bytes_max: 16 << 20,
        }
    }
}
