//! `report`: what is needed to find a fault, in one file: objects, events, logs, nodes' figures; no secrets.
//!
//! Secrets are never asked for, and everything else passes through [`redact`]. What cannot be had is named
//! in the bundle's README, so that a person without all rights gets what they may see.

use super::args::Report;
use super::check::is_ours;
use super::cluster::{Cluster, DRIVER, in_time};
use super::fault::{Fault, Kind};
use super::node::Nodes;
use super::redact;
use super::status::LAMINA;
use super::top::volume_line;
use crate::output;
use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, StorageClass};
use k8s_openapi::jiff::Timestamp;
use kube::api::LogParams;
use kube::{Api, Resource, ResourceExt as _};
use lamina_crds::{Flist, Image, Job, LaminaCluster, Store};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Most bytes of one file in the bundle, and of all, before compression.
const FILE_MAX: usize = 8 << 20;
const ALL_MAX: usize = 64 << 20;
/// Lines of a container's log.
const LOG_LINES: i64 = 10_000;

/// The files of a bundle.
#[derive(Debug, Default)]
struct Bundle {
    files: Vec<(String, Vec<u8>)>,
    bytes: usize,
    /// What is not in it, and why.
    missing: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: impl Into<String>, mut bytes: Vec<u8>) {
        let name = name.into();
        if bytes.len() > FILE_MAX {
            bytes.truncate(FILE_MAX);
            let max = output::size(FILE_MAX as u64);
            self.missing
                .push(format!("{name}: what is after its first {max}"));
        }
        if self.bytes + bytes.len() > ALL_MAX {
            self.missing.push(format!("{name}: the bundle is full"));
            return;
        }
        self.bytes += bytes.len();
        self.files.push((name, bytes));
    }

    /// Objects as redacted JSON, or why there are none.
    fn objects<T: Serialize>(&mut self, name: &str, found: Result<Vec<T>, Fault>) {
        match found {
            Ok(all) => {
                let all: Vec<Value> = all.iter().filter_map(cleaned).collect();
                let text = serde_json::to_vec_pretty(&all).unwrap_or_default();
                self.add(format!("{name}.json"), text);
            }
            Err(fault) => self.missing.push(format!("{name}: {fault}")),
        }
    }

    fn text(&mut self, name: String, found: Result<String, Fault>) {
        match found {
            Ok(text) => self.add(name, redact::text(&text).into_bytes()),
            Err(fault) => self.missing.push(format!("{name}: {fault}")),
        }
    }

    /// What a reader should know first.
    fn readme(&self, at: Timestamp) -> String {
        let mut lines = vec![
            format!("Lamina {}, report of {at}", env!("CARGO_PKG_VERSION")),
            String::new(),
            "Secrets were not asked for. Removed: user, password and query of URLs, tokens, private keys, values".to_owned(),
            "of variables whose names speak of secrets. Left: names of nodes, namespaces, pods and images, and".to_owned(),
            "addresses. Look through it before you give it away.".to_owned(),
            String::new(),
            "In it:".to_owned(),
        ];
        lines.extend(
            self.files
                .iter()
                .map(|(name, bytes)| format!("- {name} ({})", output::size(bytes.len() as u64))),
        );
        lines.push(String::new());
        lines.push("Not in it:".to_owned());
        lines.push("- Secrets".to_owned());
        lines.extend(
            self.missing
                .iter()
                .map(|one| format!("- {}", redact::text(one))),
        );
        lines.push(String::new());
        lines.join("\n")
    }

    fn write(&self, to: impl Write, at: Timestamp) -> std::io::Result<()> {
        let mut tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        let readme = ("README.txt".to_owned(), self.readme(at).into_bytes());
        for (name, bytes) in std::iter::once(&readme).chain(&self.files) {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(u64::try_from(at.as_second()).unwrap_or(0));
            tar.append_data(
                &mut header,
                format!("lamina-report/{name}"),
                bytes.as_slice(),
            )?;
        }
        tar.into_inner()?.finish()?.flush()
    }
}

fn cleaned<T: Serialize>(object: &T) -> Option<Value> {
    let mut value = serde_json::to_value(object).ok()?;
    redact::object(&mut value);
    Some(value)
}

pub(crate) async fn report(cluster: &Cluster, args: &Report) -> Result<()> {
    let mut bundle = Bundle::default();
    match cluster.in_system::<Pod>(LAMINA).await {
        // Without the API server there is nothing to collect.
        Err(fault) if matches!(fault.kind, Kind::Unavailable | Kind::Timeout) => {
            return Err(fault.into());
        }
        Err(fault) => bundle.missing.push(format!("pods and logs: {fault}")),
        Ok(pods) => {
            logs(cluster, &mut bundle, &pods, args.log_bytes).await;
            bundle.objects("pods", Ok(pods));
        }
    }
    objects(cluster, &mut bundle).await;
    nodes(cluster, &mut bundle).await;
    let at = Timestamp::now();
    let path = write(&bundle, args.out.clone(), at)?;
    let bytes = std::fs::metadata(&path).map_or(0, |found| found.len());
    let said = format!(
        "{}wrote {} ({})\n",
        bundle.readme(at),
        path.display(),
        output::size(bytes)
    );
    output::write_all(output::printable_lines(&said).as_bytes())
}

async fn objects(cluster: &Cluster, bundle: &mut Bundle) {
    bundle.objects("laminaclusters", cluster.all::<LaminaCluster>().await);
    bundle.objects("images", cluster.all::<Image>().await);
    bundle.objects("flists", cluster.all::<Flist>().await);
    bundle.objects("stores", cluster.all::<Store>().await);
    bundle.objects("jobs", cluster.all::<Job>().await);
    bundle.objects("daemonsets", cluster.in_system::<DaemonSet>(LAMINA).await);
    bundle.objects("deployments", cluster.in_system::<Deployment>(LAMINA).await);
    bundle.objects("csinodes", cluster.all::<CSINode>().await);
    bundle.objects(
        "nodes",
        cluster
            .all::<Node>()
            .await
            .map(|all| all.iter().map(machine).collect()),
    );
    let drivers = cluster.all::<CSIDriver>().await;
    bundle.objects(
        "csidrivers",
        drivers.map(|all| only(all, |one| one.name_any() == DRIVER)),
    );
    let classes = cluster.all::<StorageClass>().await;
    bundle.objects(
        "storageclasses",
        classes.map(|all| only(all, |one| one.provisioner == DRIVER)),
    );
    let events = cluster.all::<Event>().await;
    bundle.objects(
        "events",
        events.map(|all| only(all, |one| is_ours(one, &cluster.system))),
    );
}

fn only<K: Resource>(mut all: Vec<K>, keep: impl Fn(&K) -> bool) -> Vec<K> {
    all.retain(keep);
    all
}

/// Of a node what concerns Lamina: its system, conditions, taints and room.
fn machine(node: &Node) -> Value {
    let status = node.status.clone().unwrap_or_default();
    json!({
        "name": node.name_any(),
        "system": status.node_info,
        "conditions": status.conditions,
        "allocatable": status.allocatable,
        "taints": node.spec.as_ref().and_then(|spec| spec.taints.clone()),
    })
}

async fn logs(cluster: &Cluster, bundle: &mut Bundle, pods: &[Pod], bytes_max: u64) {
    let api = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.system);
    for pod in pods {
        let name = pod.name_any();
        let spec = pod.spec.clone().unwrap_or_default();
        for container in spec.containers {
            for previous in [false, true] {
                if previous && !restarted(pod, &container.name) {
                    continue;
                }
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    tail_lines: Some(LOG_LINES),
                    limit_bytes: i64::try_from(bytes_max).ok(),
                    timestamps: true,
                    ..LogParams::default()
                };
                let what = format!("pods/log of {name}");
                let text = in_time("get", &what, api.logs(&name, &params)).await;
                let suffix = if previous { ".previous" } else { "" };
                bundle.text(format!("logs/{name}.{}{suffix}.log", container.name), text);
            }
        }
    }
}

fn restarted(pod: &Pod, container: &str) -> bool {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .into_iter()
        .flatten()
        .any(|status| status.name == container && status.restart_count > 0)
}

async fn nodes(cluster: &Cluster, bundle: &mut Bundle) {
    let nodes = match Nodes::find(cluster).await {
        Ok(nodes) => nodes,
        Err(fault) => return bundle.missing.push(format!("nodes: {fault}")),
    };
    for asked in nodes.ask().await {
        let node = &asked.server.node;
        match asked.answer {
            Ok(answer) => {
                let info = &answer.info;
                let volumes: Vec<_> = answer
                    .volumes
                    .iter()
                    .map(|one| volume_line(node, one))
                    .collect();
                let said = json!({
                    "version": info.version, "mode": info.mount_mode, "kernel": info.kernel,
                    "platform": info.platform, "cache_bytes": info.cache_bytes,
                    "cache_bytes_max": info.cache_bytes_max, "warnings": info.warnings,
                    "volumes": volumes,
                });
                bundle.objects(&format!("nodes/{node}"), Ok(vec![said]));
            }
            Err(fault) => bundle.missing.push(format!("nodes/{node}: {fault}")),
        }
        if asked.server.ready {
            let page = nodes.metrics(&asked.server).await;
            bundle.text(format!("nodes/{node}.metrics.txt"), page);
        }
    }
}

fn write(bundle: &Bundle, path: Option<PathBuf>, at: Timestamp) -> Result<PathBuf> {
    let path = path.unwrap_or_else(|| {
        let time = at.strftime("%Y%m%d-%H%M%S");
        PathBuf::from(format!("lamina-report-{time}.tar.gz"))
    });
    // Only for who made it, and never over another file.
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    file.and_then(|file| bundle.write(file, at))
        .with_context(|| format!("write the report {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn bundle() -> Bundle {
        let mut bundle = Bundle::default();
        let object = json!({ "kind": "Store", "url": "s3://user:hunter2@host/b" });
        bundle.objects("stores", Ok(vec![object]));
        bundle.text("logs/a.log".to_owned(), Ok("token=hunter2\n".to_owned()));
        let refused = Fault::new(Kind::Denied, "you may not list jobs");
        bundle.objects::<Value>("jobs", Err(refused));
        bundle
    }

    #[test]
    fn a_bundle_holds_a_readme_first_and_no_credentials() {
        let mut bytes = Vec::new();
        bundle().write(&mut bytes, Timestamp::UNIX_EPOCH).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(bytes.as_slice()));
        let mut names = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
        assert_eq!(
            names,
            [
                "lamina-report/README.txt",
                "lamina-report/stores.json",
                "lamina-report/logs/a.log"
            ]
        );
    }

    #[test]
    fn the_readme_says_what_is_in_it_and_what_is_not() {
        let readme = bundle().readme(Timestamp::UNIX_EPOCH);
        assert!(readme.contains("- stores.json ("), "{readme}");
        assert!(readme.contains("- jobs: you may not list jobs"), "{readme}");
    }

    #[test]
    fn a_bundle_is_bounded() {
        let mut bundle = Bundle::default();
        for place in 0..10 {
            bundle.add(format!("f{place}"), vec![0; FILE_MAX + 1]);
        }
        assert_eq!(bundle.files.len(), ALL_MAX / FILE_MAX);
        assert!(bundle.bytes <= ALL_MAX);
        assert_eq!(bundle.missing.len(), 10 + 2);
    }
}
