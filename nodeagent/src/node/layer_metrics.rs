//! Figures of the node's layers, in Prometheus' text format (`docs/metrics.md`).
//!
//! They are counted where things happen; a look makes text of them.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use super::chunks::Served;
use crate::layers::Layerstore;

/// All of them, as they are now.
pub(super) fn text(layers: &Layerstore, served: &Served) -> prometheus::Result<String> {
    let registry = Registry::new();
    for collector in of_layers(layers)?.into_iter().chain(of_served(served)?) {
        registry.register(collector)?;
    }
    TextEncoder::new().encode_to_string(&registry.gather())
}

type Collectors = Vec<Box<dyn Collector>>;

fn of_layers(layers: &Layerstore) -> prometheus::Result<Collectors> {
    let (shelf, counts) = (layers.shelf(), layers.counts());
    let (bytes, bytes_max) = shelf.bytes();
    let (here, evicted) = (shelf.layers().len() as u64, AtomicU64::new(shelf.evicted()));
    let kept = "Bytes of image layers kept for the cluster";
    let (pulled, copied) = (
        "Layers read from registries",
        "Layers copied from other nodes",
    );
    let (records, gone) = (
        "Records read from other nodes",
        "Layers that had to go for others",
    );
    Ok(vec![
        gauge("lamina_layers", "Image layers kept for the cluster", here)?,
        gauge("lamina_layers_bytes", kept, bytes)?,
        gauge(
            "lamina_layers_max_bytes",
            "Most bytes allowed for them",
            bytes_max,
        )?,
        counter("lamina_layers_pulled_total", pulled, &counts.pulled)?,
        counter("lamina_layers_copied_total", copied, &counts.copied)?,
        counter("lamina_layer_records_total", records, &counts.records)?,
        counter("lamina_layers_evicted_total", gone, &evicted)?,
    ])
}

/// What other nodes were given.
fn of_served(served: &Served) -> prometheus::Result<Collectors> {
    let about = Opts::new(
        "lamina_served_bytes_total",
        "Stored bytes given to other nodes",
    );
    let bytes = IntCounterVec::new(about, &["from"])?;
    for (from, count) in [
        ("layer", &served.layer_bytes),
        ("cache", &served.part_bytes),
    ] {
        bytes
            .with_label_values(&[from])
            .inc_by(count.load(Ordering::Relaxed));
    }
    let refused = "Reads of other nodes refused for want of a slot";
    let stalled = "Reads of other nodes that took too long";
    Ok(vec![
        Box::new(bytes),
        counter("lamina_served_refused_total", refused, &served.refused)?,
        counter("lamina_served_stalled_total", stalled, &served.stalled)?,
    ])
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
        let served = Served::default();
        served.part_bytes.store(7, Ordering::Relaxed);
        let text = text(&layers, &served).unwrap();
        for line in [
            "lamina_layers 0",
            "lamina_layers_max_bytes 1000",
            "lamina_layers_copied_total 3",
            "lamina_layers_evicted_total 0",
            "lamina_served_bytes_total{from=\"cache\"} 7",
            "lamina_served_refused_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
    }
}
