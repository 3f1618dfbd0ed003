//! Figures of what mounts read and fetch, by where it came from.
//!
//! Counters of mounts end with their mounts; what was counted is kept here, so that the node's sums never
//! fall while `lamina node` runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use crate::api::MountInfo;

/// What is counted of mounts.
pub(super) struct MountMetrics {
    reads: IntCounter,
    reads_local: IntCounter,
    reads_failed: IntCounter,
    read_bytes: IntCounter,
    read_local_bytes: IntCounter,
    resident: IntGauge,
    /// By where it came from.
    fetched: IntCounterVec,
    waited: IntCounterVec,
    transferred: IntCounter,
    /// By profile.
    prefetched: IntCounterVec,
    prefetched_used: IntCounterVec,
    seen: Mutex<HashMap<String, MountInfo>>,
}

impl MountMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| {
            let made = IntCounter::new(name, help)?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let counters = |name: &str, help: &str, label: &str| {
            let made = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(made.clone()))?;
            prometheus::Result::Ok(made)
        };
        let resident = IntGauge::new(
            "lamina_resident_bytes",
            "Of the bytes of mounted images, those that the kernel has in memory; an estimate",
        )?;
        registry.register(Box::new(resident.clone()))?;
        Ok(Self {
            reads: counter("lamina_reads_total", "Reads that came to the mount daemon")?,
            reads_local: counter(
                "lamina_reads_local_total",
                "Of them, answered from local data without waiting",
            )?,
            reads_failed: counter("lamina_reads_failed_total", "Of them, failed with EIO")?,
            read_bytes: counter(
                "lamina_read_bytes_total",
                "Bytes that the mount daemon answered reads with",
            )?,
            read_local_bytes: counter(
                "lamina_read_local_bytes_total",
                "Of them, from local data without waiting",
            )?,
            resident,
            fetched: counters(
                "lamina_fetched_bytes_total",
                "Bytes fetched, decompressed, by where they came from",
                "from",
            )?,
            waited: counters(
                "lamina_waited_bytes_total",
                "Of the bytes fetched, those that a reader waited for",
                "from",
            )?,
            transferred: counter(
                "lamina_transferred_bytes_total",
                "Bytes that travelled for what was fetched, compressed",
            )?,
            prefetched: counters(
                "lamina_prefetched_bytes_total",
                "Of the bytes fetched, those fetched on a guess, by the profile that guesses follow",
                "profile",
            )?,
            prefetched_used: counters(
                "lamina_prefetched_used_bytes_total",
                "Of them, those that were read since",
                "profile",
            )?,
            seen: Mutex::default(),
        })
    }

    /// Adds what happened since the last look. Targets of one flist share its blobs' counters: each flist
    /// counts once.
    pub(super) fn count(&self, mounts: &[MountInfo]) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut next, mut resident) = (HashMap::new(), 0);
        for now in mounts {
            if next.contains_key(&now.digest) {
                continue;
            }
            let before = seen.remove(&now.digest).unwrap_or_default();
            self.add(now, &before);
            resident += now.bytes_resident.unwrap_or(0);
            next.insert(now.digest.clone(), now.clone());
        }
        *seen = next;
        self.resident
            .set(i64::try_from(resident).unwrap_or(i64::MAX));
    }

    fn add(&self, now: &MountInfo, before: &MountInfo) {
        let since = |of: fn(&MountInfo) -> u64| {
            let (now, before) = (of(now), of(before));
            // Less than before: a daemon was started again and counts from zero.
            now.checked_sub(before).unwrap_or(now)
        };
        self.reads.inc_by(since(|mount| mount.reads));
        self.reads_local.inc_by(since(|mount| mount.reads_local));
        self.reads_failed.inc_by(since(|mount| mount.reads_failed));
        self.read_bytes.inc_by(since(|mount| mount.bytes_read));
        self.read_local_bytes
            .inc_by(since(|mount| mount.bytes_read_local));
        self.transferred
            .inc_by(since(|mount| mount.bytes_transferred));
        let by = |counters: &IntCounterVec, label: &str, bytes: u64| {
            counters.with_label_values(&[label]).inc_by(bytes);
        };
        by(&self.fetched, "peer", since(|one| one.bytes_from_peers));
        by(&self.fetched, "store", since(|one| one.bytes_from_stores));
        by(
            &self.fetched,
            "registry",
            since(|one| one.bytes_from_registry),
        );
        by(&self.waited, "peer", since(|one| one.bytes_waited_peers));
        by(&self.waited, "store", since(|one| one.bytes_waited_stores));
        by(
            &self.waited,
            "registry",
            since(|one| one.bytes_waited_registry),
        );
        let profile = match now.profile.as_str() {
            "" => "none",
            kind => kind,
        };
        by(&self.prefetched, profile, since(|one| one.bytes_prefetched));
        by(
            &self.prefetched_used,
            profile,
            since(|one| one.bytes_prefetched_used),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    fn mount(target: &str, reads: u64) -> MountInfo {
        MountInfo {
            target: target.into(),
            digest: "d".into(),
            reads,
            bytes_from_stores: reads * 10,
            bytes_from_peers: reads * 4,
            bytes_waited_peers: reads,
            bytes_prefetched: reads * 3,
            bytes_prefetched_used: reads * 2,
            bytes_resident: Some(reads),
            profile: "shared".into(),
            ..MountInfo::default()
        }
    }

    #[test]
    fn sums_count_a_flist_once_and_never_fall() {
        let registry = Registry::new();
        let metrics = MountMetrics::new(&registry).unwrap();
        let look = |mounts: Vec<MountInfo>| {
            metrics.count(&mounts);
            metrics.reads.get()
        };
        assert_eq!(look(vec![mount("/a", 5), mount("/b", 5)]), 5);
        assert_eq!(look(vec![mount("/b", 7)]), 7);
        assert_eq!(look(vec![mount("/b", 2)]), 9, "counted from zero again");
        assert_eq!(look(vec![]), 9);
        assert_eq!(look(vec![mount("/b", 1)]), 10);
        let text = TextEncoder::new()
            .encode_to_string(&registry.gather())
            .unwrap();
        for line in [
            "lamina_reads_total 10",
            "lamina_fetched_bytes_total{from=\"peer\"} 40",
            "lamina_fetched_bytes_total{from=\"store\"} 100",
            "lamina_fetched_bytes_total{from=\"registry\"} 0",
            "lamina_waited_bytes_total{from=\"peer\"} 10",
            "lamina_prefetched_bytes_total{profile=\"shared\"} 30",
            "lamina_prefetched_used_bytes_total{profile=\"shared\"} 20",
            "lamina_resident_bytes 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
    }
}
