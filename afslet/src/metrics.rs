//! Figures of an afslet, in Prometheus' text format (`docs/afslet.md` lists them).

use std::time::Duration;

use lamina_proto::afsletpb::EndReason;
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tonic::Code;

use crate::outcome::Outcome;
use crate::parts::Parts;

/// From a sandbox that was ready to an image that was converted first, seconds.
const BUCKETS: [f64; 14] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
];

/// Every metric.
pub(crate) struct Metrics {
    registry: Registry,
    ended: IntCounterVec,
    succeeded: IntCounter,
    failed: IntCounter,
    refused: IntCounterVec,
    startup: Histogram,
    log_bytes: IntCounter,
    running: IntGauge,
    cpu: IntGaugeVec,
    memory: IntGaugeVec,
    images: IntGauge,
    ready: IntGauge,
    draining: IntGauge,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let counters = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(name, help), &[label])
        };
        let gauges =
            |name: &str, help: &str, label: &str| IntGaugeVec::new(Opts::new(name, help), &[label]);
        let info = gauges(
            "lamina_afslet_info",
            "Version of the afslet; always 1",
            "version",
        )?;
        info.with_label_values(&[version]).set(1);
        let startup = HistogramOpts::new(
            "lamina_afslet_startup_seconds",
            "Time from a run's first frame until its command ran",
        );
        let metrics = Self {
            ended: counters(
                "lamina_afslet_runs_total",
                "Runs that ended, by reason",
                "reason",
            )?,
            succeeded: IntCounter::new(
                "lamina_afslet_runs_succeeded_total",
                "Runs that ended by themselves with exit code 0",
            )?,
            failed: IntCounter::new("lamina_afslet_runs_failed_total", "Other runs that ended")?,
            refused: counters(
                "lamina_afslet_refused_total",
                "Runs that were refused or cut off without a result, by status code",
                "code",
            )?,
            startup: Histogram::with_opts(startup.buckets(BUCKETS.to_vec()))?,
            log_bytes: IntCounter::new("lamina_afslet_log_bytes_total", "Bytes of logs of runs")?,
            running: gauge("lamina_afslet_running", "Runs at this moment")?,
            cpu: gauges(
                "lamina_afslet_cpu_cores",
                "Processors for runs: limit and reserved",
                "what",
            )?,
            memory: gauges(
                "lamina_afslet_memory_bytes",
                "Memory for runs: limit and reserved",
                "what",
            )?,
            images: gauge("lamina_afslet_images", "Images that are mounted")?,
            ready: gauge("lamina_afslet_sandboxes_ready", "Sandboxes made ahead")?,
            draining: gauge("lamina_afslet_draining", "Whether it takes no more runs")?,
            registry: Registry::new(),
        };
        let all: [Box<dyn Collector>; 13] = [
            Box::new(info),
            Box::new(metrics.ended.clone()),
            Box::new(metrics.succeeded.clone()),
            Box::new(metrics.failed.clone()),
            Box::new(metrics.refused.clone()),
            Box::new(metrics.startup.clone()),
            Box::new(metrics.log_bytes.clone()),
            Box::new(metrics.running.clone()),
            Box::new(metrics.cpu.clone()),
            Box::new(metrics.memory.clone()),
            Box::new(metrics.images.clone()),
            Box::new(metrics.ready.clone()),
            Box::new(metrics.draining.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// A command runs, so long after it was asked for.
    pub(crate) fn started(&self, after: Duration) {
        self.startup.observe(after.as_secs_f64());
    }

    /// A run has a result.
    pub(crate) fn ended(&self, outcome: &Outcome) {
        let reason = outcome.reason();
        let name = reason.as_str_name();
        let name = name.strip_prefix("END_REASON_").unwrap_or(name);
        self.ended
            .with_label_values(&[name.to_lowercase().as_str()])
            .inc();
        match reason == EndReason::Exited && outcome.ended.exit_code() == 0 {
            true => self.succeeded.inc(),
            false => self.failed.inc(),
        }
        self.log_bytes.inc_by(outcome.log_bytes);
    }

    /// A run has none.
    pub(crate) fn refused(&self, code: Code) {
        let code = format!("{code:?}");
        self.refused.with_label_values(&[code.as_str()]).inc();
    }

    /// Runs with a result: all of them, and those that did not succeed.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let failed = self.failed.get();
        (self.succeeded.get() + failed, failed)
    }

    /// With what there is at this moment.
    pub(crate) fn text(&self, parts: &Parts) -> prometheus::Result<String> {
        let used = parts.admission.used();
        let whole = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.running.set(whole(used.runs as u64));
        for (gauges, limit, reserved) in [
            (&self.cpu, parts.limits.cpu_cores, used.cpu_cores),
            (
                &self.memory,
                parts.limits.memory_mb << 20,
                used.memory_mb << 20,
            ),
        ] {
            gauges.with_label_values(&["limit"]).set(whole(limit));
            gauges.with_label_values(&["reserved"]).set(whole(reserved));
        }
        self.images.set(whole(parts.images.count() as u64));
        self.ready.set(whole(parts.sandboxes.ready() as u64));
        self.draining.set(parts.drain.is_draining().into());
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
