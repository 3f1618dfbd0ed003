//! `lamina-node`, on every node. Only it is privileged. It has no rights: its token is for the operator alone, which gives
//! it a certificate of its own for that.

use serde_json::{Value, json};

use super::{
    GRACE_SECONDS, Inputs, RUN, STATE, STORES_SECRET, TLS, base_env, container, daemon_set,
    discovery, field, host, store_key,
};
use crate::pki::{self, AUDIENCE, AUTHORITY_SECRET};

/// Where its token for the operator is.
const TOKEN: &str = "/var/run/secrets/lamina.dev";

pub(super) fn node(inputs: &Inputs) -> Value {
    let spec = &inputs.spec.node;
    let mut args = vec![
        "node".to_owned(),
        "--outside-pod".to_owned(),
        format!("--state={STATE}"),
        format!("--run-dir={RUN}"),
        format!("--kubelet-dir={}", spec.kubelet_dir),
        "--listen=0.0.0.0:7150".to_owned(),
        format!(
            "--certificates-from=lamina-operator.{}.svc:{}",
            inputs.namespace,
            pki::PORT
        ),
        format!("--token-file={TOKEN}/token"),
        format!("--ca-file={TLS}/ca.crt"),
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
    if inputs.spec.discovery.enabled {
        args.push(format!("--discovery={}", discovery::address(inputs)));
        args.push("--endpoint=$(HOST_IP):7150".to_owned());
        args.extend(
            inputs
                .layers_bytes_max
                .map(|bytes| format!("--layers-size={bytes}")),
        );
    }
    // Kubernetes puts the values in: URLs with passwords do not stand in the DaemonSet.
    args.extend((0..inputs.stores.len()).map(|index| format!("--store=$({})", store_key(index))));
    let mut env = base_env(inputs);
    env.push(field("HOST_IP", "status.hostIP"));
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
                { "name": "authority", "mountPath": TLS, "readOnly": true },
                { "name": "token", "mountPath": TOKEN, "readOnly": true },
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
            { "name": "authority", "secret": { "secretName": AUTHORITY_SECRET, "defaultMode": 0o400 } },
            { "name": "token", "projected": { "defaultMode": 0o400, "sources": [
                { "serviceAccountToken": { "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token" } },
            ] } },
            { "name": "tmp", "emptyDir": {} },
        ],
    });
    daemon_set(inputs, "node", &spec.placement, pod)
}
