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
    served_by(&api, fakes);
    api.answer("/api/v1/nodes", json!({ "metadata": {}, "items": [] }));
    for kind in ["images", "flists"] {
        let none = json!({ "metadata": {}, "items": [] });
        api.answer(&format!("/apis/lamina.dev/v1alpha1/{kind}"), none);
    }
    api
}

/// The nodes there are from now on.
fn served_by(api: &FakeApi, fakes: &[&FakeNode]) {
    let pods: Vec<_> = fakes.iter().map(|fake| api.pod(&fake.place)).collect();
    api.answer(
        "/api/v1/namespaces/lamina-system/pods",
        json!({ "metadata": {}, "items": pods }),
    );
}

fn written(api: &FakeApi) -> ImageStatus {
    let body = api.last_write("/apis/lamina.dev/v1alpha1/namespaces/team/images/python/status");
    serde_json::from_value(body["status"].clone()).unwrap()
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
    assert_eq!(status.nodes_summary.as_deref(), Some("2/2"));
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
    let keeps = asked.iter().any(|request| request.keep_layers_s > 0);
    assert!(
        !keeps,
        "a profile's worth of data is no replica of the layers"
    );
}

// What was converted was lost when it took too long to bring it to nodes, and converted again.
#[tokio::test]
async fn what_was_converted_is_written_down_before_it_is_brought_to_nodes() {
    let fake = FakeNode::start("a").await;
    fake.state().digest = "f1".into();
    let api = api(&[&fake]);
    let mut image = image(json!({ "replicas": "All", "resolve": "30s" }));
    step(&image, &api.ctx()).await.unwrap();
    let all: Vec<ImageStatus> = api
        .bodies(&format!("{OBJECT}/status"))
        .into_iter()
        .map(|mut body| serde_json::from_value(body["status"].take()).unwrap())
        .collect();
    let said = |status: &ImageStatus| {
        let holds = |kind| holds(&status.conditions, kind);
        (status.flist.clone(), holds("Ready"), holds("Replicated"))
    };
    let said: Vec<_> = all.iter().map(said).collect();
    let f1 = || Some("f1".to_owned());
    assert_eq!(said, [(f1(), true, false), (f1(), true, true)]);
    // What a tag still names is no news.
    let mut before = all[1].clone();
    before.resolved_at = None;
    image.status = Some(before);
    step(&image, &api.ctx()).await.unwrap();
    assert_eq!(api.bodies(&format!("{OBJECT}/status")).len(), 3);
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
        let said = written(&api);
        let ready = find(&said.conditions, "Ready").unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "Deleting"));
        assert!(fake.state().forgotten.is_empty(), "first it is said");
        gone.status = Some(said);
        step(&gone, &api.ctx()).await.unwrap();
        assert_eq!(fake.state().forgotten.len(), usize::from(!shared));
        let write = api.last_write("/apis/lamina.dev/v1alpha1/namespaces/team/images/python");
        assert_eq!(write["metadata"]["finalizers"], json!([]));
    }
}

/// An image that was deleted so long ago, of which its status says so, with what it was before and is.
fn deleted(seconds: i64, flists: &[&str], stores: &[&str]) -> Image {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    let mut image = image(json!({ "stores": stores }));
    let at = Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap();
    image.metadata.deletion_timestamp = Some(Time(at));
    let (last, before) = flists.split_last().unwrap();
    let mut status = ImageStatus {
        flist: Some((*last).to_owned()),
        retired: before.iter().map(|one| (*one).to_owned()).collect(),
        ..ImageStatus::default()
    };
    deletion::announce(&image, &mut status.conditions);
    image.status = Some(status);
    image
}

const PODS: &str = "/api/v1/namespaces/lamina-system/pods";
const OBJECT: &str = "/apis/lamina.dev/v1alpha1/namespaces/team/images/python";

/// Node `b` of two, whose server cannot be asked: what of it there is.
fn silent(api: &FakeApi, a: &FakeNode, b: &FakeNode) -> Vec<serde_json::Value> {
    let mut restarting = api.pod(&b.place);
    restarting["status"]["conditions"][0]["status"] = json!("False");
    let mut ending = api.pod(&b.place);
    ending["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let list = |pods: &[&serde_json::Value]| json!({ "metadata": {}, "items": pods });
    let a = api.pod(&a.place);
    vec![list(&[&a, &restarting]), list(&[&a, &ending]), list(&[&a])]
}

// Data went from shared stores while a node whose server restarted, or was replaced, still showed it.
#[tokio::test]
async fn shared_stores_lose_nothing_while_a_node_cannot_be_asked() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    let api = api(&[&a, &b]);
    api.answer(
        "/apis/lamina.dev/v1alpha1/stores/shared",
        json!({ "metadata": { "name": "shared" }, "spec": { "url": "s3://bucket" } }),
    );
    api.answer(
        "/apis/apps/v1/namespaces/lamina-system/daemonsets/lamina-node",
        json!({
            "metadata": { "name": "lamina-node" },
            "spec": { "selector": {}, "template": {} },
            "status": {
                "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 1,
            },
        }),
    );
    for pods in silent(&api, &a, &b) {
        api.answer(PODS, pods);
        let fault = step(&deleted(5, &["f1"], &["shared"]), &api.ctx()).await;
        assert_eq!(fault.unwrap_err().reason, "NodeUnreachable");
        assert!(a.state().forgotten.is_empty());
        // After a minute the object goes, and what the other node may show stays.
        let before = api.writes().len();
        step(&deleted(61, &["f1"], &["shared"]), &api.ctx())
            .await
            .unwrap();
        let written = api.writes().split_off(before);
        assert!(written.contains(&format!("PATCH {OBJECT}")), "{written:?}");
        let event = api.last_write("/apis/events.k8s.io/v1/namespaces/team/events");
        assert_eq!(event["reason"], "CleanupIncomplete");
        let forgotten = std::mem::take(&mut a.state().forgotten);
        assert_eq!(forgotten.len(), 1, "it is not shown here");
        assert!(!forgotten[0].delete_stored);
    }
    served_by(&api, &[&a, &b]);
    step(&deleted(5, &["f1"], &["shared"]), &api.ctx())
        .await
        .unwrap();
    let stored = [&a, &b].map(|fake| {
        let state = fake.state();
        let of_store = state.forgotten.iter().filter(|one| one.delete_stored);
        of_store.count()
    });
    assert_eq!(stored.iter().sum::<usize>(), 1, "{stored:?}");
}

// Each of many flists may wait for a node: together longer than one look at the object may take, which went on for ever.
#[tokio::test]
async fn a_deletion_whose_time_is_over_stops_at_the_first_that_cannot_be_cleaned_up() {
    let fake = FakeNode::start("a").await;
    fake.state().refuses = Some(tonic::Code::Internal);
    let api = api(&[&fake]);
    step(&deleted(61, &["f0", "f1", "f2"], &[]), &api.ctx())
        .await
        .unwrap();
    assert_eq!(fake.state().forgotten.len(), 1);
    let event = api.last_write("/apis/events.k8s.io/v1/namespaces/team/events");
    let note = event["note"].as_str().unwrap();
    assert!(note.contains("flist f0 and 2 more"), "{note}");
    assert_eq!(api.last_write(OBJECT)["metadata"]["finalizers"], json!([]));
}

#[tokio::test]
async fn when_a_node_goes_another_one_is_warmed_at_once() {
    let all = [
        FakeNode::start("a").await,
        FakeNode::start("b").await,
        FakeNode::start("c").await,
    ];
    let all: Vec<&FakeNode> = all.iter().collect();
    for fake in &all {
        fake.state().digest = "f1".into();
    }
    let api = api(&all);
    let (ctx, mut image) = (api.ctx(), image(json!({ "replicas": 2 })));
    step(&image, &ctx).await.unwrap();
    let first = written(&api);
    assert_eq!((first.nodes.len(), first.nodes_wanted), (2, 2));
    let (lost, kept) = (first.nodes[0].clone(), first.nodes[1].clone());
    let left: Vec<&FakeNode> = all
        .iter()
        .copied()
        .filter(|fake| fake.place.name != lost)
        .collect();
    let new = left.iter().find(|fake| fake.place.name != kept).unwrap();
    new.state().ensured.clear();
    served_by(&api, &left);
    image.status = Some(first);
    step(&image, &ctx).await.unwrap();
    let second = written(&api);
    assert!(
        second.nodes.contains(&kept),
        "{:?} after {lost} of {kept} went",
        second.nodes
    );
    assert!(second.nodes.contains(&new.place.name), "{:?}", second.nodes);
    let asked = new.state().ensured.clone();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].keep_layers_s, 900,
        "it keeps the layers for others"
    );
    // It comes back: the data is where it was, and nothing else is moved.
    served_by(&api, &all);
    image.status = Some(second);
    step(&image, &ctx).await.unwrap();
    let mut back = written(&api).nodes;
    back.sort();
    let mut before = vec![lost, kept];
    before.sort();
    assert_eq!(back, before);
}

/// An image whose tag has moved from `f1` to `f2`, with `resolve` due.
fn moved() -> Image {
    let mut image = image(json!({ "replicas": "All", "resolve": "30s" }));
    image.status = Some(ImageStatus {
        flist: Some("f1".into()),
        observed_generation: Some(1),
        ..ImageStatus::default()
    });
    image
}

#[tokio::test]
async fn what_a_tag_named_before_goes_when_nothing_shows_it() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    for fake in [&a, &b] {
        fake.state().digest = "f2".into();
    }
    let api = api(&[&a, &b]);
    // While a volume of `a` shows it, only `b` lets go.
    a.state().shows = Some("f1".into());
    let (ctx, mut image) = (api.ctx(), moved());
    step(&image, &ctx).await.unwrap();
    let status = written(&api);
    assert_eq!(
        (status.flist.as_deref(), &*status.retired),
        (Some("f2"), &["f1".to_owned()][..])
    );
    let forgotten = |fake: &FakeNode| -> Vec<(String, bool)> {
        let state = fake.state();
        let all = state.forgotten.iter();
        all.map(|one| (one.digest.clone(), one.delete_stored))
            .collect()
    };
    assert_eq!(forgotten(&b), [("f1".to_owned(), true)]);
    assert_eq!(forgotten(&a), []);
    // The volume ended.
    a.state().shows = None;
    image.status = Some(status);
    step(&image, &ctx).await.unwrap();
    assert_eq!(forgotten(&a), [("f1".to_owned(), true)]);
    assert_eq!(written(&api).retired, [""; 0]);
}

#[tokio::test]
async fn what_a_tag_named_before_stays_while_another_image_is_it_or_a_node_is_silent() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    for fake in [&a, &b] {
        fake.state().digest = "f2".into();
    }
    let api = api(&[&a, &b]);
    let mut other = moved();
    other.metadata.uid = Some("u2".into());
    let others = json!({ "metadata": {}, "items": [other] });
    api.answer("/apis/lamina.dev/v1alpha1/images", others);
    step(&moved(), &api.ctx()).await.unwrap();
    assert!(a.state().forgotten.is_empty(), "another image is it");
    api.answer(
        "/apis/lamina.dev/v1alpha1/images",
        json!({ "metadata": {}, "items": [] }),
    );
    let mut silent = api.pod(&b.place);
    silent["status"]["conditions"][0]["status"] = json!("False");
    let pods = json!({ "metadata": {}, "items": [api.pod(&a.place), silent] });
    api.answer("/api/v1/namespaces/lamina-system/pods", pods);
    step(&moved(), &api.ctx()).await.unwrap();
    assert!(a.state().forgotten.is_empty(), "b may show it");
    assert_eq!(written(&api).retired, ["f1"]);
}

#[test]
fn a_tag_that_goes_back_and_forth_retires_no_flist_in_use() {
    let mut status = ImageStatus::default();
    let now = Timestamp::now();
    let mut named = |digest: &str| {
        let info = lamina_proto::lamina::v1::FlistInfo {
            digest: digest.into(),
            ..Default::default()
        };
        build::converted(&mut status, &info, now);
        status.retired.clone()
    };
    assert_eq!(named("f1"), [""; 0]);
    assert_eq!(named("f1"), [""; 0]);
    assert_eq!(named("f2"), ["f1"]);
    assert_eq!(named("f1"), ["f2"]);
    for n in 0..100 {
        assert!(named(&format!("g{n}")).len() <= 32);
    }
}
