use super::*;
use crate::kube::node::{Answer, Server};
use lamina_proto::lamina::v1::GetInfoResponse;
use serde_json::json;

fn ours() -> Vec<Value> {
    lamina_crds::crds()
        .into_iter()
        .map(|(_, crd)| crd)
        .collect()
}

fn verdicts(checks: &[Check]) -> Vec<Verdict> {
    checks.iter().map(|check| check.verdict).collect()
}

#[test]
fn definitions_that_lack_a_field_or_are_missing_are_found() {
    assert_eq!(verdicts(&definitions(&ours(), &ours())), [Verdict::Ok]);
    let mut theirs = ours();
    theirs.remove(0);
    let schema = &mut theirs[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let spec = schema["properties"]["spec"]["properties"]
        .as_object_mut()
        .unwrap();
    spec.remove("warm");
    let found = definitions(&ours(), &theirs);
    assert_eq!(verdicts(&found), [Verdict::Fail, Verdict::Warn]);
    assert!(
        found[1].says.ends_with("it lacks .spec.warm"),
        "{}",
        found[1].says
    );
}

#[test]
fn a_node_whose_kubelet_does_not_know_the_driver_is_named() {
    let known: CSINode = serde_json::from_value(json!({
        "metadata": { "name": "a" },
        "spec": { "drivers": [{ "name": DRIVER, "nodeID": "a" }] },
    }))
    .unwrap();
    let nodes = ["a".to_owned(), "b".to_owned()];
    assert_eq!(
        verdicts(&registrations(&nodes[..1], std::slice::from_ref(&known))),
        [Verdict::Ok]
    );
    let found = registrations(&nodes, &[known]);
    assert_eq!(verdicts(&found), [Verdict::Fail]);
    assert!(found[0].says.contains("node b"));
}

#[test]
fn nodes_are_judged_by_their_answers() {
    let asked = |answer| Asked {
        server: Server {
            node: "a".to_owned(),
            pod: "lamina-node-a".to_owned(),
            ready: true,
        },
        answer,
    };
    let info = |mode: &str, warnings: &[&str]| {
        let info = GetInfoResponse {
            mount_mode: mode.to_owned(),
            warnings: warnings.iter().map(|text| (*text).to_owned()).collect(),
            ..GetInfoResponse::default()
        };
        let volumes = Vec::new();
        asked(Ok(Answer { info, volumes }))
    };
    let all = [
        info("erofs", &[]),
        info("fuse", &["no EROFS"]),
        asked(Err(Fault::unavailable("gone"))),
        asked(Err(Fault::new(Kind::Denied, "you may not"))),
    ];
    assert_eq!(
        verdicts(&nodes(&all)),
        [
            Verdict::Ok,
            Verdict::Warn,
            Verdict::Warn,
            Verdict::Fail,
            Verdict::Unknown
        ]
    );
}

#[test]
fn every_finding_that_is_not_well_has_a_fix() {
    let late = Workload {
        name: "lamina-csi".into(),
        kind: "DaemonSet",
        ready: 1,
        desired: 2,
        updated: 2,
        version: "1".into(),
    };
    let object = Object {
        name: "Image shop/web".into(),
        conditions: Vec::new(),
    };
    let named = Named {
        namespace: "shop".into(),
        secret: "pull".into(),
        by: "Image shop/web".into(),
    };
    let mut found = workloads(&[late]);
    found.extend(objects("images", &[object]));
    found.extend(secrets(&[(named, Ok(false))]));
    found.push(driver(false));
    assert_eq!(found.len(), 4);
    assert!(
        found
            .iter()
            .all(|check| check.verdict != Verdict::Ok && check.fix.is_some())
    );
    assert_eq!(
        found[1].fix.as_deref(),
        Some("kubectl describe images.lamina.dev -n shop web")
    );
}

#[test]
fn an_object_that_is_being_deleted_is_no_failure() {
    let object = |reason: &str| -> Object {
        let ready = json!([{ "type": "Ready", "status": "False", "reason": reason, "message": "why",
            "lastTransitionTime": "2026-01-02T03:00:00Z" }]);
        Object {
            name: "Image shop/web".into(),
            conditions: serde_json::from_value(ready).unwrap(),
        }
    };
    assert_eq!(
        verdicts(&objects(
            "images",
            &[object("Deleting"), object("NotFound")]
        )),
        [Verdict::Warn, Verdict::Fail]
    );
}

#[test]
fn old_foreign_and_repeated_warnings_are_left_out() {
    let event = |on: &str, at: &str, kind: &str| -> Event {
        serde_json::from_value(json!({
            "metadata": {}, "type": kind, "reason": "MountLaminaFailed", "message": "no such image",
            "involvedObject": { "kind": "Pod", "namespace": on, "name": "web" },
            "reportingComponent": if on == "foreign" { "kubelet" } else { DRIVER },
            "eventTime": at,
        }))
        .unwrap()
    };
    let all = [
        event("shop", "2026-01-02T03:00:00.000000Z", "Warning"),
        event("shop", "2026-01-02T03:01:00.000000Z", "Warning"),
        event("old", "2026-01-02T01:00:00.000000Z", "Warning"),
        event("foreign", "2026-01-02T03:00:00.000000Z", "Warning"),
        event("fine", "2026-01-02T03:00:00.000000Z", "Normal"),
    ];
    let now: Timestamp = "2026-01-02T03:10:00Z".parse().unwrap();
    let found = events(&all, "lamina-system", now);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].says,
        "Pod shop/web: MountLaminaFailed: no such image"
    );
    assert_eq!(
        found[0].fix.as_deref(),
        Some("kubectl lamina explain web -n shop")
    );
    assert_eq!(verdicts(&events(&[], "lamina-system", now)), [Verdict::Ok]);
}
