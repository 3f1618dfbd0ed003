//! Figures of a proxy, in Prometheus' text format (`docs/proxy.md` lists them).

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tonic::{Code, Status};

use crate::afslet::Known;
use crate::overview;

/// From an afslet that is warm to a cold image, seconds.
const BUCKETS: [f64; 12] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0,
];

/// How a run that was accepted ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With its result.
    Done,
    /// Without: its afslet said so, or went away.
    Failed,
    /// Its client went away.
    Abandoned,
    /// Its client's frames were none.
    BadFrames,
    /// The proxy ended.
    CutOff,
}

/// What became of an offer to an afslet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Try {
    Accepted,
    Full,
    Unavailable,
    Refused,
}

/// Every metric of a proxy.
pub(crate) struct Metrics {
    registry: Registry,
    placed: IntCounterVec,
    placing: Histogram,
    ended: IntCounterVec,
    tries: IntCounterVec,
    waiting: IntGauge,
    runs: IntGauge,
    kept: IntGauge,
    afslets: IntGaugeVec,
    cpu: IntGaugeVec,
    memory: IntGaugeVec,
    replicas: IntCounter,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::new(name, help);
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels)
        };
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels)
        };
        let info = gauges(
            "lamina_proxy_info",
            "Version of the proxy; always 1",
            &["version"],
        )?;
        info.with_label_values(&[version]).set(1);
        let placing = HistogramOpts::new(
            "lamina_proxy_dispatch_duration_seconds",
            "From a run's first frame until an afslet accepted it, or none did",
        );
        let metrics = Self {
            placed: counters(
                "lamina_proxy_runs_total",
                "Runs, by what came of looking for a place: OK or the status code",
                &["code"],
            )?,
            placing: Histogram::with_opts(placing.buckets(BUCKETS.to_vec()))?,
            ended: counters(
                "lamina_proxy_runs_ended_total",
                "Accepted runs that ended, by how",
                &["outcome"],
            )?,
            tries: counters(
                "lamina_proxy_tries_total",
                "Offers of runs to afslets, by what came of them",
                &["outcome"],
            )?,
            waiting: gauge("lamina_proxy_waiting", "Runs that wait between two looks")?,
            runs: gauge("lamina_proxy_runs", "Runs, waiting ones included")?,
            kept: gauge(
                "lamina_proxy_replay_bytes",
                "Bytes kept of runs that no afslet has accepted yet",
            )?,
            afslets: gauges("lamina_proxy_afslets", "Afslets, by state", &["state"])?,
            cpu: gauges(
                "lamina_proxy_cpu_cores",
                "Processors of reachable afslets: limit, used, available",
                &["kind"],
            )?,
            memory: gauges(
                "lamina_proxy_memory_mebibytes",
                "Memory of reachable afslets: limit, used, available",
                &["kind"],
            )?,
            replicas: IntCounter::new(
                "lamina_proxy_pulls_total",
                "Nodes that were asked to pull an image",
            )?,
            registry: Registry::new(),
        };
        let all: [Box<dyn Collector>; 12] = [
            Box::new(info),
            Box::new(metrics.placed.clone()),
            Box::new(metrics.placing.clone()),
            Box::new(metrics.ended.clone()),
            Box::new(metrics.tries.clone()),
            Box::new(metrics.waiting.clone()),
            Box::new(metrics.runs.clone()),
            Box::new(metrics.kept.clone()),
            Box::new(metrics.afslets.clone()),
            Box::new(metrics.cpu.clone()),
            Box::new(metrics.memory.clone()),
            Box::new(metrics.replicas.clone()),
        ];
        for collector in all {
            metrics.registry.register(collector)?;
        }
        Ok(metrics)
    }

    /// A place was looked for.
    pub(crate) fn placed(&self, failed: Option<&Status>, took: Duration) {
        let code = failed.map_or(Code::Ok, Status::code);
        let code = format!("{code:?}");
        self.placed.with_label_values(&[code.as_str()]).inc();
        self.placing.observe(took.as_secs_f64());
    }

    /// An accepted run ended.
    pub(crate) fn ended(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Done => "done",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
            Outcome::BadFrames => "bad_frames",
            Outcome::CutOff => "cut_off",
        };
        self.ended.with_label_values(&[outcome]).inc();
    }

    /// A run was offered to an afslet.
    pub(crate) fn tried(&self, outcome: Try) {
        let outcome = match outcome {
            Try::Accepted => "accepted",
            Try::Full => "full",
            Try::Unavailable => "unavailable",
            Try::Refused => "refused",
        };
        self.tries.with_label_values(&[outcome]).inc();
    }

    /// A node was asked to pull an image.
    pub(crate) fn pulled(&self) {
        self.replicas.inc();
    }

    /// A run waits, until this is dropped.
    pub(crate) fn waiting(&self) -> impl Drop + Send + use<> {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }

    /// How much there is.
    pub(crate) fn look(&self, known: &[Known], runs: usize, kept: usize) {
        self.runs.set(whole(runs));
        self.kept.set(whole(kept));
        let state = |wanted: &str| known.iter().filter(|one| one.state() == wanted).count();
        for name in ["open", "draining", "unreachable"] {
            self.afslets
                .with_label_values(&[name])
                .set(whole(state(name)));
        }
        let sums = overview::sums(known);
        for (kind, cpu, memory) in [
            ("limit", sums.limit_cpu_cores, sums.limit_memory_mb),
            ("used", sums.used_cpu_cores, sums.used_memory_mb),
            (
                "available",
                sums.available_cpu_cores,
                sums.available_memory_mb,
            ),
        ] {
            self.cpu.with_label_values(&[kind]).set(cpu);
            self.memory.with_label_values(&[kind]).set(memory);
        }
    }

    pub(crate) fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// As gauges have it.
fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
