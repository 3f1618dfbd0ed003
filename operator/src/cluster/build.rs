//! The workloads of a `LaminaCluster`, as the API server gets them. No I/O: the same spec gives the same
//! objects, and `operator/tests/golden/` shows them.
//!
//! Only `lamina-node` is privileged. It has no token and reads its certificate from a volume.

pub use super::validate::Inputs;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use lamina_crds::Placement;
use serde_json::{Map, Value, json};

use crate::pki::{CLIENT_SECRET, NODE_SECRET};

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
    all.extend([node(inputs), csi(inputs), controller(inputs)]);
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

fn node(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.node;
    let mut args = vec![
        "node".to_owned(),
        "--outside-pod".to_owned(),
        format!("--state={STATE}"),
        format!("--run-dir={RUN}"),
        format!("--kubelet-dir={}", spec.kubelet_dir),
        "--listen=0.0.0.0:7150".to_owned(),
        format!("--tls-dir={TLS}"),
        "--http=0.0.0.0:7151".to_owned(),
    ];
    args.extend(
        inputs
            .cache_bytes_max
            .map(|bytes| format!("--cache-size={bytes}")),
    );
    args.extend(
        spec.insecure_registries
            .iter()
            .map(|host| format!("--insecure-registry={host}")),
    );
    // Kubernetes puts the values in: URLs with passwords do not stand in the DaemonSet.
    args.extend((0..inputs.stores.len()).map(|index| format!("--store=$({})", store_key(index))));
    let mut env = base_env(inputs);
    env.extend((0..inputs.stores.len()).map(|index| {
        let key = store_key(index);
        json!({ "name": key, "valueFrom": { "secretKeyRef": { "name": STORES_SECRET, "key": key } } })
    }));
    let container = container(
        inputs,
        &spec.placement,
        json!({
            "name": "node",
            "command": ["/usr/local/bin/lamina"],
            "args": args,
            "env": env,
            "ports": [
                { "name": "grpc", "containerPort": 7150 },
                { "name": "metrics", "containerPort": 7151 },
            ],
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6 },
            "securityContext": { "privileged": true, "readOnlyRootFilesystem": true },
            "volumeMounts": [
                { "name": "state", "mountPath": STATE },
                { "name": "run", "mountPath": RUN },
                { "name": "kubelet", "mountPath": spec.kubelet_dir, "mountPropagation": "Bidirectional" },
                { "name": "dev", "mountPath": "/dev" },
                { "name": "tls", "mountPath": TLS, "readOnly": true },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
        }),
    );
    let pod = json!({
        "serviceAccountName": "lamina-node",
        "automountServiceAccountToken": false,
        "hostPID": true,
        "hostNetwork": true,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            host("state", STATE, "DirectoryOrCreate"),
            host("run", RUN, "DirectoryOrCreate"),
            host("kubelet", &spec.kubelet_dir, "Directory"),
            host("dev", "/dev", "Directory"),
            { "name": "tls", "secret": { "secretName": NODE_SECRET, "defaultMode": 0o400 } },
            { "name": "tmp", "emptyDir": {} },
        ],
    });
    daemon_set(inputs, "node", &spec.placement, pod)
}

fn csi(inputs: &Inputs) -> Value {
    let kubelet = &inputs.spec.node.kubelet_dir;
    let plugin = format!("{kubelet}/plugins/{DRIVER}");
    let container = container(
        inputs,
        &inputs.spec.csi,
        json!({
            "name": "csi",
            "command": ["/usr/local/bin/lamina-csi"],
            "args": [
                "node",
                format!("--endpoint=unix:///plugins/{DRIVER}/csi.sock"),
                format!("--agent={RUN}/node.sock"),
                "--registration-dir=/registration",
                format!("--kubelet-plugin-dir={plugin}"),
                "--node-name=$(NODE_NAME)",
                format!("--http=0.0.0.0:{PROBES_PORT}"),
            ],
            "env": base_env(inputs),
            "ports": probe_ports(),
            "readinessProbe": probe("/readyz", 5, 3),
            "livenessProbe": probe("/healthz", 10, 6),
            // Root, because the sockets are root's; without any capability.
            "securityContext": {
                "runAsUser": 0,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "volumeMounts": [
                { "name": "run", "mountPath": RUN },
                { "name": "plugins", "mountPath": "/plugins" },
                { "name": "registration", "mountPath": "/registration" },
            ],
        }),
    );
    let pod = json!({
        "serviceAccountName": "lamina-csi",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": [
            host("run", RUN, "DirectoryOrCreate"),
            // The parent, so that the driver can remove its own directory when it goes.
            host("plugins", &format!("{kubelet}/plugins"), "DirectoryOrCreate"),
            host("registration", &format!("{kubelet}/plugins_registry"), "DirectoryOrCreate"),
        ],
    });
    daemon_set(inputs, "csi", &inputs.spec.csi, pod)
}

fn controller(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.controller;
    let container = container(
        inputs,
        &spec.placement,
        json!({
            "name": "controller",
            "command": ["/usr/local/bin/lamina-csi"],
            "args": [
                "controller",
                "--endpoint=unix:///csi/csi.sock",
                format!("--http=0.0.0.0:{PROBES_PORT}"),
            ],
            "env": base_env(inputs),
            "ports": probe_ports(),
            "readinessProbe": probe("/readyz", 5, 3),
            "livenessProbe": probe("/healthz", 10, 6),
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": [
                { "name": "socket", "mountPath": "/csi" },
                { "name": "tls", "mountPath": TLS, "readOnly": true },
            ],
        }),
    );
    let pod = json!({
        "serviceAccountName": "lamina-controller",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container],
        "volumes": [
            { "name": "socket", "emptyDir": {} },
            { "name": "tls", "secret": { "secretName": CLIENT_SECRET, "defaultMode": 0o440 } },
        ],
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(inputs, "lamina-controller", "controller"),
        "spec": {
            "replicas": spec.replicas,
            "selector": { "matchLabels": selector("controller") },
            "template": template(inputs, "controller", &spec.placement, pod),
        },
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

fn base_env(inputs: &Inputs) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
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
