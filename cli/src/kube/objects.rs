//! What Kubernetes objects say: readiness, conditions, versions, times. Pure.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Event, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;

/// A workload of Lamina.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) ready: i32,
    pub(crate) desired: i32,
    /// Pods of the current spec.
    pub(crate) updated: i32,
    /// Tag or digest of its image.
    pub(crate) version: String,
}

impl Workload {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready >= self.desired && self.updated >= self.desired
    }

    pub(crate) fn of_set(set: &DaemonSet) -> Self {
        let status = set.status.clone().unwrap_or_default();
        let seen = status.observed_generation == set.metadata.generation;
        Self {
            name: set.metadata.name.clone().unwrap_or_default(),
            kind: "DaemonSet",
            ready: status.number_ready,
            desired: status.desired_number_scheduled,
            updated: match seen {
                true => status.updated_number_scheduled.unwrap_or(0),
                false => 0,
            },
            version: version(set.spec.template.spec.as_ref()),
        }
    }

    pub(crate) fn of_deployment(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let seen = status.observed_generation == deployment.metadata.generation;
        Self {
            name: deployment.metadata.name.clone().unwrap_or_default(),
            kind: "Deployment",
            ready: status.ready_replicas.unwrap_or(0),
            desired: deployment.spec.replicas.unwrap_or(1),
            updated: match seen {
                true => status.updated_replicas.unwrap_or(0),
                false => 0,
            },
            version: version(deployment.spec.template.spec.as_ref()),
        }
    }
}

/// Tag or shortened digest of the first container's image.
fn version(pod: Option<&PodSpec>) -> String {
    let image = pod
        .and_then(|pod| pod.containers.first())
        .and_then(|container| container.image.clone())
        .unwrap_or_default();
    if let Some((_, digest)) = image.split_once('@') {
        let (kind, hex) = digest.split_once(':').unwrap_or(("", digest));
        return format!("{kind}:{}", hex.chars().take(12).collect::<String>());
    }
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':')
        .map_or_else(|| "latest".to_owned(), |(_, tag)| tag.to_owned())
}

/// Whether a pod's `Ready` condition holds.
pub(crate) fn pod_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|(holds, _)| holds)
}

/// Whether a pod's condition holds, and since when.
pub(crate) fn pod_condition(pod: &Pod, kind: &str) -> Option<(bool, Option<Timestamp>)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .map(|condition| {
            let since = condition.last_transition_time.as_ref().map(|time| time.0);
            (condition.status == "True", since)
        })
}

/// The condition of a type.
pub(crate) fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether `Ready` holds among these.
pub(crate) fn is_ready(conditions: &[Condition]) -> bool {
    condition(conditions, "Ready").is_some_and(|ready| ready.status == "True")
}

/// When an event last happened: events of the new API have other fields than those of the old.
pub(crate) fn event_time(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| {
        let last = series.last_observed_time.as_ref()?;
        Some(last.0)
    });
    series
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.first_timestamp.as_ref().map(|time| time.0))
        .or_else(|| {
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0)
        })
}

/// `Kind namespace/name` of what an event is about.
pub(crate) fn event_about(event: &Event) -> String {
    let on = &event.involved_object;
    let kind = on.kind.as_deref().unwrap_or("object");
    let name = on.name.as_deref().unwrap_or_default();
    match on.namespace.as_deref() {
        Some(namespace) if !namespace.is_empty() => format!("{kind} {namespace}/{name}"),
        _ => format!("{kind} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(image: &str, observed: i64) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": { "name": "lamina-node", "generation": 2 },
            "spec": {
                "selector": {},
                "template": { "spec": { "containers": [{ "name": "node", "image": image }] } },
            },
            "status": {
                "observedGeneration": observed, "currentNumberScheduled": 2, "numberMisscheduled": 0,
                "desiredNumberScheduled": 2, "numberReady": 2, "updatedNumberScheduled": 2,
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_workload_whose_new_spec_nobody_saw_is_not_ready() {
        assert!(Workload::of_set(&set("host:5000/lamina:0.1.0", 2)).is_ready());
        assert!(!Workload::of_set(&set("host:5000/lamina:0.1.0", 1)).is_ready());
    }

    #[test]
    fn versions_are_tags_or_short_digests() {
        let version = |image: &str| Workload::of_set(&set(image, 2)).version;
        assert_eq!(version("host:5000/lamina:0.1.0"), "0.1.0");
        assert_eq!(version("host:5000/lamina"), "latest");
        assert_eq!(
            version("host:5000/lamina@sha256:0123456789abcdef"),
            "sha256:0123456789ab"
        );
    }
}
