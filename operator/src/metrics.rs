//! What the operator counts.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

/// Every metric of the operator.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Reconciliations by kind and result.
    pub(crate) reconciles: IntCounterVec,
    /// Seconds they took, by kind.
    pub(crate) seconds: HistogramVec,
    /// Requests of nodes for certificates, by result.
    pub(crate) certificates: IntCounterVec,
    /// 1 while this one leads.
    pub(crate) leader: IntGauge,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, prometheus::Error> {
        let metrics = Self {
            registry: Registry::new(),
            reconciles: IntCounterVec::new(
                Opts::new("lamina_operator_reconciles_total", "Reconciliations"),
                &["kind", "result"],
            )?,
            seconds: HistogramVec::new(
                HistogramOpts::new(
                    "lamina_operator_reconcile_duration_seconds",
                    "Time a reconciliation took",
                )
                .buckets(vec![0.01, 0.05, 0.25, 1.0, 5.0, 20.0, 60.0]),
                &["kind"],
            )?,
            certificates: IntCounterVec::new(
                Opts::new(
                    "lamina_operator_certificates_total",
                    "Requests of nodes for certificates",
                ),
                &["result"],
            )?,
            leader: IntGauge::new("lamina_operator_leader", "1 while this operator leads")?,
        };
        metrics
            .registry
            .register(Box::new(metrics.reconciles.clone()))?;
        metrics
            .registry
            .register(Box::new(metrics.seconds.clone()))?;
        metrics
            .registry
            .register(Box::new(metrics.certificates.clone()))?;
        metrics
            .registry
            .register(Box::new(metrics.leader.clone()))?;
        Ok(metrics)
    }

    /// All of them in Prometheus's text format.
    pub(crate) fn text(&self) -> String {
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}
