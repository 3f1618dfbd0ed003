//! The workloads of a `LaminaCluster`, as the API server gets them. No I/O: the same spec gives the same
//! objects, and `operator/tests/golden/` shows them.
//!
//! Only `lamina-node` is privileged, and `lamina-afslet` where it is wanted; no workload on nodes can speak to the API server but
//! `lamina-csi`.

mod controller;
mod csi;
pub(crate) mod discovery;
pub(crate) mod execution;
mod node;

pub use super::validate::Inputs;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lamina_crds::Placement;
use serde_json::{Map, Value, json};

/// Secret with the stores' URLs.
pub(crate) const STORES_SECRET: &str = "lamina-stores";
const STATE: &str = "/var/lib/lamina";
const RUN: &str = "/run/lamina";
const TLS: &str = "/etc/lamina/tls";
const DRIVER: &str = "csi.lamina.dev";
/// Time for running calls when a pod ends.
const GRACE_SECONDS: i64 = 30;
/// Where the CSI driver answers probes, in both roles.
const PROBES_PORT: u16 = 9808;
/// The driver gives a probe 5 s, and then says why; kubelet's own default of 1 s would hide it.
const PROBE_SECONDS: u16 = 6;

/// Every object, in the order they are applied.
pub fn objects(inputs: &Inputs) -> Vec<Value> {
    let mut all = Vec::new();
    if !inputs.stores.is_empty() {
        all.push(stores(inputs));
    }
    if inputs.spec.discovery.enabled {
        all.extend(discovery::objects(inputs));
    }
    all.extend([
        node::node(inputs),
        csi::csi(inputs),
        controller::controller(inputs),
    ]);
    if inputs.spec.execution.enabled {
        all.extend(execution::objects(inputs));
    }
    all
}

/// Name of the `index`th store's URL in the Secret and the environment.
fn store_key(index: usize) -> String {
    format!("LAMINA_STORE_{index}")
}

fn stores(inputs: &Inputs) -> Value {
    let urls: BTreeMap<String, &String> = inputs
        .stores
        .iter()
        .enumerate()
        .map(|(index, url)| (store_key(index), url))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata(inputs, STORES_SECRET, "node"),
        "stringData": urls,
    })
}

fn daemon_set(inputs: &Inputs, component: &str, placement: &Placement, mut pod: Value) -> Value {
    // A node without Lamina cannot start pods with its volumes: it goes everywhere unless told otherwise.
    if placement.tolerations.is_empty() {
        pod["tolerations"] = json!([{ "operator": "Exists" }]);
    }
    if placement.priority_class_name.is_none() {
        pod["priorityClassName"] = json!("system-node-critical");
    }
    daemon_set_where(inputs, component, placement, pod)
}

/// Where its placement says, and nowhere else.
fn daemon_set_where(inputs: &Inputs, component: &str, placement: &Placement, pod: Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata(inputs, &format!("lamina-{component}"), component),
        "spec": {
            "selector": { "matchLabels": selector(component) },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": "10%" } },
            "template": template(inputs, component, placement, pod),
        },
    })
}

fn deployment(inputs: &Inputs, component: &str, replicas: i32, mut template: Value) -> Value {
    template["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        // Pods of before an upgrade do not count: they go.
        "matchLabelKeys": ["pod-template-hash"],
        "labelSelector": { "matchLabels": selector(component) },
    }]);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(inputs, &format!("lamina-{component}"), component),
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": selector(component) },
            "template": template,
        },
    })
}

/// A Service whose name stands for every pod of a component; ports of its calls and of its metrics.
fn headless(inputs: &Inputs, name: &str, component: &str, (grpc, metrics): (u16, u16)) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(inputs, name, component),
        "spec": {
            "clusterIP": "None",
            "selector": selector(component),
            "ports": [
                { "name": "grpc", "port": grpc, "targetPort": "grpc" },
                { "name": "metrics", "port": metrics, "targetPort": "metrics" },
            ],
        },
    })
}

/// Drains take one pod of a component at a time.
fn budget(inputs: &Inputs, name: &str, component: &str) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(inputs, name, component),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": selector(component) } },
    })
}

/// Of a pod that is nobody on its node.
fn unprivileged() -> Value {
    json!({
        "runAsNonRoot": true,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// Of its container.
fn confined() -> Value {
    json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": { "drop": ["ALL"] },
    })
}

fn template(inputs: &Inputs, component: &str, placement: &Placement, mut pod: Value) -> Value {
    let mut labels = placement.pod_labels.clone();
    labels.extend(all_labels(component));
    if !placement.node_selector.is_empty() {
        pod["nodeSelector"] = json!(placement.node_selector);
    }
    if !placement.tolerations.is_empty() {
        pod["tolerations"] = json!(placement.tolerations);
    }
    if let Some(class) = &placement.priority_class_name {
        pod["priorityClassName"] = json!(class);
    }
    if !inputs.spec.image_pull_secrets.is_empty() {
        pod["imagePullSecrets"] = json!(inputs.spec.image_pull_secrets);
    }
    let mut annotations = placement.pod_annotations.clone();
    if component == "node" && !inputs.stores.is_empty() {
        annotations.insert("lamina.dev/stores".to_owned(), fingerprint(&inputs.stores));
    }
    json!({ "metadata": { "labels": labels, "annotations": annotations }, "spec": pod })
}

/// Changes when the stores do, so that pods are started anew; tells nothing about them.
fn fingerprint(stores: &[String]) -> String {
    let mut hasher = DefaultHasher::new();
    stores.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

fn container(inputs: &Inputs, placement: &Placement, mut container: Value) -> Value {
    container["image"] = json!(inputs.spec.image);
    container["imagePullPolicy"] = json!(inputs.spec.image_pull_policy.as_str());
    let mut resources = Map::new();
    for (name, amounts) in [
        ("requests", &placement.requests),
        ("limits", &placement.limits),
    ] {
        if !amounts.is_empty() {
            resources.insert(name.to_owned(), json!(amounts));
        }
    }
    container["resources"] = Value::Object(resources);
    let env = container["env"]
        .as_array_mut()
        .expect("every container has env");
    for variable in &placement.env {
        env.retain(|one| one["name"] != json!(variable.name));
        env.push(json!(variable));
    }
    container
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn base_env(inputs: &Inputs) -> Vec<Value> {
    vec![
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        json!({ "name": "RUST_LOG", "value": inputs.spec.node.log_level.as_str() }),
    ]
}

fn probe_ports() -> Value {
    json!([{ "name": "probes", "containerPort": PROBES_PORT }])
}

fn probe(path: &str, period_seconds: u16, failures: u16) -> Value {
    json!({
        "httpGet": { "path": path, "port": "probes" },
        "periodSeconds": period_seconds,
        "timeoutSeconds": PROBE_SECONDS,
        "failureThreshold": failures,
    })
}

fn host(name: &str, path: &str, kind: &str) -> Value {
    json!({ "name": name, "hostPath": { "path": path, "type": kind } })
}

fn metadata(inputs: &Inputs, name: &str, component: &str) -> Value {
    json!({ "name": name, "namespace": inputs.namespace, "labels": all_labels(component) })
}

fn selector(component: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "lamina"),
        ("app.kubernetes.io/component", component),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn all_labels(component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(component);
    labels.insert("app.kubernetes.io/part-of".to_owned(), "lamina".to_owned());
    labels.insert(
        "app.kubernetes.io/managed-by".to_owned(),
        crate::MANAGER.to_owned(),
    );
    labels
}
