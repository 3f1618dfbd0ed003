//! `doctor`: gathers the facts of a cluster and prints what [`check`] finds in them.
//!
//! A fact that cannot be had makes its own check `unknown` and leaves the others as they are.

use super::args::Shown;
use super::check::{self, Check, Named, Object, Verdict};
use super::cluster::{Cluster, DRIVER, in_time, list};
use super::fault::{Fault, Kind};
use super::node::Nodes;
use super::status;
use crate::output::{self, Show};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use lamina_crds::{Flist, Image, Store};
use serde::Serialize;
use std::collections::BTreeSet;

/// Most secrets looked up.
const SECRETS_MAX: usize = 100;

#[derive(Debug, Serialize)]
struct Report {
    checks: Vec<Check>,
}

impl Show for Report {
    fn table(&self) -> String {
        let mut lines = Vec::new();
        for one in &self.checks {
            let mark = match one.verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warn => "warning",
                Verdict::Fail => "FAIL   ",
                Verdict::Unknown => "unknown",
            };
            lines.push(format!(
                "{mark}  {}: {}",
                one.name,
                output::printable(&one.says)
            ));
            if let Some(fix) = &one.fix {
                lines.push(format!("         fix: {}", output::printable(fix)));
            }
        }
        format!("{}\n\n{}", lines.join("\n"), summary(&self.checks))
    }
}

fn summary(checks: &[Check]) -> String {
    let count = |verdict| checks.iter().filter(|one| one.verdict == verdict).count() as u64;
    let unknown = match count(Verdict::Unknown) {
        0 => String::new(),
        unknown => format!(", {unknown} not found out"),
    };
    let (failed, warned) = (count(Verdict::Fail), count(Verdict::Warn));
    format!(
        "{}, {}{unknown}",
        output::counted(failed, "failure"),
        output::counted(warned, "warning")
    )
}

pub(crate) async fn doctor(cluster: &Cluster, args: &Shown) -> Result<()> {
    let mut checks = Vec::new();
    checks.extend(definitions(cluster).await?);
    let workloads = status::workloads(cluster).await;
    checks.extend(either("workloads", workloads, |all| check::workloads(&all)));
    let drivers = cluster.all::<CSIDriver>().await;
    checks.extend(either("driver", drivers, |all| {
        vec![check::driver(
            all.iter().any(|one| one.name_any() == DRIVER),
        )]
    }));
    checks.extend(nodes(cluster).await);
    checks.extend(objects(cluster).await);
    checks.extend(events(cluster).await);
    let report = Report { checks };
    output::print(&report, args.output.output)?;
    match report.checks.iter().any(|one| one.verdict == Verdict::Fail) {
        true => Err(Fault::new(Kind::Other, summary(&report.checks)).into()),
        false => Ok(()),
    }
}

/// What a check says of facts, or that they could not be had.
fn either<T>(
    name: &'static str,
    facts: Result<T, Fault>,
    says: impl FnOnce(T) -> Vec<Check>,
) -> Vec<Check> {
    match facts {
        Ok(facts) => says(facts),
        Err(fault) => vec![check::unknown(name, &fault)],
    }
}

/// The first question: an API server that does not answer it answers none.
async fn definitions(cluster: &Cluster) -> Result<Vec<Check>, Fault> {
    let found = match cluster.all::<CustomResourceDefinition>().await {
        Err(fault) if matches!(fault.kind, Kind::Unavailable | Kind::Timeout) => return Err(fault),
        found => found,
    };
    Ok(either("definitions", found, |found| {
        let ours: Vec<_> = lamina_crds::crds()
            .into_iter()
            .map(|(_, crd)| crd)
            .collect();
        let theirs: Vec<_> = found
            .iter()
            .filter(|one| one.spec.group == lamina_crds::GROUP)
            .filter_map(|one| serde_json::to_value(one).ok())
            .collect();
        check::definitions(&ours, &theirs)
    }))
}

async fn nodes(cluster: &Cluster) -> Vec<Check> {
    let nodes = match Nodes::find(cluster).await {
        Ok(nodes) => nodes,
        Err(fault) => return vec![check::unknown("node", &fault)],
    };
    let names: Vec<String> = nodes
        .servers
        .iter()
        .map(|server| server.node.clone())
        .collect();
    let mut checks = either("registration", cluster.all::<CSINode>().await, |found| {
        check::registrations(&names, &found)
    });
    let mut asked = check::nodes(&nodes.ask().await);
    // Without the certificate every node says the same.
    asked.dedup();
    checks.extend(asked);
    checks
}

async fn objects(cluster: &Cluster) -> Vec<Check> {
    let stores = cluster.all::<Store>().await;
    let images = cluster.all::<Image>().await;
    let flists = cluster.all::<Flist>().await;
    let mut named = BTreeSet::new();
    for image in images.iter().flatten() {
        name_all(
            &mut named,
            &object_name("Image", image),
            image.metadata.namespace.as_ref(),
            &image.spec.pull_secrets,
        );
    }
    for flist in flists.iter().flatten() {
        if let Some(from) = &flist.spec.source.image {
            name_all(
                &mut named,
                &object_name("Flist", flist),
                flist.metadata.namespace.as_ref(),
                &from.pull_secrets,
            );
        }
    }
    let mut checks = either("stores", stores, |all| {
        check::objects(
            "stores",
            &conditions("Store", all, |one| one.status.map(|it| it.conditions)),
        )
    });
    checks.extend(either("images", images, |all| {
        check::objects(
            "images",
            &conditions("Image", all, |one| one.status.map(|it| it.conditions)),
        )
    }));
    checks.extend(either("flists", flists, |all| {
        check::objects(
            "flists",
            &conditions("Flist", all, |one| one.status.map(|it| it.conditions)),
        )
    }));
    checks.extend(match cluster.all::<Pod>().await {
        Ok(pods) => {
            named.extend(pods.iter().flat_map(of_pod));
            check::secrets(&looked_up(cluster, named).await)
        }
        Err(fault) => vec![check::unknown("pull secrets", &fault)],
    });
    checks
}

fn conditions<K: kube::ResourceExt>(
    kind: &str,
    all: Vec<K>,
    of: impl Fn(K) -> Option<Vec<Condition>>,
) -> Vec<Object> {
    let each = all.into_iter().map(|one| Object {
        name: object_name(kind, &one),
        conditions: of(one).unwrap_or_default(),
    });
    each.collect()
}

/// `Kind namespace/name`.
fn object_name<K: kube::ResourceExt>(kind: &str, object: &K) -> String {
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

fn name_all(
    named: &mut BTreeSet<Named>,
    by: &str,
    namespace: Option<&String>,
    secrets: &[lamina_crds::LocalName],
) {
    named.extend(secrets.iter().map(|secret| Named {
        namespace: namespace.cloned().unwrap_or_default(),
        secret: secret.name.clone(),
        by: by.to_owned(),
    }));
}

/// Pull secrets of a pod's inline volumes.
fn of_pod(pod: &Pod) -> Vec<Named> {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    let ours = volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| volume.csi.as_ref())
        .filter(|csi| csi.driver == DRIVER);
    ours.filter_map(|csi| csi.node_publish_secret_ref.as_ref())
        .map(|secret| Named {
            namespace: pod.namespace().unwrap_or_default(),
            secret: secret.name.clone(),
            by: object_name("Pod", pod),
        })
        .collect()
}

/// Whether each exists; only its metadata is asked for.
async fn looked_up(cluster: &Cluster, named: BTreeSet<Named>) -> Vec<(Named, Result<bool, Fault>)> {
    let mut all = Vec::new();
    for one in named.into_iter().take(SECRETS_MAX) {
        let api = Api::<Secret>::namespaced(cluster.client.clone(), &one.namespace);
        let what = format!("secrets in {}", one.namespace);
        let found = in_time("get", &what, api.get_metadata_opt(&one.secret)).await;
        all.push((one, found.map(|found| found.is_some())));
    }
    all
}

async fn events(cluster: &Cluster) -> Vec<Check> {
    let api = Api::<Event>::all(cluster.client.clone());
    let warnings = ListParams::default().fields("type=Warning").limit(2000);
    let found = list(&api, "events of the whole cluster", &warnings).await;
    either("events", found, |all| {
        check::events(&all, &cluster.system, Timestamp::now())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_printed_with_their_fixes_and_counted() {
        let checks = vec![
            check::driver(true),
            check::driver(false),
            check::unknown(
                "events",
                &Fault::new(Kind::Denied, "you may not list events"),
            ),
        ];
        let text = Report { checks }.table();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "ok       driver: CSIDriver csi.lamina.dev is registered"
        );
        assert!(lines[1].starts_with("FAIL     driver: CSIDriver csi.lamina.dev is missing"));
        assert_eq!(
            lines[2],
            "         fix: helm upgrade the chart; it brings the CSIDriver"
        );
        assert_eq!(
            lines.last(),
            Some(&"1 failure, 0 warnings, 1 not found out")
        );
    }

    #[test]
    fn secrets_of_a_pods_inline_volumes_are_named() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": { "name": "web", "namespace": "shop" },
            "spec": { "containers": [], "volumes": [
                { "name": "a", "csi": { "driver": DRIVER, "nodePublishSecretRef": { "name": "pull" } } },
                { "name": "b", "csi": { "driver": "other", "nodePublishSecretRef": { "name": "theirs" } } },
            ]},
        }))
        .unwrap();
        let named = of_pod(&pod);
        assert_eq!(named.len(), 1);
        assert_eq!(
            (named[0].secret.as_str(), named[0].by.as_str()),
            ("pull", "Pod shop/web")
        );
    }
}
