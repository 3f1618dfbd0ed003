//! `top`: what nodes, or volumes, hold and fetch.

use super::args::{Top, TopOf};
use super::cluster::Cluster;
use super::fault::Fault;
use super::node::{Asked, Nodes};
use crate::output::{self, Show};
use crate::tiers::{self, Tiers};
use anyhow::Result;
use lamina_proto::lamina::v1::Volume;
use serde::Serialize;
use std::collections::HashSet;

#[derive(Debug, Serialize)]
struct NodesReport {
    nodes: Vec<NodeLine>,
    /// Which table.
    #[serde(skip)]
    by_tier: bool,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    node: String,
    volumes: u64,
    cache_bytes: u64,
    cache_bytes_max: u64,
    bytes_fetched: u64,
    bytes_from_peers: u64,
    bytes_transferred: u64,
    reads: u64,
    reads_local: u64,
    reads_failed: u64,
    tiers: Tiers,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct VolumesReport {
    volumes: Vec<VolumeLine>,
    /// Nodes that could not be asked.
    problems: Vec<String>,
    /// Which table.
    #[serde(skip)]
    by_tier: bool,
}

/// A volume on a node.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeLine {
    node: String,
    pod: String,
    volume: String,
    source: String,
    digest: String,
    state: String,
    writable: bool,
    mode: String,
    bytes_local: u64,
    bytes_total: u64,
    bytes_fetched: u64,
    bytes_from_peers: u64,
    bytes_transferred: u64,
    reads: u64,
    reads_local: u64,
    reads_failed: u64,
    profile: String,
    tiers: Tiers,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_error: String,
}

impl Show for NodesReport {
    fn table(&self) -> String {
        if self.by_tier {
            return self.tiers_table();
        }
        let rows: Vec<_> = self.nodes.iter().map(node_row).collect();
        output::columns(
            [
                "NODE", "VOLUMES", "CACHE", "OF", "FETCHED", "PEERS", "READS", "HITS", "FAILED",
                "PROBLEM",
            ],
            &rows,
        )
    }
}

impl NodesReport {
    fn tiers_table(&self) -> String {
        let rows: Vec<_> = self.nodes.iter().map(node_tiers).collect();
        let [page, read, disk, peer, store, registry, prefetched, used] = tiers::HEADER;
        let header = [
            "NODE", page, read, disk, peer, store, registry, prefetched, used, "PROBLEM",
        ];
        format!("{}\n\n{}", output::columns(header, &rows), tiers::LEGEND)
    }
}

fn node_tiers(one: &NodeLine) -> [String; 10] {
    if let Some(problem) = &one.problem {
        return silent(one, problem);
    }
    let [page, read, disk, peer, store, registry, prefetched, used] = one.tiers.row();
    let problem = String::new();
    [
        one.node.clone(),
        page,
        read,
        disk,
        peer,
        store,
        registry,
        prefetched,
        used,
        problem,
    ]
}

/// The line of a node that does not answer.
fn silent(one: &NodeLine, problem: &str) -> [String; 10] {
    let mut row = std::array::from_fn(|_| "-".to_owned());
    row[0].clone_from(&one.node);
    problem.clone_into(&mut row[9]);
    row
}

fn node_row(one: &NodeLine) -> [String; 10] {
    if let Some(problem) = &one.problem {
        return silent(one, problem);
    }
    [
        one.node.clone(),
        one.volumes.to_string(),
        output::size(one.cache_bytes),
        output::size(one.cache_bytes_max),
        output::size(one.bytes_fetched),
        output::size(one.bytes_from_peers),
        one.reads.to_string(),
        output::percent(one.reads_local, one.reads),
        one.reads_failed.to_string(),
        String::new(),
    ]
}

impl Show for VolumesReport {
    fn table(&self) -> String {
        let table = match self.by_tier {
            true => self.tiers_table(),
            false => self.volumes_table(),
        };
        match self.problems.is_empty() {
            true => table,
            false => format!(
                "{table}\n\nproblems:\n- {}",
                output::printable(&self.problems.join("; "))
            ),
        }
    }
}

impl VolumesReport {
    fn volumes_table(&self) -> String {
        let rows: Vec<_> = self.volumes.iter().map(volume_row).collect();
        let header = [
            "NODE", "POD", "SOURCE", "STATE", "ACCESS", "LOCAL", "UNIQUE", "FETCHED", "PEERS",
            "READS", "HITS", "FAILED",
        ];
        output::columns(header, &rows)
    }

    fn tiers_table(&self) -> String {
        let rows: Vec<_> = self.volumes.iter().map(volume_tiers).collect();
        let [page, read, disk, peer, store, registry, prefetched, used] = tiers::HEADER;
        let header = [
            "NODE", "POD", "SOURCE", page, read, disk, peer, store, registry, prefetched, used,
            "PROFILE",
        ];
        format!("{}\n\n{}", output::columns(header, &rows), tiers::LEGEND)
    }
}

fn volume_tiers(one: &VolumeLine) -> [String; 12] {
    let [page, read, disk, peer, store, registry, prefetched, used] = one.tiers.row();
    [
        one.node.clone(),
        one.pod.clone(),
        one.source.clone(),
        page,
        read,
        disk,
        peer,
        store,
        registry,
        prefetched,
        used,
        one.profile.clone(),
    ]
}

fn volume_row(one: &VolumeLine) -> [String; 12] {
    [
        one.node.clone(),
        one.pod.clone(),
        one.source.clone(),
        one.state.clone(),
        if one.writable { "rw" } else { "ro" }.to_owned(),
        output::size(one.bytes_local),
        output::size(one.bytes_total),
        output::size(one.bytes_fetched),
        output::size(one.bytes_from_peers),
        one.reads.to_string(),
        output::percent(one.reads_local, one.reads),
        one.reads_failed.to_string(),
    ]
}

pub(crate) async fn top(cluster: &Cluster, args: &Top) -> Result<()> {
    let nodes = Nodes::find(cluster).await?;
    nodes.ready(&[])?;
    let asked = nodes.ask().await;
    let format = args.output.output;
    match args.what {
        TopOf::Nodes => output::print(&by_node(&asked, args.tiers), format)?,
        TopOf::Volumes => output::print(&by_volume(&asked, args.tiers), format)?,
    }
    all_failed(&asked).map_or(Ok(()), |fault| Err(fault.into()))
}

/// The first failure, when no node answered.
fn all_failed(asked: &[Asked]) -> Option<Fault> {
    match asked.iter().all(|one| one.answer.is_err()) {
        true => asked.iter().find_map(|one| one.answer.clone().err()),
        false => None,
    }
}

fn by_node(asked: &[Asked], by_tier: bool) -> NodesReport {
    NodesReport {
        by_tier,
        nodes: asked.iter().map(node_line).collect(),
    }
}

fn node_line(asked: &Asked) -> NodeLine {
    let answer = asked.answer.clone().unwrap_or_default();
    // Volumes of one flist on a node share its counters: each flist counts once.
    let mut seen = HashSet::new();
    let once: Vec<&Volume> = answer
        .volumes
        .iter()
        .filter(|volume| seen.insert(volume.digest.as_str()))
        .collect();
    let sum = |of: fn(&Volume) -> u64| once.iter().map(|volume| of(volume)).sum();
    NodeLine {
        node: asked.server.node.clone(),
        volumes: answer.volumes.len() as u64,
        cache_bytes: answer.info.cache_bytes,
        cache_bytes_max: answer.info.cache_bytes_max,
        bytes_fetched: sum(|volume| volume.bytes_fetched),
        bytes_from_peers: sum(|volume| volume.bytes_from_peers),
        bytes_transferred: sum(|volume| volume.bytes_transferred),
        reads: sum(|volume| volume.reads),
        reads_local: sum(|volume| volume.reads_local),
        reads_failed: sum(|volume| volume.reads_failed),
        // Of those that are mounted: the others have nothing that could be unknown.
        tiers: once
            .iter()
            .filter(|volume| volume.bytes_total > 0)
            .map(|volume| Tiers::from(*volume))
            .sum(),
        problem: asked.answer.as_ref().err().map(ToString::to_string),
    }
}

fn by_volume(asked: &[Asked], by_tier: bool) -> VolumesReport {
    let mut volumes: Vec<VolumeLine> = asked
        .iter()
        .filter_map(|one| Some((one, one.answer.as_ref().ok()?)))
        .flat_map(|(one, answer)| {
            let lines = answer.volumes.iter();
            lines.map(|volume| volume_line(&one.server.node, volume))
        })
        .collect();
    volumes.sort_by_key(|one| std::cmp::Reverse(one.bytes_fetched));
    let problems = asked.iter().filter_map(|one| one.answer.as_ref().err());
    VolumesReport {
        by_tier,
        volumes,
        problems: problems.map(ToString::to_string).collect(),
    }
}

/// A volume as it is shown.
pub(crate) fn volume_line(node: &str, volume: &Volume) -> VolumeLine {
    let pod = volume.pod.clone().unwrap_or_default();
    let pod = match pod.name.is_empty() {
        true => "-".to_owned(),
        false => format!("{}/{}", pod.namespace, pod.name),
    };
    VolumeLine {
        node: node.to_owned(),
        pod,
        volume: volume.volume_id.clone(),
        source: source(volume),
        digest: volume.digest.clone(),
        state: volume.state.clone(),
        writable: volume.writable,
        mode: volume.mode.clone(),
        bytes_local: volume.bytes_local,
        bytes_total: volume.bytes_total,
        bytes_fetched: volume.bytes_fetched,
        bytes_from_peers: volume.bytes_from_peers,
        bytes_transferred: volume.bytes_transferred,
        reads: volume.reads,
        reads_local: volume.reads_local,
        reads_failed: volume.reads_failed,
        profile: volume.profile.clone(),
        tiers: Tiers::from(volume),
        last_error: volume.last_error.clone(),
    }
}

/// What a volume was made from: its reference, else its digest's beginning.
pub(crate) fn source(volume: &Volume) -> String {
    match volume.reference.is_empty() {
        true => volume.digest.chars().take(12).collect(),
        false => volume.reference.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::node::{Answer, Server};
    use lamina_proto::lamina::v1::{GetInfoResponse, Pod};

    fn volume(name: &str, digest: &str, reads: u64) -> Volume {
        Volume {
            volume_id: format!("csi-{name}"),
            digest: digest.to_owned(),
            reference: "python:3.13".to_owned(),
            pod: Some(Pod {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                uid: String::new(),
            }),
            state: "mounted".to_owned(),
            bytes_total: 4 << 20,
            bytes_local: 1 << 20,
            bytes_fetched: 1 << 20,
            bytes_from_peers: 768 << 10,
            reads,
            reads_local: reads / 2,
            bytes_resident: Some(2 << 20),
            bytes_read: 2 << 20,
            bytes_read_local: 1 << 20,
            bytes_waited_peers: 768 << 10,
            bytes_waited_registry: 256 << 10,
            bytes_prefetched: 512 << 10,
            bytes_prefetched_used: 256 << 10,
            profile: "shared".to_owned(),
            ..Volume::default()
        }
    }

    fn asked() -> Vec<Asked> {
        let server = |node: &str| Server {
            node: node.to_owned(),
            pod: String::new(),
            ready: true,
        };
        let info = GetInfoResponse {
            cache_bytes: 3 << 20,
            cache_bytes_max: 10 << 30,
            ..GetInfoResponse::default()
        };
        let volumes = vec![volume("a", "d", 10), volume("b", "d", 10)];
        vec![
            Asked {
                server: server("n1"),
                answer: Ok(Answer { info, volumes }),
            },
            Asked {
                server: server("n2"),
                answer: Err(Fault::unavailable("gone")),
            },
        ]
    }

    #[test]
    fn volumes_of_one_flist_are_counted_once() {
        assert_eq!(
            output::unindented(&by_node(&asked(), false).table()),
            "\
NODE  VOLUMES  CACHE     OF        FETCHED   PEERS    READS  HITS   FAILED  PROBLEM
n1    2        3.00 MiB  10.0 GiB  1.00 MiB  768 KiB  10     50.0%  0
n2    -        -         -         -         -        -      -      -       gone"
        );
    }

    #[test]
    fn volumes_name_their_pods_and_silent_nodes_are_told() {
        assert_eq!(
            output::unindented(&by_volume(&asked(), false).table()),
            "\
NODE  POD     SOURCE       STATE    ACCESS  LOCAL     UNIQUE    FETCHED   PEERS    READS  HITS   FAILED
n1    shop/a  python:3.13  mounted  ro      1.00 MiB  4.00 MiB  1.00 MiB  768 KiB  10     50.0%  0
n1    shop/b  python:3.13  mounted  ro      1.00 MiB  4.00 MiB  1.00 MiB  768 KiB  10     50.0%  0

problems:
- gone"
        );
        assert!(all_failed(&asked()).is_none());
        assert!(all_failed(&asked()[1..]).is_some());
    }

    fn head(table: &str) -> String {
        let lines: Vec<&str> = table.lines().take(3).collect();
        output::unindented(&lines.join("\n"))
    }

    #[test]
    fn tiers_say_where_what_was_read_came_from() {
        let nodes = by_node(&asked(), true).table();
        assert_eq!(
            head(&nodes),
            "\
NODE  PAGE   READ      DISK   PEER   STORE  REGISTRY  PREFETCHED  USED   PROBLEM
n1    50.0%  2.00 MiB  50.0%  37.5%  0.0%   12.5%     512 KiB     50.0%
n2    -      -         -      -      -      -         -           -      gone"
        );
        assert!(nodes.ends_with(tiers::LEGEND), "{nodes}");
        let volumes = by_volume(&asked(), true).table();
        assert_eq!(
            head(&volumes),
            "\
NODE  POD     SOURCE       PAGE   READ      DISK   PEER   STORE  REGISTRY  PREFETCHED  USED   PROFILE
n1    shop/a  python:3.13  50.0%  2.00 MiB  50.0%  37.5%  0.0%   12.5%     512 KiB     50.0%  shared
n1    shop/b  python:3.13  50.0%  2.00 MiB  50.0%  37.5%  0.0%   12.5%     512 KiB     50.0%  shared"
        );
    }
}
