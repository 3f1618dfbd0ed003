//! `status`: what of Lamina runs, with which version, and how its objects are.

use super::args::Shown;
use super::cluster::Cluster;
use super::discovery::{self, Replica};
use super::fault::{Fault, Kind};
use super::node::{Asked, Nodes};
use super::objects::{Workload, is_ready};
use crate::output::{self, Show};
use anyhow::Result;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use lamina_crds::{Flist, Image, LaminaCluster, Store};
use serde::Serialize;

/// Labels of everything of Lamina.
pub(crate) const LAMINA: &str = "app.kubernetes.io/name=lamina";
/// What should run; the operator comes from the chart, the others from the operator.
const EXPECTED: [(&str, &str); 4] = [
    ("lamina-operator", "Deployment"),
    ("lamina-controller", "Deployment"),
    ("lamina-node", "DaemonSet"),
    ("lamina-csi", "DaemonSet"),
];
/// Another one, unless the `LaminaCluster` says that there is none.
const DISCOVERY: (&str, &str) = ("lamina-discovery", "Deployment");

#[derive(Debug, Serialize)]
struct Report {
    ready: bool,
    workloads: Vec<Workload>,
    conditions: Vec<Said>,
    objects: Vec<Counted>,
    discovery: Vec<Replica>,
    nodes: Vec<NodeLine>,
    /// What could not be found out.
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

#[derive(Debug, Serialize)]
struct Counted {
    kind: &'static str,
    ready: usize,
    total: usize,
}

#[derive(Debug, Serialize)]
struct NodeLine {
    node: String,
    version: String,
    mode: String,
    kernel: String,
    volumes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    warnings: Vec<String>,
}

impl Show for Report {
    fn table(&self) -> String {
        let mut parts = vec![
            workload_table(&self.workloads),
            condition_table(&self.conditions),
            object_table(&self.objects),
            discovery_table(&self.discovery, self.nodes.len()),
            node_table(&self.nodes),
        ];
        let warnings = warnings(&self.nodes);
        if !warnings.is_empty() {
            parts.push(format!("warnings:\n- {}", warnings.join("\n- ")));
        }
        if !self.notes.is_empty() {
            parts.push(format!("not found out:\n- {}", self.notes.join("\n- ")));
        }
        parts.retain(|part| !part.is_empty());
        parts.join("\n\n")
    }
}

fn workload_table(workloads: &[Workload]) -> String {
    let rows: Vec<_> = workloads
        .iter()
        .map(|one| {
            [
                one.name.clone(),
                one.kind.to_owned(),
                format!("{}/{}", one.ready, one.desired),
                one.version.clone(),
            ]
        })
        .collect();
    output::columns(["WORKLOAD", "KIND", "READY", "VERSION"], &rows)
}

fn condition_table(conditions: &[Said]) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = conditions
        .iter()
        .map(|one| [one.kind.clone(), one.status.clone(), one.message.clone()])
        .collect();
    output::columns(["CONDITION", "STATUS", "MESSAGE"], &rows)
}

fn object_table(objects: &[Counted]) -> String {
    if objects.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = objects
        .iter()
        .map(|one| [one.kind.to_owned(), format!("{}/{}", one.ready, one.total)])
        .collect();
    output::columns(["OBJECTS", "READY"], &rows)
}

fn discovery_table(replicas: &[Replica], nodes: usize) -> String {
    if replicas.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = replicas
        .iter()
        .map(|one| {
            let known = one.nodes.map(|known| format!("{known}/{nodes}"));
            [
                one.pod.clone(),
                known.unwrap_or_else(|| "-".into()),
                one.problem.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::columns(["DISCOVERY", "NODES KNOWN", "PROBLEM"], &rows)
}

fn node_table(nodes: &[NodeLine]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|one| match &one.problem {
            Some(problem) => [
                one.node.clone(),
                "-".into(),
                "-".into(),
                "-".into(),
                problem.clone(),
            ],
            None => [
                one.node.clone(),
                one.version.clone(),
                one.mode.clone(),
                one.volumes.to_string(),
                output::counted(one.warnings.len() as u64, "warning"),
            ],
        })
        .collect();
    output::columns(["NODE", "VERSION", "MODE", "VOLUMES", "STATE"], &rows)
}

fn warnings(nodes: &[NodeLine]) -> Vec<String> {
    let lines = nodes.iter().flat_map(|one| {
        let said = one.warnings.iter();
        said.map(|text| output::printable(&format!("{}: {text}", one.node)))
    });
    lines.collect()
}

pub(crate) async fn status(cluster: &Cluster, args: &Shown) -> Result<()> {
    let report = look(cluster).await?;
    let late = report.workloads.iter().filter(|one| !one.is_ready());
    let late: Vec<String> = late.map(|one| one.name.clone()).collect();
    output::print(&report, args.output.output)?;
    match report.ready {
        true => Ok(()),
        false if late.is_empty() => Err(Fault::unavailable("Lamina is not ready").into()),
        false => Err(Fault::unavailable(format!("not ready: {}", late.join(", "))).into()),
    }
}

async fn look(cluster: &Cluster) -> Result<Report, Fault> {
    let workloads = workloads(cluster).await?;
    if workloads
        .iter()
        .all(|one| one.desired == 0 && one.version.is_empty())
    {
        return Err(Fault::new(
            Kind::NotFound,
            format!(
                "Lamina is not installed in namespace {}; install the chart, or give --system NAMESPACE",
                cluster.system
            ),
        ));
    }
    let mut notes = Vec::new();
    let conditions = noted(&mut notes, cluster.all::<LaminaCluster>().await);
    let discovery = noted(&mut notes, discovery::replicas(cluster).await);
    let conditions = conditions
        .into_iter()
        .filter_map(|object| object.status)
        .flat_map(|status| status.conditions)
        .map(said)
        .collect();
    let objects = counts(cluster, &mut notes).await;
    let nodes = match Nodes::find(cluster).await {
        Ok(nodes) => nodes.ask().await,
        Err(fault) => noted(&mut notes, Err(fault)),
    };
    Ok(Report {
        discovery,
        ..report(workloads, conditions, objects, &nodes, notes)
    })
}

fn report(
    workloads: Vec<Workload>,
    conditions: Vec<Said>,
    objects: Vec<Counted>,
    nodes: &[Asked],
    notes: Vec<String>,
) -> Report {
    let applied = !conditions
        .iter()
        .any(|one| one.kind == "Ready" && one.status != "True");
    Report {
        ready: applied && workloads.iter().all(Workload::is_ready),
        workloads,
        conditions,
        objects,
        discovery: Vec::new(),
        nodes: nodes.iter().map(node_line).collect(),
        notes,
    }
}

/// The workloads there should be, in a fixed order; one that is missing has version "" and counts as not ready.
pub(crate) async fn workloads(cluster: &Cluster) -> Result<Vec<Workload>, Fault> {
    let sets = cluster.in_system::<DaemonSet>(LAMINA).await?;
    let deployments = cluster.in_system::<Deployment>(LAMINA).await?;
    let found: Vec<Workload> = sets
        .iter()
        .map(Workload::of_set)
        .chain(deployments.iter().map(Workload::of_deployment))
        .collect();
    let clusters = cluster.all::<LaminaCluster>().await;
    // Who may not see it is shown what there is.
    let discovers = clusters.is_ok_and(|all| all.iter().any(|one| one.spec.discovery.enabled));
    Ok(expected(&found, discovers))
}

fn expected(found: &[Workload], discovers: bool) -> Vec<Workload> {
    let discovers = discovers || found.iter().any(|one| one.name == DISCOVERY.0);
    let wanted = EXPECTED.into_iter().chain(discovers.then_some(DISCOVERY));
    let all = wanted.map(|(name, kind)| {
        let there = found.iter().find(|one| one.name == name).cloned();
        there.unwrap_or_else(|| Workload {
            name: name.to_owned(),
            kind,
            ready: 0,
            desired: 0,
            updated: -1,
            version: String::new(),
        })
    });
    all.collect()
}

async fn counts(cluster: &Cluster, notes: &mut Vec<String>) -> Vec<Counted> {
    let images = noted(notes, cluster.all::<Image>().await);
    let flists = noted(notes, cluster.all::<Flist>().await);
    let stores = noted(notes, cluster.all::<Store>().await);
    vec![
        counted(
            "Images",
            images
                .into_iter()
                .map(|one| one.status.map(|status| status.conditions)),
        ),
        counted(
            "Flists",
            flists
                .into_iter()
                .map(|one| one.status.map(|status| status.conditions)),
        ),
        counted(
            "Stores",
            stores
                .into_iter()
                .map(|one| one.status.map(|status| status.conditions)),
        ),
    ]
}

fn counted(kind: &'static str, all: impl Iterator<Item = Option<Vec<Condition>>>) -> Counted {
    let ready: Vec<bool> = all.map(|one| is_ready(&one.unwrap_or_default())).collect();
    Counted {
        kind,
        ready: ready.iter().filter(|ready| **ready).count(),
        total: ready.len(),
    }
}

fn said(condition: Condition) -> Said {
    Said {
        kind: condition.type_,
        status: condition.status,
        reason: condition.reason,
        message: condition.message,
    }
}

fn node_line(asked: &Asked) -> NodeLine {
    let info = asked.answer.as_ref().map(|answer| answer.info.clone());
    let problem = info.as_ref().err().map(|fault| fault.message.clone());
    let info = info.unwrap_or_default();
    NodeLine {
        node: asked.server.node.clone(),
        version: info.version,
        mode: info.mount_mode,
        kernel: info.kernel,
        volumes: info.volumes,
        problem,
        warnings: info.warnings,
    }
}

/// What was found, or nothing and a note why.
pub(crate) fn noted<T: Default>(notes: &mut Vec<String>, found: Result<T, Fault>) -> T {
    found.unwrap_or_else(|fault| {
        notes.push(fault.message);
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::node::{Answer, Server};
    use lamina_proto::lamina::v1::GetInfoResponse;

    fn workload(name: &str, ready: i32) -> Workload {
        Workload {
            name: name.to_owned(),
            kind: "DaemonSet",
            ready,
            desired: 2,
            updated: 2,
            version: "0.1.0".to_owned(),
        }
    }

    fn asked(node: &str, answer: Result<Answer, Fault>) -> Asked {
        let server = Server {
            node: node.to_owned(),
            pod: format!("lamina-node-{node}"),
            ready: true,
        };
        Asked { server, answer }
    }

    fn sample(ready: i32) -> Report {
        let info = GetInfoResponse {
            version: "0.1.0".into(),
            mount_mode: "fuse".into(),
            volumes: 3,
            warnings: vec!["EROFS is missing".into()],
            ..GetInfoResponse::default()
        };
        let answer = Answer {
            info,
            volumes: Vec::new(),
        };
        let nodes = [
            asked("n1", Ok(answer)),
            asked("n2", Err(Fault::unavailable("pod x is not ready"))),
        ];
        let condition = Said {
            kind: "Ready".into(),
            status: "True".into(),
            reason: "Ready".into(),
            message: "all pods are ready".into(),
        };
        let images = Counted {
            kind: "Images",
            ready: 1,
            total: 2,
        };
        let replica = Replica {
            pod: "lamina-discovery-x".into(),
            nodes: Some(1),
            problem: None,
        };
        Report {
            discovery: vec![replica],
            ..report(
                vec![workload("lamina-node", ready)],
                vec![condition],
                vec![images],
                &nodes,
                Vec::new(),
            )
        }
    }

    #[test]
    fn a_table_shows_workloads_conditions_objects_and_nodes() {
        let report = sample(2);
        assert!(report.ready);
        assert_eq!(
            output::unindented(&report.table()),
            "\
WORKLOAD     KIND       READY  VERSION
lamina-node  DaemonSet  2/2    0.1.0

CONDITION  STATUS  MESSAGE
Ready      True    all pods are ready

OBJECTS  READY
Images   1/2

DISCOVERY           NODES KNOWN  PROBLEM
lamina-discovery-x  1/2

NODE  VERSION  MODE  VOLUMES  STATE
n1    0.1.0    fuse  3        1 warning
n2    -        -     -        pod x is not ready

warnings:
- n1: EROFS is missing"
        );
    }

    #[test]
    fn a_workload_that_is_late_or_missing_makes_it_not_ready() {
        assert!(!sample(1).ready);
        let all = expected(&[workload("lamina-node", 2)], false);
        assert_eq!(all.len(), 4);
        assert_eq!(all.iter().filter(|one| one.is_ready()).count(), 1);
    }

    #[test]
    fn discovery_is_a_workload_where_there_is_or_should_be_one() {
        let last = |found: &[Workload], discovers| expected(found, discovers).pop().unwrap();
        let missing = last(&[], true);
        assert_eq!((&*missing.name, missing.is_ready()), (DISCOVERY.0, false));
        assert!(last(&[workload(DISCOVERY.0, 2)], false).is_ready());
        assert_ne!(last(&[], false).name, DISCOVERY.0);
    }
}
