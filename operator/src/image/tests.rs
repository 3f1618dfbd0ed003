//! `Image`: decisions alone, and whole steps against a fake API server and fake nodes.

use lamina_crds::ImageSpec;
use lamina_crds::conditions::{find, holds};
use lamina_proto::lamina::v1::source::From;
use serde_json::json;

use super::*;
use crate::cluster::testing::FakeApi;
use crate::nodes::fake::FakeNode;

#[expect(clippy::needless_pass_by_value, reason = "reads well with json!")]
fn image(extra: serde_json::Value) -> Image {
    let mut spec = json!({ "reference": "python:3.13" });
    spec.as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    let spec: ImageSpec = serde_json::from_value(spec).unwrap();
    let mut image = Image::new("python", spec);
    image.metadata.namespace = Some("team".into());
    image.metadata.generation = Some(1);
    image.metadata.uid = Some("u1".into());
    image.metadata.finalizers = Some(vec![lamina_crds::FINALIZER.into()]);
    image
}

fn api(fakes: &[&FakeNode]) -> FakeApi {
    let api = FakeApi::default();
    let pods: Vec<_> = fakes.iter().map(|fake| api.pod(&fake.place)).collect();
    api.answer(
        "/api/v1/namespaces/lamina-system/pods",
        json!({ "metadata": {}, "items": pods }),
    );
    api.answer("/api/v1/nodes", json!({ "metadata": {}, "items": [] }));
    api
}

fn written(api: &FakeApi) -> ImageStatus {
    let body = api.last_write("/apis/lamina.dev/v1alpha1/namespaces/team/images/python/status");
    serde_json::from_value(body["status"].clone()).unwrap()
}

#[test]
fn a_reference_is_pinned_whatever_its_form() {
    for (reference, expected) in [
        ("python", "python@sha256:aa"),
        ("python:3.13", "python@sha256:aa"),
        ("host:5000/a/b", "host:5000/a/b@sha256:aa"),
        ("host:5000/a/b:tag", "host:5000/a/b@sha256:aa"),
        ("a/b:tag@sha256:bb", "a/b@sha256:aa"),
    ] {
        assert_eq!(build::pinned(reference, "sha256:aa"), expected);
    }
}

#[test]
fn a_tag_is_resolved_again_only_when_asked() {
    let now = Timestamp::now();
    let mut status = ImageStatus::default();
    assert!(build::is_due(&image(json!({})), &status, now));
    build::converted(
        &mut status,
        &lamina_proto::lamina::v1::FlistInfo::default(),
        now,
    );
    status.observed_generation = Some(1);
    let later = now.checked_add(Duration::from_secs(3700)).unwrap();
    assert!(!build::is_due(&image(json!({})), &status, later));
    assert!(build::is_due(
        &image(json!({ "resolve": "1h" })),
        &status,
        later
    ));
    assert!(!build::is_due(
        &image(json!({ "resolve": "2h" })),
        &status,
        later
    ));
    status.observed_generation = Some(0);
    assert!(build::is_due(&image(json!({})), &status, now));
}

#[tokio::test]
async fn an_image_is_converted_once_and_kept_on_the_nodes_asked_for() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    for fake in [&a, &b] {
        fake.state().digest = "f1".into();
    }
    let api = api(&[&a, &b]);
    let ctx = api.ctx();
    step(
        &image(json!({ "replicas": "All", "warm": "Profile" })),
        &ctx,
    )
    .await
    .unwrap();
    let status = written(&api);
    assert!(holds(&status.conditions, "Ready"), "{status:?}");
    assert!(holds(&status.conditions, "Replicated"));
    assert_eq!((status.nodes_warm, status.nodes_wanted), (2, 2));
    assert_eq!(status.flist.as_deref(), Some("f1"));
    assert_eq!(status.dedup_ratio.as_deref(), Some("3.00"));
    let asked: Vec<_> = [&a, &b]
        .iter()
        .flat_map(|fake| fake.state().ensured.clone())
        .collect();
    let converted = asked
        .iter()
        .filter(|request| matches!(request.source.as_ref().unwrap().from, Some(From::Image(_))));
    assert_eq!(converted.count(), 1);
    assert_eq!(asked.len(), 3);
}

#[tokio::test]
async fn a_refusal_becomes_conditions_and_an_event() {
    let fake = FakeNode::start("a").await;
    fake.state().refuses = Some(tonic::Code::PermissionDenied);
    let api = api(&[&fake]);
    let fault = step(&image(json!({})), &api.ctx()).await.unwrap_err();
    assert_eq!(fault.reason, "AccessDenied");
    let status = written(&api);
    assert_eq!(
        find(&status.conditions, "Ready").unwrap().reason,
        "AccessDenied"
    );
    assert_eq!(
        find(&status.conditions, "Resolved").unwrap().status,
        "False"
    );
    assert!(api.wrote("/apis/events.k8s.io/v1/namespaces/team/events"));
}

#[tokio::test]
async fn without_nodes_the_condition_says_so() {
    let api = api(&[]);
    assert_eq!(
        step(&image(json!({})), &api.ctx())
            .await
            .unwrap_err()
            .reason,
        "NoNode"
    );
}

#[tokio::test]
async fn deletion_cleans_the_store_only_when_nobody_else_has_the_flist() {
    let fake = FakeNode::start("a").await;
    for shared in [false, true] {
        let api = api(&[&fake]);
        let mut gone = image(json!({}));
        gone.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()),
        );
        let status = ImageStatus {
            flist: Some("f1".into()),
            ..ImageStatus::default()
        };
        gone.status = Some(status);
        let mut other = gone.clone();
        other.metadata.uid = Some("u2".into());
        other.metadata.deletion_timestamp = None;
        let others = if shared { vec![other] } else { Vec::new() };
        api.answer(
            "/apis/lamina.dev/v1alpha1/images",
            json!({ "metadata": {}, "items": others }),
        );
        api.answer(
            "/apis/lamina.dev/v1alpha1/flists",
            json!({ "metadata": {}, "items": [] }),
        );
        fake.state().forgotten.clear();
        step(&gone, &api.ctx()).await.unwrap();
        assert_eq!(fake.state().forgotten.len(), usize::from(!shared));
        let write = api.last_write("/apis/lamina.dev/v1alpha1/namespaces/team/images/python");
        assert_eq!(write["metadata"]["finalizers"], json!([]));
    }
}
