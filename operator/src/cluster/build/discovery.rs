//! `lamina-discovery`: the cluster's memory of what its nodes hold. Nothing of it is on disk; each replica knows everything.

use serde_json::{Value, json};

use super::{
    GRACE_SECONDS, Inputs, TLS, base_env, budget, confined, container, deployment, headless,
    template, unprivileged,
};
use crate::pki::DISCOVERY_SECRET;

/// Of the Deployment, the Service and the budget.
pub(crate) const NAME: &str = "lamina-discovery";
const PORT: u16 = 7070;
const METRICS_PORT: u16 = 7071;

/// Where nodes find all replicas: the Service is headless.
pub(super) fn address(inputs: &Inputs) -> String {
    format!("{NAME}.{}.svc:{PORT}", inputs.namespace)
}

pub(super) fn objects(inputs: &Inputs) -> Vec<Value> {
    // Headless: nodes report to every replica.
    let ports = (PORT, METRICS_PORT);
    let mut all = vec![headless(inputs, NAME, "discovery", ports), workload(inputs)];
    // With one replica a budget would only block drains.
    if inputs.spec.discovery.replicas > 1 {
        all.push(budget(inputs, NAME, "discovery"));
    }
    all
}

fn workload(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.discovery;
    let mut args = vec![
        "discovery".to_owned(),
        format!("--listen=0.0.0.0:{PORT}"),
        format!("--tls-dir={TLS}"),
        format!("--http=0.0.0.0:{METRICS_PORT}"),
        format!("--ttl={}", spec.ttl),
    ];
    let insecure = inputs.spec.node.insecure_registries.iter();
    args.extend(insecure.map(|host| format!("--insecure-registry={host}")));
    let container = container(
        inputs,
        &spec.placement,
        json!({
            "name": "discovery",
            "command": ["/usr/local/bin/lamina"],
            "args": args,
            "env": base_env(inputs),
            "ports": [
                { "name": "grpc", "containerPort": PORT },
                { "name": "metrics", "containerPort": METRICS_PORT },
            ],
            "readinessProbe": { "httpGet": { "path": "/readyz", "port": "metrics" }, "periodSeconds": 2 },
            "livenessProbe": { "httpGet": { "path": "/healthz", "port": "metrics" }, "periodSeconds": 10, "failureThreshold": 6 },
            "securityContext": confined(),
            "volumeMounts": [{ "name": "tls", "mountPath": TLS, "readOnly": true }],
        }),
    );
    let pod = json!({
        "serviceAccountName": NAME,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": unprivileged(),
        "containers": [container],
        "volumes": [
            { "name": "tls", "secret": { "secretName": DISCOVERY_SECRET, "defaultMode": 0o440 } },
        ],
    });
    let pod = template(inputs, "discovery", &spec.placement, pod);
    deployment(inputs, "discovery", spec.replicas, pod)
}
