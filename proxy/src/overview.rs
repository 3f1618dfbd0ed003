//! What there is, as people and programs are told: over gRPC, as JSON, as text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use lamina_proto::afsletpb::GetRuntimeStatusResponse;
use lamina_proto::afsproxy::v1::status_response::Payload as Item;
use lamina_proto::afsproxy::v1::{
    AfsletInstance, LayerInfo, LayerstoreInstance, StatusError, StatusSummary,
};
use lamina_proto::discovery::v1::ServiceInstance;
use serde::Serialize;

use crate::afslet::{Known, Told};

/// As messages have it.
fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Known {
    /// Whether runs are given to it.
    pub(crate) fn state(&self) -> &'static str {
        match (&self.error, &self.told) {
            (None, Some(told)) if told.is_draining => "draining",
            (None, Some(_)) => "open",
            _ => "unreachable",
        }
    }

    pub(crate) fn is_reachable(&self) -> bool {
        self.error.is_none() && self.told.is_some()
    }

    pub(crate) fn message(&self) -> AfsletInstance {
        let nothing = Told::default();
        let told = self.told.as_deref().unwrap_or(&nothing);
        AfsletInstance {
            endpoint: self.at.to_string(),
            reachable: self.is_reachable(),
            error: self.error.clone().unwrap_or_default(),
            running_containers: number(told.running),
            limit_cpu_cores: number(told.limit.cpu),
            limit_memory_mb: number(told.limit.memory),
            used_cpu_cores: number(told.used.cpu),
            used_memory_mb: number(told.used.memory),
            available_cpu_cores: number(told.available.cpu),
            available_memory_mb: number(told.available.memory),
            node_id: told.node.clone(),
            version: told.version.clone(),
            draining: told.is_draining,
        }
    }
}

/// All that can be reached, as if they were one.
pub(crate) fn sums(known: &[Known]) -> GetRuntimeStatusResponse {
    let mut sums = GetRuntimeStatusResponse::default();
    let add = |sum: &mut i64, one: i64| *sum = sum.saturating_add(one);
    for one in known.iter().filter(|one| one.is_reachable()) {
        let one = one.message();
        add(&mut sums.running_containers, one.running_containers);
        add(&mut sums.limit_cpu_cores, one.limit_cpu_cores);
        add(&mut sums.limit_memory_mb, one.limit_memory_mb);
        add(&mut sums.used_cpu_cores, one.used_cpu_cores);
        add(&mut sums.used_memory_mb, one.used_memory_mb);
        if !one.draining {
            add(&mut sums.available_cpu_cores, one.available_cpu_cores);
            add(&mut sums.available_memory_mb, one.available_memory_mb);
        }
    }
    sums
}

/// The cluster as this proxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Overview {
    /// What there is in all.
    pub summary: Summary,
    /// Layerstores, by node.
    pub layerstores: Vec<Layerstore>,
    /// Afslets, by address.
    pub afslets: Vec<AfsletView>,
    /// What could not be asked.
    pub errors: Vec<Failure>,
}

/// Counts and sums.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Nodes that keep layers.
    pub layerstore_instances: i64,
    /// Afslets that are known.
    pub afslet_instances: i64,
    /// Of them: those that answer.
    pub afslet_reachable: i64,
    /// Different layers.
    pub total_layers: i64,
}

/// A node that keeps layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Layerstore {
    /// Its name.
    pub node_id: String,
    /// HOST:PORT
    pub endpoint: String,
    /// Seconds since the Unix epoch.
    pub last_seen_unix: i64,
    /// Most bytes of layers.
    pub cache_max_bytes: i64,
    /// Bytes of layers.
    pub cache_bytes: i64,
    /// How many layers.
    pub layers: i64,
    /// Keys of whole images.
    pub cached_images: Vec<String>,
}

/// An afslet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AfsletView {
    /// HOST:PORT
    pub endpoint: String,
    /// Its node.
    pub node_id: String,
    /// `open`, `draining` or `unreachable`.
    pub state: String,
    /// Why it is not reachable.
    pub error: String,
    /// Its program.
    pub version: String,
    /// Runs.
    pub running_containers: i64,
    /// Processors for runs.
    pub limit_cpu_cores: i64,
    /// MiB for runs.
    pub limit_memory_mb: i64,
    /// Of them in use.
    pub used_cpu_cores: i64,
    /// Of them in use.
    pub used_memory_mb: i64,
    /// Of them free.
    pub available_cpu_cores: i64,
    /// Of them free.
    pub available_memory_mb: i64,
}

/// What could not be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What.
    pub source: String,
    /// Why.
    pub message: String,
}

impl Overview {
    /// Takes in one message of the service's answer.
    pub fn take(&mut self, item: Item) {
        match item {
            Item::Summary(summary) => self.summary = summary.into(),
            Item::Layerstore(one) => self.layerstores.push(one.into()),
            Item::Afslet(one) => self.afslets.push(one.into()),
            Item::Error(error) => self.errors.push(Failure {
                source: error.source,
                message: error.message,
            }),
        }
    }

    /// For people, who look with a browser's or a terminal's eyes.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let summary = &self.summary;
        let _ = writeln!(
            text,
            "{} of {} afslets reachable, {} layerstores with {} layers",
            summary.afslet_reachable,
            summary.afslet_instances,
            summary.layerstore_instances,
            summary.total_layers
        );
        for one in &self.afslets {
            let _ = writeln!(
                text,
                "afslet {} {} {}: {} runs, {} of {} processors and {} of {} MiB free {}",
                one.endpoint,
                one.node_id,
                one.state,
                one.running_containers,
                one.available_cpu_cores,
                one.limit_cpu_cores,
                one.available_memory_mb,
                one.limit_memory_mb,
                one.error
            );
        }
        for one in &self.layerstores {
            let _ = writeln!(
                text,
                "layerstore {} {}: {} layers, {} of {} bytes, {} images",
                one.endpoint,
                one.node_id,
                one.layers,
                one.cache_bytes,
                one.cache_max_bytes,
                one.cached_images.len()
            );
        }
        for error in &self.errors {
            let _ = writeln!(text, "error {}: {}", error.source, error.message);
        }
        // Names come from other machines.
        text.chars()
            .filter(|c| *c == '\n' || !c.is_control())
            .collect()
    }
}

impl From<StatusSummary> for Summary {
    fn from(summary: StatusSummary) -> Self {
        Self {
            layerstore_instances: summary.layerstore_instances,
            afslet_instances: summary.afslet_instances,
            afslet_reachable: summary.afslet_reachable,
            total_layers: summary.total_layers,
        }
    }
}

impl From<LayerstoreInstance> for Layerstore {
    fn from(one: LayerstoreInstance) -> Self {
        let sizes = one.layers.iter().map(|layer| layer.afs_size);
        Self {
            cache_bytes: sizes.fold(0, i64::saturating_add),
            layers: i64::try_from(one.layers.len()).unwrap_or(i64::MAX),
            node_id: one.node_id,
            endpoint: one.endpoint,
            last_seen_unix: one.last_seen_unix,
            cache_max_bytes: one.cache_max_bytes,
            cached_images: one.cached_images,
        }
    }
}

impl From<AfsletInstance> for AfsletView {
    fn from(one: AfsletInstance) -> Self {
        let state = match (one.reachable, one.draining) {
            (false, _) => "unreachable",
            (true, true) => "draining",
            (true, false) => "open",
        };
        Self {
            endpoint: one.endpoint,
            node_id: one.node_id,
            state: state.to_owned(),
            error: one.error,
            version: one.version,
            running_containers: one.running_containers,
            limit_cpu_cores: one.limit_cpu_cores,
            limit_memory_mb: one.limit_memory_mb,
            used_cpu_cores: one.used_cpu_cores,
            used_memory_mb: one.used_memory_mb,
            available_cpu_cores: one.available_cpu_cores,
            available_memory_mb: one.available_memory_mb,
        }
    }
}

/// The messages of an answer: the summary first, what could not be asked last.
pub(crate) fn items(
    known: &[Known],
    stores: Vec<ServiceInstance>,
    errors: Vec<StatusError>,
    with_layerstores: bool,
    with_afslets: bool,
) -> Vec<Item> {
    let layers: BTreeSet<&String> = stores.iter().flat_map(|one| &one.layer_digests).collect();
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let summary = StatusSummary {
        layerstore_instances: count(stores.len()),
        afslet_instances: count(known.len()),
        afslet_reachable: count(known.iter().filter(|one| one.is_reachable()).count()),
        total_layers: count(layers.len()),
    };
    let mut items = vec![Item::Summary(summary)];
    if with_layerstores {
        items.extend(
            stores
                .into_iter()
                .map(|one| Item::Layerstore(layerstore(one))),
        );
    }
    if with_afslets {
        items.extend(known.iter().map(|one| Item::Afslet(one.message())));
    }
    items.extend(errors.into_iter().map(Item::Error));
    items
}

fn layerstore(one: ServiceInstance) -> LayerstoreInstance {
    let sized: BTreeSet<&String> = one.layer_stats.iter().map(|stat| &stat.digest).collect();
    let unsized_ones = one
        .layer_digests
        .iter()
        .filter(|digest| !sized.contains(digest));
    let unsized_ones = unsized_ones.map(|digest| LayerInfo {
        digest: digest.clone(),
        afs_size: 0,
    });
    let sizes = one.layer_stats.iter().map(|stat| LayerInfo {
        digest: stat.digest.clone(),
        afs_size: stat.afs_size,
    });
    LayerstoreInstance {
        layers: sizes.chain(unsized_ones).collect(),
        node_id: one.node_id,
        endpoint: one.endpoint,
        last_seen_unix: one.last_seen_unix,
        cache_max_bytes: one.cache_max_bytes,
        cached_images: one.cached_images,
    }
}
