//! A `Flist` from a claim: a pod mounts the claim read-only and runs `lamina pack` into a store.
//!
//! The pod runs in the object's namespace, where others may read its spec: so only stores without
//! credentials of their own are used, and the pod has no token. Its log's first line ends with the digest.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use lamina_crds::{Flist, LaminaCluster, PvcFrom};
use serde_json::{Value, json};

use crate::context::Ctx;
use crate::fault::Fault;

/// The digest, once the pod has packed the claim.
pub(crate) async fn packed(
    flist: &Flist,
    ctx: &Ctx,
    claim: &PvcFrom,
    stores: &[String],
) -> Result<String, Fault> {
    checked(stores)?;
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &flist.namespace().unwrap_or_default());
    let name = pod_name(flist);
    let Some(pod) = api.get_opt(&name).await? else {
        let pod = build(flist, claim, stores, &image(ctx).await?);
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        api.create(&PostParams::default(), &pod).await?;
        return Err(Fault::working(format!("pod {name} reads the claim")));
    };
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    match phase {
        Some("Succeeded") => {
            let log = api.logs(&name, &LogParams::default()).await?;
            let digest = digest(&log).ok_or_else(|| {
                Fault::new(
                    "PackFailed",
                    format!("pod {name} ended without naming a digest"),
                )
            })?;
            api.delete(&name, &DeleteParams::default()).await?;
            Ok(digest)
        }
        Some("Failed") => {
            let lines = LogParams {
                tail_lines: Some(5),
                ..LogParams::default()
            };
            let log = api.logs(&name, &lines).await.unwrap_or_default();
            // Deleted, so that the next try starts anew.
            api.delete(&name, &DeleteParams::default()).await?;
            Err(Fault::new(
                "PackFailed",
                format!("pod {name} failed: {}", log.trim()),
            ))
        }
        _ => Err(Fault::working(format!(
            "pod {name} is {}",
            phase.unwrap_or("Pending").to_lowercase()
        ))),
    }
}

fn checked(stores: &[String]) -> Result<(), Fault> {
    if stores.is_empty() {
        return Err(Fault::new(
            "NoStore",
            "a Flist from a claim needs a Store that every node reaches: name one in spec.stores or in the LaminaCluster",
        ));
    }
    let local = |url: &String| url.contains("dir://");
    let secret = |url: &String| {
        url.split("://")
            .nth(1)
            .is_some_and(|rest| rest.split('/').next().unwrap_or("").contains('@'))
    };
    if stores.iter().any(local) {
        return Err(Fault::new(
            "NoStore",
            "a Flist from a claim cannot be published to a dir:// store: its pod does not see the node's disk",
        ));
    }
    if stores.iter().any(secret) {
        return Err(Fault::new(
            "StoreNeedsSecret",
            "a Flist from a claim can only be published to a store without secretRef: the pod that reads the claim must not hold its credentials",
        ));
    }
    Ok(())
}

async fn image(ctx: &Ctx) -> Result<String, Fault> {
    let api = Api::<LaminaCluster>::all(ctx.client.clone());
    let cluster = api.get_opt(lamina_crds::CLUSTER_NAME).await?;
    cluster.map(|cluster| cluster.spec.image).ok_or_else(|| {
        Fault::new(
            "NoCluster",
            "there is no LaminaCluster: nobody knows which image packs",
        )
    })
}

fn pod_name(flist: &Flist) -> String {
    let uid = flist.uid().unwrap_or_default();
    format!("lamina-pack-{uid}")
}

fn build(flist: &Flist, claim: &PvcFrom, stores: &[String], image: &str) -> Value {
    let mut args = vec![
        "pack".to_owned(),
        "/source".to_owned(),
        "--out=/tmp/packed.fl".to_owned(),
        "--publish".to_owned(),
    ];
    args.extend(stores.iter().map(|url| format!("--store={url}")));
    let mut mount = json!({ "name": "source", "mountPath": "/source", "readOnly": true });
    if !claim.path.is_empty() {
        mount["subPath"] = json!(claim.path);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(flist),
            "labels": { "app.kubernetes.io/name": "lamina", "app.kubernetes.io/component": "pack", "app.kubernetes.io/part-of": "lamina" },
            "ownerReferences": [flist.controller_owner_ref(&())],
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 6 * 3600,
            "automountServiceAccountToken": false,
            "nodeSelector": flist.spec.node_selector,
            "containers": [{
                "name": "pack",
                "image": image,
                "command": ["/usr/local/bin/lamina"],
                "args": args,
                // Root without capabilities but the one to read everybody's files.
                "securityContext": {
                    "runAsUser": 0,
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"], "add": ["DAC_READ_SEARCH"] },
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
                "volumeMounts": [mount, { "name": "tmp", "mountPath": "/tmp" }],
            }],
            "volumes": [
                { "name": "source", "persistentVolumeClaim": { "claimName": claim.claim_name, "readOnly": true } },
                { "name": "tmp", "emptyDir": {} },
            ],
        },
    })
}

/// The last word of a line that is 64 hex digits.
fn digest(log: &str) -> Option<String> {
    let is_digest =
        |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    log.lines()
        .filter_map(|line| line.split(' ').next_back())
        .find(is_digest)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_found_in_the_log() {
        let hex = "0123456789abcdef".repeat(4);
        let log = format!("/tmp/packed.fl {hex}\n3 KiB of file data, 0 in the stores before\n");
        assert_eq!(digest(&log).unwrap(), hex);
        assert_eq!(digest("nothing\n"), None);
    }

    #[test]
    fn stores_a_pod_must_not_use_are_refused() {
        let reason = |url: &str| checked(&[url.to_owned()]).err().map(|fault| fault.reason);
        assert_eq!(reason("dir:///srv"), Some("NoStore"));
        assert_eq!(
            reason("00-7f=s3://key:secret@bucket/a"),
            Some("StoreNeedsSecret")
        );
        assert_eq!(reason("oci://registry:5000/packs"), None);
        assert_eq!(checked(&[]).unwrap_err().reason, "NoStore");
    }

    #[test]
    fn the_pod_reads_the_claim_and_has_no_token() {
        let mut flist = Flist::new(
            "data",
            serde_json::from_value(json!({ "source": {} })).unwrap(),
        );
        flist.metadata.uid = Some("u1".into());
        let claim = PvcFrom {
            claim_name: "data".into(),
            path: "models".into(),
        };
        let pod = build(&flist, &claim, &["oci://r/p".into()], "lamina:1");
        let _: Pod = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        assert_eq!(
            pod["spec"]["containers"][0]["volumeMounts"][0]["subPath"],
            "models"
        );
    }
}
