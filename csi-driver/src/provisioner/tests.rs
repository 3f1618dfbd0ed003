//! The provisioner before a cluster of a few objects.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    convert::Infallible,
};

use kube::client::Body;
use serde_json::{Value, json};
use tonic::codegen::http::{Method, Request, Response};

use super::*;
use crate::{identity::DRIVER, ledger::Ledger};

type Objects = Arc<Mutex<BTreeMap<String, Value>>>;

const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const VOLUMES: &str = "/api/v1/persistentvolumes";

/// An API server that knows objects by path.
async fn api(objects: Objects, request: Request<Body>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let body = request
        .into_body()
        .collect_bytes()
        .await
        .unwrap_or_default();
    let mut objects = objects.lock().unwrap();
    let fault = |code: u16, reason: &str| {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code, "reason": reason, "message": reason,
        });
        (code, status)
    };
    let (code, answer) = match method {
        Method::GET => objects
            .get(&path)
            .map_or_else(|| fault(404, "NotFound"), |o| (200, o.clone())),
        Method::POST => {
            let object: Value = serde_json::from_slice(&body).unwrap();
            let at = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
            match objects.entry(at) {
                Entry::Occupied(_) => fault(409, "AlreadyExists"),
                Entry::Vacant(free) => (201, free.insert(object).clone()),
            }
        }
        Method::DELETE => objects
            .remove(&path)
            .map_or_else(|| fault(404, "NotFound"), |o| (200, o)),
        _ => fault(405, "MethodNotAllowed"),
    };
    let body = Body::from(answer.to_string().into_bytes());
    Ok(Response::builder().status(code).body(body).unwrap())
}

fn work(objects: &Objects) -> Arc<Work> {
    let objects = objects.clone();
    let service = tower::service_fn(move |request| api(objects.clone(), request));
    Arc::new(Work {
        client: Client::new(service, "default"),
        controller: Controller::new(Ledger::new(None)),
        events: Events::none(),
        failures: Mutex::default(),
    })
}

fn claim() -> Arc<PersistentVolumeClaim> {
    let claim = json!({
        "metadata": {
            "name": "data", "namespace": "ns", "uid": "0001", "resourceVersion": "3",
            "annotations": {"volume.kubernetes.io/storage-provisioner": DRIVER},
        },
        "spec": {"storageClassName": "lamina", "accessModes": ["ReadOnlyMany"]},
    });
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "lamina"}, "provisioner": DRIVER,
        "parameters": {"lamina.dev/image": "python:3.13"},
    })
}

#[tokio::test]
async fn a_claim_gets_its_volume_once_and_a_released_volume_goes() {
    let objects = Objects::default();
    objects
        .lock()
        .unwrap()
        .insert(format!("{CLASSES}/lamina"), class());
    let (work, at) = (work(&objects), format!("{VOLUMES}/pvc-0001"));
    for _ in 0..3 {
        Work::claim(claim(), work.clone()).await.unwrap();
    }
    let made = objects.lock().unwrap()[&at].clone();
    assert_eq!(
        made["spec"]["csi"]["volumeAttributes"],
        json!({"lamina.dev/image": "python:3.13"})
    );
    assert_eq!(made["spec"]["claimRef"]["uid"], "0001");

    let bound: PersistentVolume = serde_json::from_value(made.clone()).unwrap();
    Work::released(Arc::new(bound), work.clone()).await.unwrap();
    assert!(objects.lock().unwrap().contains_key(&at));
    let mut released = made;
    released["status"] = json!({"phase": "Released"});
    let released = Arc::new(serde_json::from_value(released).unwrap());
    for _ in 0..2 {
        Work::released(Arc::clone(&released), work.clone())
            .await
            .unwrap();
    }
    assert!(!objects.lock().unwrap().contains_key(&at));
}

#[tokio::test]
async fn a_copy_waits_for_its_origin_and_shows_the_same() {
    let objects = Objects::default();
    let put = |at: &str, object: Value| objects.lock().unwrap().insert(at.to_owned(), object);
    put(&format!("{CLASSES}/lamina"), class());
    let mut copy = serde_json::to_value(&*claim()).unwrap();
    copy["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "first"});
    let copy = Arc::new(serde_json::from_value(copy).unwrap());
    let work = work(&objects);
    assert!(Work::claim(Arc::clone(&copy), work.clone()).await.is_err());
    let first = "/api/v1/namespaces/ns/persistentvolumeclaims/first";
    put(
        first,
        json!({"metadata": {"name": "first", "uid": "1"}, "spec": {"volumeName": "pv"}}),
    );
    let shown = json!({"driver": DRIVER, "volumeHandle": "v", "volumeAttributes": {"lamina.dev/flist": "models"}});
    // A claim can name the volume of anybody: that of another one, or of an earlier one of its name, is not its.
    for bound in [
        json!({}),
        json!({"uid": "2"}),
        json!({"namespace": "ns", "name": "first", "uid": "0"}),
    ] {
        put(
            &format!("{VOLUMES}/pv"),
            json!({"metadata": {"name": "pv"}, "spec": {"csi": shown, "claimRef": bound}}),
        );
        let waits = Work::claim(Arc::clone(&copy), work.clone()).await;
        assert!(waits.unwrap_err().to_string().contains("has no volume yet"));
    }
    put(
        &format!("{VOLUMES}/pv"),
        json!({"metadata": {"name": "pv"}, "spec": {"csi": shown, "claimRef": {"uid": "1"}}}),
    );
    Work::claim(copy, work).await.unwrap();
    let made = objects.lock().unwrap()[&format!("{VOLUMES}/pvc-0001")].clone();
    assert_eq!(
        made["spec"]["csi"]["volumeAttributes"],
        json!({"lamina.dev/flist": "models"})
    );
}

#[tokio::test]
async fn a_volume_written_meanwhile_is_left_alone() {
    let objects = Objects::default();
    let work = work(&objects);
    let (claim, class) = (claim(), serde_json::from_value(class()).unwrap());
    let Action::Provision(plan) = decide::decide(&claim, Some(&class), None, None) else {
        panic!("not provisioned");
    };
    let there = json!({"metadata": {"name": "pvc-0001"}});
    objects
        .lock()
        .unwrap()
        .insert(format!("{VOLUMES}/pvc-0001"), there.clone());
    let volumes = Api::all(work.client.clone());
    work.make(&claim, &class, &plan, &volumes).await.unwrap();
    assert_eq!(
        objects.lock().unwrap()[&format!("{VOLUMES}/pvc-0001")],
        there
    );
}

// One request without an answer kept a claim from ever being looked at again.
#[tokio::test]
async fn a_cluster_that_does_not_answer_is_tried_again() {
    let late = in_time(
        Duration::ZERO,
        std::future::pending::<Result<Next, Failure>>(),
    )
    .await;
    assert!(matches!(late, Err(Failure::Late)));
}

#[tokio::test]
async fn failures_are_waited_for_longer_each_time() {
    let work = work(&Objects::default());
    let failure = Failure::Create("no".into());
    let waits: Vec<_> = (0..12).map(|_| work.again(&*claim(), &failure)).collect();
    assert_eq!(waits[0], Next::requeue(RETRY));
    assert_eq!(waits[1], Next::requeue(RETRY * 2));
    assert_eq!(waits[11], Next::requeue(RETRY_MAX));
    work.done(&*claim());
    assert_eq!(work.again(&*claim(), &failure), Next::requeue(RETRY));
}
