//! `lamina-afslet` on nodes, which runs commands, and `lamina-proxy`, which finds a node for each. Neither is there unless
//! it is wanted: they run whatever their clients ask for.
//!
//! An afslet is privileged, because it makes namespaces and mounts; the commands in it are not, and no part of it can speak
//! to the API server.

use serde_json::{Value, json};

use super::{
    GRACE_SECONDS, Inputs, RUN, TLS, base_env, budget, confined, container, daemon_set_where,
    deployment, discovery, headless, host, template, unprivileged,
};
use crate::pki::{AFSLET_SECRET, PROXY_SECRET};

/// Of the `DaemonSet` and its Service.
pub(crate) const AFSLET: &str = "lamina-afslet";
/// Of the Deployment, its Service and its budget.
pub(crate) const PROXY: &str = "lamina-proxy";
const AFSLET_PORT: u16 = 7170;
const PROXY_PORT: u16 = 7180;
const AFSLET_METRICS_PORT: u16 = 7171;
const PROXY_METRICS_PORT: u16 = 7181;
/// Time for commands when an afslet's pod ends.
const DRAIN_SECONDS: i64 = 60;
/// Live state of an afslet: what is outside of its pod, mounts and control groups, it takes down when it is started.
const SANDBOXES: &str = "/run/lamina-afslet";

pub(super) fn objects(inputs: &Inputs) -> Vec<Value> {
    let mut all = vec![
        headless(inputs, AFSLET, "afslet", (AFSLET_PORT, AFSLET_METRICS_PORT)),
        afslet(inputs),
        headless(inputs, PROXY, "proxy", (PROXY_PORT, PROXY_METRICS_PORT)),
        proxy(inputs),
    ];
    // With one replica a budget would only block drains.
    if inputs.spec.execution.proxy.replicas > 1 {
        all.push(budget(inputs, PROXY, "proxy"));
    }
    all
}

fn afslet(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.execution.afslet;
    // The node server mounts below kubelet's directory alone, and removes this one when it is left.
    let volumes = format!("{}/plugins/afslet.lamina.dev", inputs.spec.node.kubelet_dir);
    let mut args = vec![
        "afslet".to_owned(),
        format!("--listen=0.0.0.0:{AFSLET_PORT}"),
        format!("--metrics=0.0.0.0:{AFSLET_METRICS_PORT}"),
        format!("--tls-dir={TLS}"),
        format!("--node-socket={RUN}/node.sock"),
        "--node=$(NODE_NAME)".to_owned(),
        format!("--volumes={volumes}"),
        format!("--run-dir={SANDBOXES}"),
        format!("--timeout-max={}", spec.timeout_max),
        format!("--drain-timeout={}s", DRAIN_SECONDS - 10),
    ];
    args.extend(spec.cpus.map(|cpus| format!("--cpu={cpus}")));
    args.extend(inputs.run_memory_mb.map(|mb| format!("--memory={mb}")));
    if spec.allow_host_network {
        args.push("--allow-host-network".to_owned());
    }
    let container = container(
        inputs,
        &spec.placement,
        json!({
            "name": "afslet",
            "command": ["/usr/local/bin/lamina"],
            "args": args,
            "env": base_env(inputs),
            "ports": [
                { "name": "grpc", "containerPort": AFSLET_PORT },
                { "name": "metrics", "containerPort": AFSLET_METRICS_PORT },
            ],
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6 },
            "securityContext": { "privileged": true, "readOnlyRootFilesystem": true },
            "volumeMounts": [
                { "name": "run", "mountPath": RUN },
                { "name": "volumes", "mountPath": volumes, "mountPropagation": "HostToContainer" },
                { "name": "sandboxes", "mountPath": SANDBOXES },
                { "name": "tls", "mountPath": TLS, "readOnly": true },
                { "name": "tmp", "mountPath": "/tmp" },
            ],
        }),
    );
    let pod = json!({
        "serviceAccountName": AFSLET,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": DRAIN_SECONDS,
        "containers": [container],
        "volumes": [
            host("run", RUN, "DirectoryOrCreate"),
            host("volumes", &volumes, "DirectoryOrCreate"),
            { "name": "sandboxes", "emptyDir": {} },
            { "name": "tls", "secret": { "secretName": AFSLET_SECRET, "defaultMode": 0o400 } },
            { "name": "tmp", "emptyDir": {} },
        ],
    });
    daemon_set_where(inputs, "afslet", &spec.placement, pod)
}

fn proxy(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.execution.proxy;
    let mut args = vec![
        "proxy".to_owned(),
        format!("--listen=0.0.0.0:{PROXY_PORT}"),
        format!("--http=0.0.0.0:{PROXY_METRICS_PORT}"),
        format!("--tls-dir={TLS}"),
        format!("--afslet={AFSLET}.{}.svc:{AFSLET_PORT}", inputs.namespace),
    ];
    if inputs.spec.discovery.enabled {
        args.push(format!("--discovery={}", discovery::address(inputs)));
    }
    let container = container(
        inputs,
        &spec.placement,
        json!({
            "name": "proxy",
            "command": ["/usr/local/bin/lamina"],
            "args": args,
            "env": base_env(inputs),
            "ports": [
                { "name": "grpc", "containerPort": PROXY_PORT },
                { "name": "metrics", "containerPort": PROXY_METRICS_PORT },
            ],
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6 },
            "securityContext": confined(),
            "volumeMounts": [{ "name": "tls", "mountPath": TLS, "readOnly": true }],
        }),
    );
    let pod = json!({
        "serviceAccountName": PROXY,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": unprivileged(),
        "containers": [container],
        "volumes": [
            { "name": "tls", "secret": { "secretName": PROXY_SECRET, "defaultMode": 0o440 } },
        ],
    });
    let pod = template(inputs, "proxy", &spec.placement, pod);
    deployment(inputs, "proxy", spec.replicas, pod)
}
