//! The workloads of a `LaminaCluster` as golden YAML: `UPDATE=1` rewrites it.

use std::fs;
use std::path::Path;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use lamina_operator::cluster::build::{Inputs, objects};
use serde_json::{Value, json};

fn inputs(spec: Value, stores: &[&str]) -> Inputs {
    Inputs {
        namespace: "lamina-system".to_owned(),
        spec: serde_json::from_value(spec).unwrap(),
        stores: stores.iter().map(|url| (*url).to_owned()).collect(),
        cache_bytes_max: None,
        layers_bytes_max: None,
        run_memory_mb: None,
    }
}

fn golden(name: &str, all: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let documents: Vec<String> = all.iter().map(lamina_crds::yaml_of).collect();
    let text = documents.join("---\n");
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == text,
        "{name} is not current: UPDATE=1 cargo test -p lamina-operator"
    );
}

#[test]
fn the_smallest_cluster() {
    golden(
        "smallest.yaml",
        &objects(&inputs(json!({ "image": "lamina:1" }), &[])),
    );
}

#[test]
fn a_cluster_with_everything_set() {
    let placement = json!({
        "requests": { "cpu": "50m", "memory": "128Mi" },
        "limits": { "memory": "2Gi" },
        "nodeSelector": { "kubernetes.io/os": "linux" },
        "tolerations": [{ "key": "gpu", "operator": "Exists" }],
        "priorityClassName": "high",
        "podLabels": { "team": "a", "app.kubernetes.io/name": "kept" },
        "podAnnotations": { "note": "b" },
        "env": [{ "name": "RUST_LOG", "value": "debug" }],
    });
    let spec = json!({
        "image": "registry.example.com/lamina:1",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{ "name": "pull" }],
        "node": { "kubeletDir": "/data/kubelet", "insecureRegistries": ["registry:5000"], "logLevel": "debug", "placement": placement },
        "csi": placement,
        "controller": { "replicas": 1, "placement": placement },
        "discovery": { "replicas": 3, "ttl": "1m", "placement": placement },
        "authoritySecret": { "name": "given" },
        "execution": {
            "enabled": true,
            "afslet": { "cpus": 8, "memory": "16Gi", "timeoutMax": "10m", "allowHostNetwork": true, "placement": placement },
            "proxy": { "replicas": 3, "placement": placement },
        },
    });
    let mut inputs = inputs(spec, &["s3://key:secret@bucket/packs"]);
    inputs.cache_bytes_max = Some(1 << 30);
    inputs.layers_bytes_max = Some(1 << 31);
    inputs.run_memory_mb = Some(16 << 10);
    golden("everything.yaml", &objects(&inputs));
}

#[test]
fn objects_are_what_the_api_server_knows() {
    let spec = json!({ "image": "lamina:1", "execution": { "enabled": true } });
    for object in objects(&inputs(spec, &["oci://r/p"])) {
        match object["kind"].as_str().unwrap() {
            "DaemonSet" => drop(serde_json::from_value::<DaemonSet>(object).unwrap()),
            "Deployment" => drop(serde_json::from_value::<Deployment>(object).unwrap()),
            "Service" => drop(serde_json::from_value::<Service>(object).unwrap()),
            "PodDisruptionBudget" => {
                drop(serde_json::from_value::<PodDisruptionBudget>(object).unwrap());
            }
            _ => {}
        }
    }
}

#[test]
fn only_the_node_server_is_privileged_and_no_password_stands_in_a_workload() {
    for object in objects(&inputs(
        json!({ "image": "lamina:1" }),
        &["s3://k:secret@b/p"],
    )) {
        let text = object.to_string();
        let privileged = text.contains("\"privileged\":true") || text.contains("\"hostPID\":true");
        assert_eq!(privileged, object["metadata"]["name"] == "lamina-node");
        assert_eq!(text.contains("secret@"), object["kind"] == "Secret");
    }
}

#[test]
fn no_key_and_no_right_reaches_a_node() {
    let all = objects(&inputs(json!({ "image": "lamina:1" }), &[]));
    let node = all
        .iter()
        .find(|one| one["metadata"]["name"] == "lamina-node");
    let pod = &node.unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    let volumes = pod["volumes"].as_array().unwrap();
    let secrets: Vec<&Value> = volumes.iter().filter_map(|one| one.get("secret")).collect();
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert_eq!(secrets[0]["secretName"], "lamina-authority");
    let tokens: Vec<&Value> = volumes
        .iter()
        .filter_map(|one| one.get("projected"))
        .collect();
    let token = &tokens[0]["sources"][0]["serviceAccountToken"];
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        (&token["audience"], &token["expirationSeconds"]),
        (&json!("lamina.dev"), &json!(3600))
    );
}

#[test]
fn without_discovery_there_is_nothing_of_it() {
    for (spec, kinds) in [
        (json!({ "enabled": false }), vec![]),
        (json!({ "replicas": 1 }), vec!["Service", "Deployment"]),
        (
            json!({}),
            vec!["Service", "Deployment", "PodDisruptionBudget"],
        ),
    ] {
        let all = objects(&inputs(
            json!({ "image": "lamina:1", "discovery": spec }),
            &[],
        ));
        let ours = all
            .iter()
            .filter(|one| one["metadata"]["name"] == "lamina-discovery");
        let found: Vec<&str> = ours.map(|one| one["kind"].as_str().unwrap()).collect();
        assert_eq!(found, kinds, "{spec}");
    }
}

#[test]
fn commands_are_run_where_that_is_wanted_and_nowhere_else() {
    let of_it = |spec: Value| -> Vec<Value> {
        let all = objects(&inputs(
            json!({ "image": "lamina:1", "execution": spec }),
            &[],
        ));
        let runs = |one: &Value| {
            let name = one["metadata"]["name"].as_str().unwrap_or_default();
            name == "lamina-afslet" || name == "lamina-proxy"
        };
        all.into_iter().filter(runs).collect()
    };
    assert!(of_it(json!({})).is_empty());
    assert_eq!(of_it(json!({ "enabled": true })).len(), 5);
    let one = of_it(json!({ "enabled": true, "proxy": { "replicas": 1 } }));
    assert_eq!(one.len(), 4, "no budget for one");
    let somewhere = json!({ "enabled": true, "afslet": { "placement": { "nodeSelector": { "runs": "yes" } } } });
    let set = of_it(somewhere)
        .into_iter()
        .find(|one| one["kind"] == "DaemonSet")
        .unwrap();
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"], json!({ "runs": "yes" }));
    assert_eq!(pod["tolerations"], Value::Null, "taints keep it away");
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    let volumes = pod["volumes"].as_array().unwrap();
    let of_host = volumes
        .iter()
        .filter_map(|one| one["hostPath"]["path"].as_str());
    assert_eq!(
        of_host.collect::<Vec<_>>(),
        ["/run/lamina", "/var/lib/kubelet/plugins/afslet.lamina.dev",]
    );
}

/// There is no value that turns TLS off: what serves or calls in a cluster shows a certificate.
#[test]
fn no_workload_goes_without_tls() {
    let spec = json!({
        "image": "lamina:1",
        "node": { "insecureRegistries": ["registry:5000"] },
        "execution": { "enabled": true },
    });
    let mut serving = 0;
    for object in objects(&inputs(spec, &[])) {
        let containers = &object["spec"]["template"]["spec"]["containers"];
        for container in containers.as_array().into_iter().flatten() {
            let args: Vec<&str> = container["args"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            assert!(!args.contains(&"--insecure"), "{args:?}");
            let starts = |with: &str| args.iter().any(|arg| arg.starts_with(with));
            if starts("--listen=") {
                serving += 1;
                assert!(
                    starts("--tls-dir=") || starts("--certificates-from="),
                    "{args:?}"
                );
            }
        }
    }
    assert_eq!(serving, 4, "node servers, discovery, afslets and proxies");
}

/// Logs of pods are files: who searches them does not look for `\x1b[32m`.
#[test]
fn a_log_that_no_terminal_shows_has_no_colours() {
    let dir = tempfile::tempdir().unwrap();
    let kubeconfig = dir.path().join("config");
    // Nobody listens there.
    let text = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "a", "user": {}}]}"#;
    std::fs::write(&kubeconfig, text).unwrap();
    let objects = dir.path().join("objects.yaml");
    std::fs::write(&objects, "kind: A\napiVersion: v1\nmetadata: {name: a}\n").unwrap();
    let ended = std::process::Command::new(env!("CARGO_BIN_EXE_lamina-operator"))
        .args(["apply", "--timeout=1s", "--file"])
        .arg(&objects)
        .env("KUBECONFIG", &kubeconfig)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let log = String::from_utf8(ended.stderr).unwrap();
    assert!(log.contains("trying again"), "{log}");
    assert!(!log.contains('\x1b'), "{log}");
}
