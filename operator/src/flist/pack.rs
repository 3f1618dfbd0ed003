//! A `Flist` from a claim: a pod mounts the claim read-only and runs `lamina pack` into a store.
//!
//! The pod runs in the object's namespace, where others may read its spec: so only stores without
//! credentials of their own are used, and the pod has no token. Its log's first line ends with the digest.
//! The claim is mounted whole: kubelet would make the directory of a `subPath` that is not there.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use lamina_crds::{Flist, LaminaCluster, LocalName, PvcFrom};
use serde_json::{Value, json};

use crate::context::Ctx;
use crate::fault::Fault;

/// What helps where the image cannot be pulled.
const PULL_HINT: &str = "if Lamina's image is private, its pull secrets have to be in this namespace, too, by the same names";

/// How long a pod that failed stays, with its log.
const RETRY_SECONDS: i64 = 60;

/// Bytes of its log that are read: the line with the digest is the first.
const LOG_BYTES_MAX: i64 = 64 << 10;

/// The digest, once the pod has packed the claim.
pub(crate) async fn packed(
    flist: &Flist,
    ctx: &Ctx,
    claim: &PvcFrom,
    stores: &[String],
) -> Result<String, Fault> {
    checked(stores)?;
    let namespace = flist.namespace().unwrap_or_default();
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &namespace);
    let name = pod_name(flist);
    let Some(pod) = api.get_opt(&name).await? else {
        exists(ctx, &namespace, &claim.claim_name).await?;
        let pod = build(flist, claim, stores, &program(ctx).await?);
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        api.create(&PostParams::default(), &pod).await?;
        return Err(Fault::working(format!("pod {name} reads the claim")));
    };
    if !is_of(&pod, flist) {
        let message = format!("pod {name} is not of this Flist, and has its name: delete it");
        return Err(Fault::new("PackFailed", message));
    }
    let status = pod.status.unwrap_or_default();
    match status.phase.as_deref() {
        Some("Succeeded") => {
            let log = api.logs(&name, &log(None)).await?;
            // Also without a digest: the next try starts anew.
            api.delete(&name, &DeleteParams::default()).await?;
            digest(&log).ok_or_else(|| {
                let message =
                    format!("pod {name} ended without naming a digest; it is tried again");
                Fault::new("PackFailed", message)
            })
        }
        Some("Failed") => {
            let since = ended_seconds_ago(&status);
            let log = api.logs(&name, &log(Some(5))).await.unwrap_or_default();
            // Deleted after a while, so that the next try starts anew.
            if since.is_none_or(|seconds| seconds >= RETRY_SECONDS) {
                api.delete(&name, &DeleteParams::default()).await?;
            }
            let message = format!(
                "pod {name} failed, and is tried again every {RETRY_SECONDS} s: {}",
                failure(&log, &status)
            );
            Err(Fault::new("PackFailed", message))
        }
        _ => Err(Fault::working(format!("pod {name} {}", progress(&status)))),
    }
}

/// Whether a pod was made for this Flist. Who may make pods here can make one of any name.
fn is_of(pod: &Pod, flist: &Flist) -> bool {
    let uid = flist.uid();
    let mut owners = pod.owner_references().iter();
    owners.any(|owner| Some(&owner.uid) == uid.as_ref())
}

/// What is read of a log: its last lines, or its beginning.
fn log(tail_lines: Option<i64>) -> LogParams {
    LogParams {
        tail_lines,
        limit_bytes: Some(LOG_BYTES_MAX),
        ..LogParams::default()
    }
}

/// A pod that names a claim which is not there would wait for it without an end.
async fn exists(ctx: &Ctx, namespace: &str, claim: &str) -> Result<(), Fault> {
    let claims = Api::<PersistentVolumeClaim>::namespaced(ctx.client.clone(), namespace);
    match claims.get_opt(claim).await? {
        Some(_) => Ok(()),
        None => Err(Fault::new(
            "NoSuchClaim",
            format!(
                "there is no PersistentVolumeClaim {claim} in namespace {namespace}, where the Flist is"
            ),
        )),
    }
}

/// How long ago a pod's container ended, if it says so.
fn ended_seconds_ago(status: &PodStatus) -> Option<i64> {
    let containers = status.container_statuses.iter().flatten();
    let mut ends = containers.filter_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0.as_second())
    });
    Some(Timestamp::now().as_second() - ends.next()?)
}

/// What a failed pod said; if it never came to that, what is said about it.
fn failure(log: &str, status: &PodStatus) -> String {
    let said = [
        Some(log),
        status.message.as_deref(),
        status.reason.as_deref(),
    ];
    let mut said = said.into_iter().flatten().map(str::trim);
    said.find(|text| !text.is_empty())
        .unwrap_or("it does not say why")
        .to_owned()
}

/// What a pod does; where it waits, for what.
fn progress(status: &PodStatus) -> String {
    let phase = status.phase.as_deref().unwrap_or("Pending").to_lowercase();
    let containers = status.container_statuses.iter().flatten();
    let mut starting = containers
        .filter_map(|container| container.state.as_ref()?.waiting.as_ref())
        .filter_map(|waiting| Some((waiting.message.as_deref()?, waiting.reason.as_deref())))
        .map(|(message, reason)| match reason {
            Some("ErrImagePull" | "ImagePullBackOff") => format!("{message}; {PULL_HINT}"),
            _ => message.to_owned(),
        });
    let conditions = status.conditions.iter().flatten();
    let mut placing = conditions
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .filter_map(|condition| condition.message.clone());
    match placing.next().or_else(|| starting.next()) {
        Some(why) => format!("is {phase}: {why}"),
        None => format!("is {phase}"),
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

/// The image that packs, and what it is pulled with.
struct Program {
    image: String,
    pull_secrets: Vec<LocalName>,
}

async fn program(ctx: &Ctx) -> Result<Program, Fault> {
    let api = Api::<LaminaCluster>::all(ctx.client.clone());
    let cluster = api.get_opt(lamina_crds::CLUSTER_NAME).await?;
    let spec = cluster.map(|cluster| cluster.spec).ok_or_else(|| {
        Fault::new(
            "NoCluster",
            "there is no LaminaCluster: nobody knows which image packs",
        )
    })?;
    Ok(Program {
        image: spec.image,
        pull_secrets: spec.image_pull_secrets,
    })
}

fn pod_name(flist: &Flist) -> String {
    let uid = flist.uid().unwrap_or_default();
    format!("lamina-pack-{uid}")
}

fn build(flist: &Flist, claim: &PvcFrom, stores: &[String], program: &Program) -> Value {
    let mut args = vec![
        "pack".to_owned(),
        format!("/source/{}", claim.path),
        "--out=/tmp/packed.fl".to_owned(),
        "--publish".to_owned(),
    ];
    args.extend(stores.iter().map(|url| format!("--store={url}")));
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
            // By the names they have in Lamina's namespace. Secrets are not copied: whose this namespace is may make
            // them here, and kubelet does without those that are not there.
            "imagePullSecrets": program.pull_secrets,
            "containers": [{
                "name": "pack",
                "image": program.image,
                // Every node has it: its server runs from it.
                "imagePullPolicy": "IfNotPresent",
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
                "volumeMounts": [
                    { "name": "source", "mountPath": "/source", "readOnly": true },
                    { "name": "tmp", "mountPath": "/tmp" },
                ],
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
    use crate::cluster::testing::FakeApi;

    #[test]
    fn a_failed_pod_says_how_long_ago() {
        let at = Timestamp::from_second(Timestamp::now().as_second() - 100).unwrap();
        let status = |state: Value| -> PodStatus {
            let container = json!({ "name": "pack", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state });
            serde_json::from_value(json!({ "containerStatuses": [container] })).unwrap()
        };
        let ended =
            status(json!({ "terminated": { "exitCode": 1, "finishedAt": at.to_string() } }));
        assert!((100..160).contains(&ended_seconds_ago(&ended).unwrap()));
        assert_eq!(ended_seconds_ago(&status(json!({ "waiting": {} }))), None);
    }

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

    fn flist() -> Flist {
        let spec = serde_json::from_value(json!({ "source": {} })).unwrap();
        let mut flist = Flist::new("data", spec);
        flist.metadata.namespace = Some("team".into());
        flist.metadata.uid = Some("u1".into());
        flist
    }

    fn claim() -> PvcFrom {
        PvcFrom {
            claim_name: "data".into(),
            path: "models".into(),
        }
    }

    fn program(secrets: &[&str]) -> Program {
        let named = |name: &&str| LocalName {
            name: (*name).to_owned(),
        };
        Program {
            image: "lamina:1".to_owned(),
            pull_secrets: secrets.iter().map(named).collect(),
        }
    }

    #[test]
    fn the_pod_runs_the_image_that_its_node_has() {
        let pod = build(
            &flist(),
            &claim(),
            &["oci://r/p".into()],
            &program(&["pull"]),
        );
        // Whatever its tag: kubelet's own choice for `latest` is to ask the registry, which may be private.
        assert_eq!(
            pod["spec"]["containers"][0]["imagePullPolicy"],
            "IfNotPresent"
        );
        assert_eq!(pod["spec"]["imagePullSecrets"], json!([{ "name": "pull" }]));
        let waiting = json!({ "phase": "Pending", "containerStatuses": [
            { "name": "pack", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": "ErrImagePull", "message": "401" } } }] });
        let status = serde_json::from_value::<PodStatus>(waiting).unwrap();
        let said = progress(&status);
        assert!(
            said.starts_with("is pending: 401; ") && said.contains("pull secrets"),
            "{said}"
        );
    }

    #[test]
    fn the_pod_reads_the_claim_and_has_no_token() {
        let pod = build(
            &flist(),
            &claim(),
            &["oci://r/p".into()],
            &program(&["pull"]),
        );
        let _: Pod = serde_json::from_value(pod.clone()).unwrap();
        assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["args"][1], "/source/models");
        let mount = &container["volumeMounts"][0];
        // With a subPath kubelet makes a directory that is not there, in the claim.
        assert_eq!(
            (mount["readOnly"].as_bool(), mount.get("subPath")),
            (Some(true), None)
        );
    }

    #[tokio::test]
    async fn a_claim_that_is_not_there_is_named_and_no_pod_waits_for_it() {
        let api = FakeApi::default();
        let stores = ["oci://r/p".to_owned()];
        let fault = packed(&flist(), &api.ctx(), &claim(), &stores)
            .await
            .unwrap_err();
        assert_eq!(fault.reason, "NoSuchClaim");
        assert!(fault.message.contains("data in namespace team"), "{fault}");
        assert_eq!(api.writes(), Vec::<String>::new());
    }

    const POD: &str = "/api/v1/namespaces/team/pods/lamina-pack-u1";

    /// The pod of this phase that is there, of the Flist of `owner`.
    fn pod(owner: &str, phase: &str) -> Value {
        json!({
            "metadata": {
                "name": "lamina-pack-u1",
                "ownerReferences": [{ "apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "name": "data", "uid": owner }],
            },
            "spec": { "containers": [] },
            "status": { "phase": phase },
        })
    }

    async fn look(api: &FakeApi) -> Result<String, Fault> {
        packed(&flist(), &api.ctx(), &claim(), &["oci://r/p".to_owned()]).await
    }

    #[tokio::test]
    async fn a_pod_of_somebody_else_is_neither_believed_nor_deleted() {
        let api = FakeApi::default();
        api.answer(POD, pod("u2", "Succeeded"));
        api.answer(
            &format!("{POD}/log"),
            json!(format!("x {}", "ab".repeat(32))),
        );
        let fault = look(&api).await.unwrap_err();
        assert!(fault.message.contains("not of this Flist"), "{fault}");
        assert_eq!(api.writes(), Vec::<String>::new());
    }

    // It stayed, was looked at again and again, and the Flist never came to be.
    #[tokio::test]
    async fn a_pod_that_named_no_digest_makes_way_for_the_next() {
        let api = FakeApi::default();
        api.answer(POD, pod("u1", "Succeeded"));
        api.answer(&format!("{POD}/log"), json!("nothing"));
        let fault = look(&api).await.unwrap_err();
        assert!(fault.message.contains("without naming a digest"), "{fault}");
        assert!(!fault.is_work(), "with a growing pause");
        assert_eq!(api.writes(), [format!("DELETE {POD}")]);
        assert_eq!(log(None).limit_bytes, Some(65536));
    }

    #[test]
    fn a_pod_that_waits_says_for_what() {
        let status = |value: Value| serde_json::from_value::<PodStatus>(value).unwrap();
        let unplaced = status(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "unbound claim" }] }));
        assert_eq!(progress(&unplaced), "is pending: unbound claim");
        let pulling = status(json!({ "phase": "Pending", "containerStatuses": [
            { "name": "pack", "image": "", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": "ImagePullBackOff", "message": "no such image" } } }] }));
        assert_eq!(
            progress(&pulling),
            format!("is pending: no such image; {PULL_HINT}")
        );
        assert_eq!(
            progress(&status(json!({ "phase": "Running" }))),
            "is running"
        );
        let evicted = status(json!({ "phase": "Failed", "message": "the node was low on disk" }));
        assert_eq!(failure(" \n", &evicted), "the node was low on disk");
        assert_eq!(failure("error: no\n", &evicted), "error: no");
    }
}
