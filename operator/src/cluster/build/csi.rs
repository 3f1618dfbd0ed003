//! `lamina-csi`, on every node: the CSI driver.

use serde_json::{Value, json};

use super::{
    DRIVER, GRACE_SECONDS, Inputs, PROBES_PORT, RUN, base_env, container, daemon_set, host, probe,
    probe_ports,
};

pub(super) fn csi(inputs: &Inputs) -> Value {
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
