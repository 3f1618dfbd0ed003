//! Figures of a replica, in Prometheus' text format (`docs/discovery.md` lists them).

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tonic::Code;

use crate::registry::Registry as Nodes;

/// From an answer out of memory to a slow registry, seconds.
const BUCKETS: [f64; 12] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 30.0,
];

/// Every metric of a replica.
pub(crate) struct Metrics {
    registry: Registry,
    rpc: HistogramVec,
    nodes: IntGauge,
    layers: IntGauge,
    images: IntGauge,
    items: IntGauge,
    parts: IntGauge,
    expired: IntCounter,
    resolved: IntCounterVec,
    profiles: IntGauge,
    profile_ranges: IntGauge,
    warm: IntGauge,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let info = Opts::new("lamina_discovery_info", "Version of the replica; always 1");
        let info = IntGaugeVec::new(info, &["version"])?;
        info.with_label_values(&[version]).set(1);
        let rpc = HistogramOpts::new(
            "lamina_discovery_rpc_duration_seconds",
            "Time of calls of discovery",
        );
        let rpc = HistogramVec::new(rpc.buckets(BUCKETS.to_vec()), &["method", "code"])?;
        let resolved = Opts::new(
            "lamina_discovery_resolved_total",
            "Images resolved, by where the answer came from: memory or registry",
        );
        let metrics = Self {
            rpc,
            nodes: gauge("lamina_discovery_nodes", "Live nodes")?,
            layers: gauge("lamina_discovery_layers", "Layers that some node holds")?,
            images: gauge("lamina_discovery_images", "Images that some node holds")?,
            items: gauge(
                "lamina_discovery_items",
                "Layers and images of all nodes together",
            )?,
            parts: gauge(
                "lamina_discovery_parts",
                "Blobs of which nodes have parts, of all nodes together",
            )?,
            expired: IntCounter::new(
                "lamina_discovery_expired_total",
                "Nodes whose heartbeats stopped",
            )?,
            resolved: IntCounterVec::new(resolved, &["from"])?,
            profiles: gauge("lamina_discovery_profiles", "Access profiles")?,
            profile_ranges: gauge(
                "lamina_discovery_profile_ranges",
                "Ranges of all access profiles",
            )?,
            warm: gauge(
                "lamina_discovery_warm",
                "Whether every live node has had time to report since the replica started",
            )?,
            registry: Registry::new(),
        };
        let all: [Box<dyn Collector>; 12] = [
            Box::new(info),
            Box::new(metrics.rpc.clone()),
            Box::new(metrics.nodes.clone()),
            Box::new(metrics.layers.clone()),
            Box::new(metrics.images.clone()),
            Box::new(metrics.items.clone()),
            Box::new(metrics.parts.clone()),
            Box::new(metrics.expired.clone()),
            Box::new(metrics.resolved.clone()),
            Box::new(metrics.profiles.clone()),
            Box::new(metrics.profile_ranges.clone()),
            Box::new(metrics.warm.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// A call was answered.
    pub(crate) fn answered(&self, method: &str, code: Code, took: Duration) {
        let code = format!("{code:?}");
        self.rpc
            .with_label_values(&[method, code.as_str()])
            .observe(took.as_secs_f64());
    }

    /// An image was resolved.
    pub(crate) fn resolved(&self, from: &str) {
        self.resolved.with_label_values(&[from]).inc();
    }

    /// How much there is.
    pub(crate) fn look(&self, nodes: &Nodes, is_warm: bool, profiles: (usize, usize)) {
        let totals = nodes.totals();
        let more = nodes.expired().saturating_sub(self.expired.get());
        self.expired.inc_by(more);
        self.nodes.set(whole(totals.nodes));
        self.layers.set(whole(totals.layers));
        self.images.set(whole(totals.images));
        self.items.set(whole(totals.items));
        self.parts.set(whole(totals.parts));
        self.warm.set(i64::from(is_warm));
        self.profiles.set(whole(profiles.0));
        self.profile_ranges.set(whole(profiles.1));
    }

    pub(crate) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// As gauges have it.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
