//! What `doctor` decides: from facts to findings, each with a sentence and, where it is not well, a fix. Pure.

use super::cluster::DRIVER;
use super::fault::{Fault, Kind};
use super::node::Asked;
use super::objects::{Workload, condition, event_about, event_time};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::storage::v1::CSINode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Warnings older than this are history.
const EVENT_AGE_S: i64 = 3600;
/// Most warnings shown.
const EVENTS_MAX: usize = 10;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Works, less well than it could.
    Warn,
    /// Does not work.
    Fail,
    /// Could not be looked at.
    Unknown,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at.
    #[serde(rename = "check")]
    pub(crate) name: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fix: Option<String>,
}

impl Check {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self {
            name: check,
            verdict: Verdict::Ok,
            says: says.into(),
            fix: None,
        }
    }

    fn bad(
        check: &'static str,
        verdict: Verdict,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name: check,
            verdict,
            says: says.into(),
            fix: Some(fix.into()),
        }
    }
}

/// A check whose facts could not be had.
pub(crate) fn unknown(check: &'static str, fault: &Fault) -> Check {
    let fix = match fault.kind {
        Kind::Denied => "run this as a cluster administrator",
        Kind::Unavailable | Kind::Timeout => {
            "look at the pods of Lamina's namespace and at the API server, then ask again"
        }
        _ => "see the message",
    };
    Check::bad(check, Verdict::Unknown, fault.message.clone(), fix)
}

/// The definitions this program knows against those of the cluster.
pub(crate) fn definitions(ours: &[Value], theirs: &[Value]) -> Vec<Check> {
    const NAME: &str = "definitions";
    const FIX: &str = "helm upgrade the chart of this program's version; it brings the definitions";
    let find = |name: &Value| theirs.iter().find(|one| one["metadata"]["name"] == *name);
    let mut bad = Vec::new();
    for one in ours {
        let name = &one["metadata"]["name"];
        let text = name.as_str().unwrap_or_default();
        let Some(found) = find(name) else {
            bad.push(Check::bad(
                NAME,
                Verdict::Fail,
                format!("{text} is not installed"),
                FIX,
            ));
            continue;
        };
        let known = fields(found);
        let missing: Vec<String> = fields(one).difference(&known).cloned().collect();
        if !missing.is_empty() {
            let says = format!(
                "{text} is of another version: it lacks {}",
                missing.join(", ")
            );
            bad.push(Check::bad(NAME, Verdict::Warn, says, FIX));
        }
    }
    if bad.is_empty() {
        bad.push(Check::ok(
            NAME,
            format!("all {} are installed and current", ours.len()),
        ));
    }
    bad
}

/// Every field of a definition's schema, as a path.
fn fields(definition: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    collect(schema, "", &mut found);
    found
}

fn collect(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, below) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        collect(below, &path, found);
        found.insert(path);
    }
    if schema["items"].is_object() {
        collect(&schema["items"], &format!("{path}[]"), found);
    }
}

/// The driver's registration in the cluster.
pub(crate) fn driver(registered: bool) -> Check {
    match registered {
        true => Check::ok("driver", format!("CSIDriver {DRIVER} is registered")),
        false => Check::bad(
            "driver",
            Verdict::Fail,
            format!("CSIDriver {DRIVER} is missing: kubelet tells the driver nothing about pods"),
            "helm upgrade the chart; it brings the CSIDriver",
        ),
    }
}

/// The driver's registration with each kubelet. `nodes` are those whose `lamina-node` pod is there.
pub(crate) fn registrations(nodes: &[String], found: &[CSINode]) -> Vec<Check> {
    let has = |node: &String| {
        found.iter().any(|one| {
            let drivers = &one.spec.drivers;
            one.metadata.name.as_ref() == Some(node)
                && drivers.iter().any(|driver| driver.name == DRIVER)
        })
    };
    let missing: Vec<&String> = nodes.iter().filter(|node| !has(node)).collect();
    if missing.is_empty() {
        let says = format!(
            "kubelet knows the driver on {} of {} nodes",
            nodes.len(),
            nodes.len()
        );
        return vec![Check::ok("registration", says)];
    }
    let each = missing.into_iter().map(|node| {
        Check::bad(
            "registration",
            Verdict::Fail,
            format!("kubelet on node {node} does not know the driver: pods with volumes wait there"),
            format!("see the log of the lamina-csi pod on {node}; node.kubeletDir must be kubelet's root directory"),
        )
    });
    each.collect()
}

/// The workloads.
pub(crate) fn workloads(all: &[Workload]) -> Vec<Check> {
    let bad: Vec<Check> = all
        .iter()
        .filter(|one| !one.is_ready())
        .map(|one| {
            let says = match one.version.is_empty() {
                true => format!("{} {} is missing", one.kind, one.name),
                false => format!("{}: {} of {} pods are ready", one.name, one.ready, one.desired),
            };
            let fix = match one.version.is_empty() {
                true if one.name == "lamina-operator" => "install the chart".to_owned(),
                true => "see the log of lamina-operator, which makes it, and the LaminaCluster's conditions".to_owned(),
                false => format!("kubectl describe pods -l app.kubernetes.io/name=lamina and see the events of {}", one.name),
            };
            Check::bad("workloads", Verdict::Fail, says, fix)
        })
        .collect();
    match bad.is_empty() {
        true => vec![Check::ok("workloads", "every workload is ready")],
        false => bad,
    }
}

/// Whether the nodes answer, how they mount, and what they warn of.
pub(crate) fn nodes(asked: &[Asked]) -> Vec<Check> {
    let mut checks = Vec::new();
    for one in asked {
        let node = &one.server.node;
        match &one.answer {
            Err(fault) => checks.push(unknown_node(node, fault)),
            Ok(answer) => {
                checks.push(mode(node, &answer.info.mount_mode, &answer.info.kernel));
                let warnings = answer.info.warnings.iter();
                checks.extend(warnings.map(|said| {
                    let fix = "see docs/troubleshooting.md; `lamina doctor` on the node tells more";
                    Check::bad("node", Verdict::Warn, format!("{node}: {said}"), fix)
                }));
            }
        }
    }
    checks
}

fn unknown_node(node: &str, fault: &Fault) -> Check {
    match fault.kind {
        Kind::Denied => unknown("node", fault),
        _ => Check::bad(
            "node",
            Verdict::Fail,
            format!("{node} does not answer: {}", fault.message),
            format!("see the log of the lamina-node pod on {node}"),
        ),
    }
}

fn mode(node: &str, mode: &str, kernel: &str) -> Check {
    match mode {
        "erofs" => Check::ok(
            "node",
            format!("{node} mounts by erofs, at native speed (Linux {kernel})"),
        ),
        "erofs-loop" => Check::ok(
            "node",
            format!("{node} mounts by erofs over loop devices (Linux {kernel})"),
        ),
        mode => Check::bad(
            "node",
            Verdict::Warn,
            format!("{node} mounts by {mode}, which is slower (Linux {kernel})"),
            "Linux 6.12 or later with EROFS mounts at native speed",
        ),
    }
}

/// An object with conditions: `Kind namespace/name`.
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) conditions: Vec<Condition>,
}

/// Whether objects are ready, under the check's name.
pub(crate) fn objects(check: &'static str, all: &[Object]) -> Vec<Check> {
    let mut bad = Vec::new();
    for one in all {
        let ready = condition(&one.conditions, "Ready");
        let (verdict, why) = match ready {
            Some(ready) if ready.status == "True" => continue,
            Some(ready) if ready.reason == "Deleting" || ready.status == "Unknown" => {
                (Verdict::Warn, ready.message.clone())
            }
            Some(ready) => (Verdict::Fail, ready.message.clone()),
            None => (
                Verdict::Warn,
                "the operator has not looked at it yet".to_owned(),
            ),
        };
        let fix = format!("kubectl describe {}", described(&one.name));
        bad.push(Check::bad(
            check,
            verdict,
            format!("{} is not ready: {why}", one.name),
            fix,
        ));
    }
    if bad.is_empty() {
        let says = match all.len() {
            0 => "there are none".to_owned(),
            count => format!("{} ready", crate::output::counted(count as u64, "object")),
        };
        bad.push(Check::ok(check, says));
    }
    bad
}

/// `Image shop/web` as kubectl takes it.
fn described(name: &str) -> String {
    let (kind, name) = name.split_once(' ').unwrap_or(("", name));
    let kind = format!("{}s.lamina.dev", kind.to_lowercase());
    match name.split_once('/') {
        Some((namespace, name)) => format!("{kind} -n {namespace} {name}"),
        None => format!("{kind} {name}"),
    }
}

/// A pull secret that something names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) secret: String,
    /// Who names it: `Image shop/web`.
    pub(crate) by: String,
}

/// Whether the pull secrets exist.
pub(crate) fn secrets(all: &[(Named, Result<bool, Fault>)]) -> Vec<Check> {
    let mut bad = Vec::new();
    for (named, found) in all {
        match found {
            Ok(true) => {}
            Ok(false) => bad.push(Check::bad(
                "pull secrets",
                Verdict::Fail,
                format!(
                    "Secret {}/{}, named by {}, is missing",
                    named.namespace, named.secret, named.by
                ),
                format!(
                    "kubectl create secret docker-registry {} -n {} …",
                    named.secret, named.namespace
                ),
            )),
            Err(fault) => bad.push(unknown("pull secrets", fault)),
        }
    }
    bad.dedup();
    if bad.is_empty() {
        let says = match all.len() {
            0 => "none is named".to_owned(),
            count => format!("all {count} exist"),
        };
        bad.push(Check::ok("pull secrets", says));
    }
    bad
}

/// Recent warnings about Lamina; of equal ones the last.
pub(crate) fn events(all: &[Event], system: &str, now: Timestamp) -> Vec<Check> {
    let mut recent: Vec<(Timestamp, &Event)> = all
        .iter()
        .filter(|event| event.type_.as_deref() == Some("Warning") && is_ours(event, system))
        .filter_map(|event| Some((event_time(event)?, event)))
        .filter(|(at, _)| now.as_second() - at.as_second() < EVENT_AGE_S)
        .collect();
    recent.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let mut seen = BTreeSet::new();
    recent.retain(|(_, event)| seen.insert((event_about(event), event.reason.clone())));
    if recent.is_empty() {
        return vec![Check::ok("events", "no warning within the last hour")];
    }
    let more = recent.len().saturating_sub(EVENTS_MAX);
    let mut checks: Vec<Check> = recent
        .iter()
        .take(EVENTS_MAX)
        .map(|(_, event)| warning(event))
        .collect();
    if more > 0 {
        let says = format!("and {more} more");
        checks.push(Check::bad(
            "events",
            Verdict::Warn,
            says,
            "kubectl get events -A --field-selector type=Warning",
        ));
    }
    checks
}

fn warning(event: &Event) -> Check {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let about = event_about(event);
    let says = format!("{about}: {}: {}", text(&event.reason), text(&event.message));
    let fix = match event.involved_object.kind.as_deref() {
        Some("Pod") => format!(
            "kubectl lamina explain {} -n {}",
            text(&event.involved_object.name),
            text(&event.involved_object.namespace),
        ),
        _ => "look up the message in docs/troubleshooting.md".to_owned(),
    };
    Check::bad("events", Verdict::Warn, says, fix)
}

/// Whether an event is by Lamina, about its objects or pods, or about a mount of its driver.
pub(crate) fn is_ours(event: &Event, system: &str) -> bool {
    let on = &event.involved_object;
    let by = event.reporting_component.as_deref().unwrap_or_default();
    let message = event.message.as_deref().unwrap_or_default();
    on.api_version
        .as_deref()
        .is_some_and(|version| version.starts_with(lamina_crds::GROUP))
        || on.namespace.as_deref() == Some(system)
        || by == DRIVER
        || by.starts_with("lamina")
        || message.contains(DRIVER)
}

#[cfg(test)]
mod tests;
