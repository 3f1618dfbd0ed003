//! Figures of the node, in Prometheus' text format (`docs/metrics.md` lists them).
//!
//! Those of mounts: [`super::mount_metrics`]; of requests to other nodes: [`super::peer_metrics`].

use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};
use tonic::Code;

use super::mount_metrics::MountMetrics;
use super::peer_metrics::PeerMetrics;
use super::volumes::Record;
use crate::api::{CacheInfo, MountInfo, MountState};
use crate::holder::ChildStatus;

/// From a local mount to a large conversion, seconds.
const BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0,
];

/// Every metric of a node.
pub(super) struct Metrics {
    registry: Registry,
    rpc: HistogramVec,
    publish: HistogramVec,
    volumes: IntGaugeVec,
    flists: IntGauge,
    cache: IntGauge,
    cache_max: IntGauge,
    agent_up: IntGauge,
    restarts: IntGaugeVec,
    mounts: MountMetrics,
    peers: PeerMetrics,
    certificate: IntGauge,
}

impl Metrics {
    pub(super) fn new(version: &str, node: &str) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let info = IntGaugeVec::new(
            Opts::new("lamina_node_info", "Version of `lamina node`; always 1"),
            &["version", "node"],
        )?;
        info.with_label_values(&[version, node]).set(1);
        let metrics = Self {
            rpc: histogram(
                "lamina_node_rpc_duration_seconds",
                "Time of calls of the node's service",
                &["method", "code"],
            )?,
            publish: histogram(
                "lamina_volume_publish_duration_seconds",
                "Time from a publish call until its volume was mounted, and of it until its flist was here",
                &["phase"],
            )?,
            volumes: gauges("lamina_volumes", "Published volumes", "state")?,
            flists: gauge("lamina_flists", "Flists in the node's library")?,
            cache: gauge("lamina_cache_bytes", "Bytes in the node's cache")?,
            cache_max: gauge(
                "lamina_cache_max_bytes",
                "Most bytes allowed in the node's cache",
            )?,
            agent_up: gauge("lamina_agent_up", "Whether the agent answers")?,
            restarts: gauges(
                "lamina_daemon_restarts",
                "Restarts of a mount daemon since its holder started",
                "daemon",
            )?,
            mounts: MountMetrics::new(&registry)?,
            peers: PeerMetrics::new(&registry)?,
            certificate: gauge(
                "lamina_node_certificate_not_after_seconds",
                "When the node's certificate ends, in Unix time; 0 while there is none",
            )?,
            registry,
        };
        let all: [Box<dyn Collector>; 9] = [
            Box::new(info),
            Box::new(metrics.rpc.clone()),
            Box::new(metrics.publish.clone()),
            Box::new(metrics.volumes.clone()),
            Box::new(metrics.flists.clone()),
            Box::new(metrics.cache.clone()),
            Box::new(metrics.cache_max.clone()),
            Box::new(metrics.agent_up.clone()),
            Box::new(metrics.restarts.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// There will be a certificate: without one the figure means nothing, and is not there.
    pub(super) fn will_be_certified(&self) -> prometheus::Result<()> {
        self.registry.register(Box::new(self.certificate.clone()))
    }

    /// There is a certificate.
    pub(super) fn certified_until(&self, end: SystemTime) {
        let since = end.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        self.certificate.set(whole(seconds));
    }

    /// A call was answered.
    pub(super) fn answered(&self, method: &str, code: Code, took: Duration) {
        let code = format!("{code:?}");
        let labels = [method, code.as_str()];
        self.rpc
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// A volume was published.
    pub(super) fn published(&self, record: &Record) {
        for (phase, us) in [("ensure", record.ensure_us), ("total", record.took_us)] {
            let seconds = Duration::from_micros(us).as_secs_f64();
            self.publish.with_label_values(&[phase]).observe(seconds);
        }
    }

    /// What the agent said, or that it did not.
    pub(super) fn look(
        &self,
        listed: Option<&(Vec<MountInfo>, CacheInfo)>,
        records: &[Record],
        flists: usize,
        children: &[ChildStatus],
    ) {
        self.agent_up.set(i64::from(listed.is_some()));
        self.flists.set(whole(flists as u64));
        for child in children {
            let gauge = self.restarts.with_label_values(&[child.name.as_str()]);
            gauge.set(whole(child.restarts));
        }
        let Some((mounts, cache)) = listed else {
            return;
        };
        self.cache.set(whole(cache.bytes));
        self.cache_max.set(whole(cache.bytes_max));
        for state in [MountState::Mounted, MountState::Degraded] {
            let shown = mounts.iter().filter(|mount| mount.state == state);
            let published = shown.filter(|mount| records.iter().any(|r| r.target == mount.target));
            let gauge = self.volumes.with_label_values(&[name(state)]);
            gauge.set(whole(published.count() as u64));
        }
        self.mounts.count(mounts);
        self.peers.count(&cache.peers);
    }

    pub(super) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// As gauges have it.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn name(state: MountState) -> &'static str {
    match state {
        MountState::Mounted => "mounted",
        MountState::Degraded => "degraded",
        MountState::Detached => "detached",
    }
}

fn histogram(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
    let opts = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
    HistogramVec::new(opts, labels)
}

fn gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(name, help)
}

fn gauges(name: &str, help: &str, label: &str) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), &[label])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_shows_what_was_said() {
        let metrics = Metrics::new("1", "n").unwrap();
        let mount = MountInfo {
            reads: 3,
            ..MountInfo::default()
        };
        metrics.look(Some(&(vec![mount], CacheInfo::default())), &[], 0, &[]);
        let text = metrics.text().unwrap();
        assert!(text.contains("lamina_reads_total 3"), "{text}");
        assert!(text.contains("lamina_node_info{node=\"n\",version=\"1\"} 1"));
    }
}
