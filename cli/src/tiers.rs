//! Hit rates by tier: where the bytes that programs read came from.
//!
//! ```text
//! page       in the kernel's memory: seen by nobody, so what is there now is shown; the rates below are of what is not
//! disk       on this machine when it was asked for
//! peer       a reader waited, and another node gave it
//! store      a reader waited, and a store gave it
//! registry   a reader waited, and this node's own layerstore read it from the registry
//! ```
//! What was answered from disk is counted in bytes read, what was waited for in bytes fetched: whole chunks, of which a
//! read may need a part. So the share that waited is divided by what was fetched meanwhile.

use crate::output;
use lamina_nodeagent::api::MountInfo;
use lamina_proto::lamina::v1::Volume;
use serde::Serialize;

/// Header of [`Tiers::row`].
pub(crate) const HEADER: [&str; 8] = [
    "PAGE",
    "READ",
    "DISK",
    "PEER",
    "STORE",
    "REGISTRY",
    "PREFETCHED",
    "USED",
];

/// What the columns mean.
pub(crate) const LEGEND: &str = "PAGE: of the image, in the kernel's memory now. READ: bytes that were not; of them \
    DISK were here, the rest was waited for and came from PEER, STORE or REGISTRY. USED: of PREFETCHED, read since.";

/// Bytes by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ByOrigin {
    peers: u64,
    stores: u64,
    registry: u64,
}

/// What is known of a mount's reads, or of many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[allow(
    clippy::struct_field_names,
    reason = "as scripts read them, beside other fields"
)]
pub(crate) struct Tiers {
    bytes_total: u64,
    /// `None` where the kernel does not say.
    bytes_resident: Option<u64>,
    bytes_read: u64,
    bytes_read_local: u64,
    /// Fetched while a reader waited.
    bytes_waited: ByOrigin,
    /// Fetched in all.
    bytes_fetched: ByOrigin,
    bytes_prefetched: u64,
    bytes_prefetched_used: u64,
}

impl ByOrigin {
    fn sum(self) -> u64 {
        self.peers + self.stores + self.registry
    }

    fn plus(self, other: Self) -> Self {
        Self {
            peers: self.peers + other.peers,
            stores: self.stores + other.stores,
            registry: self.registry + other.registry,
        }
    }
}

impl From<&MountInfo> for Tiers {
    fn from(info: &MountInfo) -> Self {
        Self {
            bytes_total: info.bytes_total,
            bytes_resident: info.bytes_resident,
            bytes_read: info.bytes_read,
            bytes_read_local: info.bytes_read_local,
            bytes_waited: ByOrigin {
                peers: info.bytes_waited_peers,
                stores: info.bytes_waited_stores,
                registry: info.bytes_waited_registry,
            },
            bytes_fetched: ByOrigin {
                peers: info.bytes_from_peers,
                stores: info.bytes_from_stores,
                registry: info.bytes_from_registry,
            },
            bytes_prefetched: info.bytes_prefetched,
            bytes_prefetched_used: info.bytes_prefetched_used,
        }
    }
}

impl From<&Volume> for Tiers {
    fn from(volume: &Volume) -> Self {
        Self {
            bytes_total: volume.bytes_total,
            bytes_resident: volume.bytes_resident,
            bytes_read: volume.bytes_read,
            bytes_read_local: volume.bytes_read_local,
            bytes_waited: ByOrigin {
                peers: volume.bytes_waited_peers,
                stores: volume.bytes_waited_stores,
                registry: volume.bytes_waited_registry,
            },
            bytes_fetched: ByOrigin {
                peers: volume.bytes_from_peers,
                stores: volume.bytes_from_stores,
                registry: volume.bytes_from_registry,
            },
            bytes_prefetched: volume.bytes_prefetched,
            bytes_prefetched_used: volume.bytes_prefetched_used,
        }
    }
}

impl std::iter::Sum for Tiers {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.reduce(|one, other| Self {
            bytes_total: one.bytes_total + other.bytes_total,
            // Unknown of one is unknown of all.
            bytes_resident: one
                .bytes_resident
                .zip(other.bytes_resident)
                .map(|(one, other)| one + other),
            bytes_read: one.bytes_read + other.bytes_read,
            bytes_read_local: one.bytes_read_local + other.bytes_read_local,
            bytes_waited: one.bytes_waited.plus(other.bytes_waited),
            bytes_fetched: one.bytes_fetched.plus(other.bytes_fetched),
            bytes_prefetched: one.bytes_prefetched + other.bytes_prefetched,
            bytes_prefetched_used: one.bytes_prefetched_used + other.bytes_prefetched_used,
        })
        .unwrap_or_default()
    }
}

impl Tiers {
    /// As [`HEADER`] says.
    pub(crate) fn row(&self) -> [String; 8] {
        let rest = self.bytes_read.saturating_sub(self.bytes_read_local);
        // Readers that waited for what was on its way already: for anything that was fetched.
        let by = match self.bytes_waited.sum() {
            0 => self.bytes_fetched,
            _ => self.bytes_waited,
        };
        let waited = |part: u64| {
            let share = u128::from(rest) * u128::from(part) / u128::from(by.sum().max(1));
            output::percent(u64::try_from(share).unwrap_or(rest), self.bytes_read)
        };
        let page = self.bytes_resident;
        [
            page.map_or_else(
                || "-".to_owned(),
                |page| output::percent(page, self.bytes_total),
            ),
            output::size(self.bytes_read),
            output::percent(self.bytes_read_local, self.bytes_read),
            waited(by.peers),
            waited(by.stores),
            waited(by.registry),
            output::size(self.bytes_prefetched),
            output::percent(self.bytes_prefetched_used, self.bytes_prefetched),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_past_memory_came_from_one_of_four_tiers() {
        let tiers = Tiers {
            bytes_total: 1000,
            bytes_resident: Some(250),
            bytes_read: 800,
            bytes_read_local: 400,
            bytes_waited: ByOrigin {
                peers: 600,
                stores: 150,
                registry: 50,
            },
            bytes_prefetched: 100,
            bytes_prefetched_used: 90,
            ..Tiers::default()
        };
        let expected = [
            "25.0%", "800 B", "50.0%", "37.5%", "9.4%", "3.1%", "100 B", "90.0%",
        ];
        assert_eq!(tiers.row(), expected);
        let double: Tiers = [tiers, tiers].into_iter().sum();
        assert_eq!(double.row()[2..6], tiers.row()[2..6]);
        assert_eq!(double.row()[0], "25.0%");
    }

    #[test]
    fn who_waited_for_what_a_guess_had_begun_to_fetch_waited_for_its_origin() {
        let tiers = Tiers {
            bytes_read: 100,
            bytes_fetched: ByOrigin {
                peers: 300,
                ..ByOrigin::default()
            },
            ..Tiers::default()
        };
        let expected = ["-", "100 B", "0.0%", "100.0%", "0.0%", "0.0%", "0 B", "-"];
        assert_eq!(tiers.row(), expected);
    }
}
