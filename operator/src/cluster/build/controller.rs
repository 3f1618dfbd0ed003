//! `lamina-controller`: the provisioner of volumes.

use serde_json::{Value, json};

use super::{
    GRACE_SECONDS, Inputs, PROBES_PORT, TLS, base_env, confined, container, deployment, probe,
    probe_ports, template, unprivileged,
};
use crate::pki::CLIENT_SECRET;

pub(super) fn controller(inputs: &Inputs) -> Value {
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
            "securityContext": confined(),
            "volumeMounts": [
                { "name": "socket", "mountPath": "/csi" },
                { "name": "tls", "mountPath": TLS, "readOnly": true },
            ],
        }),
    );
    let pod = json!({
        "serviceAccountName": "lamina-controller",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": unprivileged(),
        "containers": [container],
        "volumes": [
            { "name": "socket", "emptyDir": {} },
            { "name": "tls", "secret": { "secretName": CLIENT_SECRET, "defaultMode": 0o440 } },
        ],
    });
    deployment(
        inputs,
        "controller",
        spec.replicas,
        template(inputs, "controller", &spec.placement, pod),
    )
}
