//! Figures of the node's layers, in Prometheus' text format (`docs/metrics.md`).
//!
//! They are counted where things happen; a look makes text of them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntGauge, Registry, TextEncoder};

use crate::layers::Layerstore;

/// All of them, as they are now.
pub(super) fn text(layers: &Layerstore) -> prometheus::Result<String> {
    let (shelf, counts) = (layers.shelf(), layers.counts());
    let (bytes, bytes_max) = shelf.bytes();
    let here = shelf.layers().len() as u64;
    let all: [Box<dyn Collector>; 7] = [
        gauge("lamina_layers", "Image layers kept for the cluster", here)?,
        gauge(
            "lamina_layers_bytes",
            "Bytes of image layers kept for the cluster",
            bytes,
        )?,
        gauge(
            "lamina_layers_max_bytes",
            "Most bytes allowed for image layers",
            bytes_max,
        )?,
        counter(
            "lamina_layers_pulled_total",
            "Layers read from registries",
            &counts.pulled,
        )?,
        counter(
            "lamina_layers_copied_total",
            "Layers copied from other nodes",
            &counts.copied,
        )?,
        counter(
            "lamina_layer_records_total",
            "Records read from other nodes",
            &counts.records,
        )?,
        counter(
            "lamina_layers_evicted_total",
            "Layers that had to go for others",
            &AtomicU64::new(shelf.evicted()),
        )?,
    ];
    let registry = Registry::new();
    for collector in all {
        registry.register(collector)?;
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn gauge(name: &str, help: &str, value: u64) -> prometheus::Result<Box<dyn Collector>> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    Ok(Box::new(gauge))
}

fn counter(name: &str, help: &str, value: &AtomicU64) -> prometheus::Result<Box<dyn Collector>> {
    let counter = IntCounter::new(name, help)?;
    counter.inc_by(value.load(Ordering::Relaxed));
    Ok(Box::new(counter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::LayersConfig;

    #[tokio::test]
    async fn a_look_shows_what_was_counted() {
        let dir = tempfile::tempdir().unwrap();
        let config = LayersConfig {
            bytes_max: Some(1000),
            ..LayersConfig::new(dir.path().join("layers"))
        };
        let layers = Layerstore::open(config, None).unwrap();
        layers.counts().copied.store(3, Ordering::Relaxed);
        let text = text(&layers).unwrap();
        for line in [
            "lamina_layers 0",
            "lamina_layers_max_bytes 1000",
            "lamina_layers_copied_total 3",
            "lamina_layers_evicted_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }
}
