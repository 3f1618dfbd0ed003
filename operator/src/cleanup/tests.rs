//! The cleanup against a fake API server and fake nodes: what it does, and in which order.

use lamina_crds::FINALIZER;
use lamina_proto::lamina::v1::{Pod, Volume};
use serde_json::{Value, json};
use tonic::Code;

use super::*;
use crate::cluster::testing::FakeApi;
use crate::nodes::fake::FakeNode;

const PODS: &str = "/api/v1/namespaces/lamina-system/pods";
const APPS: &str = "/apis/apps/v1/namespaces/lamina-system";
const SECRETS: &str = "/api/v1/namespaces/lamina-system/secrets";
const SERVICES: &str = "/api/v1/namespaces/lamina-system/services";
const BUDGETS: &str = "/apis/policy/v1/namespaces/lamina-system/poddisruptionbudgets";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/lamina-system/leases";
const LAMINA: &str = "/apis/lamina.dev/v1alpha1";
const ENOUGH: Duration = Duration::from_secs(60);

#[expect(clippy::needless_pass_by_value, reason = "reads well with vec!")]
fn list(items: Vec<Value>) -> Value {
    json!({ "metadata": {}, "items": items })
}

fn operator() -> Value {
    let labels =
        json!({ "app.kubernetes.io/name": "lamina", "app.kubernetes.io/component": "operator" });
    json!({ "metadata": { "name": "lamina-operator-x", "labels": labels } })
}

fn image() -> Value {
    json!({
        "metadata": {
            "name": "python", "namespace": "team", "resourceVersion": "7",
            "finalizers": [FINALIZER, "example.com/other"],
        },
        "spec": { "reference": "python" },
    })
}

/// An installed Lamina: its pods end when what made them does.
fn installed(fakes: &[&FakeNode], wanted: usize) -> FakeApi {
    let api = FakeApi::default();
    let nodes: Vec<Value> = fakes.iter().map(|fake| api.pod(&fake.place)).collect();
    api.answer(PODS, list([nodes.clone(), vec![operator()]].concat()));
    api.after(
        &format!("PATCH {APPS}/deployments/lamina-operator"),
        PODS,
        list(nodes),
    );
    api.after(
        &format!("DELETE {APPS}/daemonsets/lamina-node"),
        PODS,
        list(vec![]),
    );
    api.answer("/api/v1/pods", list(vec![]));
    let selector = json!({ "matchLabels": {} });
    let template = json!({ "spec": { "containers": [] } });
    let deployment = json!({
        "metadata": { "name": "d" },
        "spec": { "replicas": 2, "selector": selector, "template": template },
    });
    for name in [
        "lamina-operator",
        "lamina-controller",
        "lamina-discovery",
        "lamina-proxy",
    ] {
        api.answer(&format!("{APPS}/deployments/{name}"), deployment.clone());
    }
    let status = json!({
        "desiredNumberScheduled": wanted, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
    });
    for name in ["lamina-node", "lamina-csi", "lamina-afslet"] {
        let spec = json!({ "selector": selector, "template": template });
        let set = json!({ "metadata": { "name": name }, "spec": spec, "status": status });
        api.answer(&format!("{APPS}/daemonsets/{name}"), set);
    }
    api.answer(&format!("{LAMINA}/images"), list(vec![image()]));
    api.answer(&format!("{LAMINA}/namespaces/team/images/python"), image());
    api
}

fn removed(api: &FakeApi) -> bool {
    // Of these the operator makes others.
    let made_again = [
        format!("DELETE {PODS}/"),
        format!("DELETE {APPS}/deployments/lamina-proxy"),
        format!("DELETE {APPS}/daemonsets/lamina-afslet"),
    ];
    let stays = |write: &String| made_again.iter().any(|start| write.starts_with(start));
    api.writes()
        .iter()
        .any(|write| write.starts_with("DELETE") && !stays(write))
}

fn replicas(api: &FakeApi) -> Value {
    api.last_write(&format!("{APPS}/deployments/lamina-operator"))["spec"]["replicas"].clone()
}

#[tokio::test]
async fn everything_goes_in_an_order_in_which_nothing_comes_back() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    let api = installed(&[&a, &b], 2);
    clean(&api.ctx(), ENOUGH).await.unwrap();
    assert_eq!((a.state().left, b.state().left), (1, 1));
    assert_eq!(replicas(&api), json!(0));
    let expected = [
        format!("PATCH {APPS}/deployments/lamina-operator"),
        format!("DELETE {APPS}/deployments/lamina-proxy"),
        format!("DELETE {APPS}/daemonsets/lamina-afslet"),
        format!("DELETE {LAMINA}/laminaclusters/default"),
        format!("DELETE {SERVICES}/lamina-proxy"),
        format!("DELETE {BUDGETS}/lamina-proxy"),
        format!("DELETE {SERVICES}/lamina-afslet"),
        format!("DELETE {APPS}/daemonsets/lamina-csi"),
        format!("DELETE {APPS}/daemonsets/lamina-node"),
        format!("DELETE {APPS}/deployments/lamina-controller"),
        format!("DELETE {APPS}/deployments/lamina-discovery"),
        format!("DELETE {SERVICES}/lamina-discovery"),
        format!("DELETE {BUDGETS}/lamina-discovery"),
        format!("PATCH {LAMINA}/namespaces/team/images/python"),
        format!("DELETE {SECRETS}/lamina-afslet-tls"),
        format!("DELETE {SECRETS}/lamina-proxy-tls"),
        format!("DELETE {SECRETS}/lamina-user-tls"),
        format!("DELETE {SECRETS}/lamina-operator-tls"),
        format!("DELETE {SECRETS}/lamina-discovery-tls"),
        format!("DELETE {SECRETS}/lamina-client-tls"),
        format!("DELETE {SECRETS}/lamina-authority"),
        format!("DELETE {SECRETS}/lamina-ca"),
        format!("DELETE {SECRETS}/lamina-stores"),
        format!("DELETE {LEASES}/lamina-operator"),
        format!("DELETE {LEASES}/lamina-provisioner"),
    ];
    assert_eq!(api.writes(), expected);
    let let_go = api.last_write(&format!("{LAMINA}/namespaces/team/images/python"));
    let expected = json!({ "finalizers": ["example.com/other"], "resourceVersion": "7" });
    assert_eq!(let_go["metadata"], expected);
}

#[tokio::test]
async fn while_one_node_cannot_be_left_nothing_is_removed_and_the_operator_goes_on() {
    for code in [
        Code::FailedPrecondition,
        Code::Unimplemented,
        Code::Unavailable,
        Code::Internal,
    ] {
        let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
        b.state().refuses = Some(code);
        let api = installed(&[&a, &b], 2);
        let error = format!("{:#}", clean(&api.ctx(), ENOUGH).await.unwrap_err());
        assert!(error.contains("1 of 2 nodes could not be left"), "{error}");
        assert!(error.contains("node b "), "{error}");
        assert!(!removed(&api), "{:?}", api.writes());
        assert_eq!(replicas(&api), json!(2));
        // The other one serves volumes again.
        assert_eq!((a.state().left, b.state().left), (1, 0));
        let restarted: Vec<String> = api.writes();
        let restarted = restarted
            .iter()
            .filter(|write| write.starts_with("DELETE") && write.contains("/pods/"));
        let pod = api.pod(&a.place)["metadata"]["name"].clone();
        let expected = format!("DELETE {PODS}/{}", pod.as_str().unwrap());
        assert_eq!(restarted.collect::<Vec<_>>(), [&expected]);
    }
}

#[tokio::test]
async fn no_node_is_left_while_another_one_has_volumes() {
    let (a, b) = (FakeNode::start("a").await, FakeNode::start("b").await);
    b.state().volumes = (0..6)
        .map(|number| Volume {
            volume_id: format!("v{number}"),
            pod: Some(Pod {
                namespace: "team".to_owned(),
                name: format!("reader-{number}"),
                uid: String::new(),
            }),
            ..Volume::default()
        })
        .collect();
    let api = installed(&[&a, &b], 2);
    let error = format!("{:#}", clean(&api.ctx(), ENOUGH).await.unwrap_err());
    assert!(error.contains("volumes of node b are in use"), "{error}");
    assert!(error.contains("team/reader-0"), "{error}");
    assert!(error.contains("and 2 more"), "{error}");
    assert_eq!((a.state().left, b.state().left), (0, 0));
    assert!(!api.writes().iter().any(|write| write.starts_with("DELETE")));
    assert_eq!(replicas(&api), json!(2));
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_named() {
    let gone = FakeNode::start("gone").await;
    let api = installed(&[&gone], 1);
    drop(gone);
    let error = format!("{:#}", clean(&api.ctx(), ENOUGH).await.unwrap_err());
    assert!(error.contains("node gone "), "{error}");
    assert!(!removed(&api), "{:?}", api.writes());
}

#[tokio::test]
async fn nodes_without_a_pod_are_not_forgotten() {
    let a = FakeNode::start("a").await;
    for (fakes, on) in [(vec![], "none of them"), (vec![&a], "a only")] {
        let api = installed(&fakes, 2);
        let error = format!("{:#}", clean(&api.ctx(), ENOUGH).await.unwrap_err());
        assert!(error.contains("should run on 2 nodes"), "{error}");
        assert!(error.contains(on), "{error}");
        assert!(!removed(&api), "{:?}", api.writes());
    }
    assert_eq!(a.state().left, 0);
}

#[tokio::test]
async fn a_node_that_is_not_ready_is_left_too() {
    let a = FakeNode::start("a").await;
    let api = installed(&[&a], 1);
    let mut pod = api.pod(&a.place);
    pod["status"]["conditions"][0]["status"] = json!("False");
    api.after(
        &format!("PATCH {APPS}/deployments/lamina-operator"),
        PODS,
        list(vec![pod]),
    );
    clean(&api.ctx(), ENOUGH).await.unwrap();
    assert_eq!(a.state().left, 1);
}

#[tokio::test]
async fn pods_that_stay_are_named_when_the_time_is_over() {
    let a = FakeNode::start("a").await;
    let api = installed(&[&a], 1);
    let pod = api.pod(&a.place);
    api.after(
        &format!("DELETE {APPS}/daemonsets/lamina-node"),
        PODS,
        list(vec![pod]),
    );
    let error = format!("{:#}", clean(&api.ctx(), Duration::ZERO).await.unwrap_err());
    assert!(error.contains("lamina-node-a"), "{error}");
    assert!(
        api.wrote(&format!("{LAMINA}/namespaces/team/images/python")),
        "nothing waits for the operator whatever happens to pods"
    );
}

#[tokio::test]
async fn what_is_gone_already_is_no_failure() {
    let api = FakeApi::default();
    api.answer(PODS, list(vec![]));
    api.answer("/api/v1/pods", list(vec![]));
    api.refuse_writes();
    clean(&api.ctx(), ENOUGH).await.unwrap();
}
