//! The node servers: which there are, and how they are spoken to.

mod dial;
#[cfg(test)]
pub(crate) mod fake;
mod watch;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams};

pub(crate) use dial::{Dial, NodeClient, Peer};
pub(crate) use watch::watch;

use crate::context::Ctx;
use crate::fault::Fault;

/// Labels of the node server's pods.
const SELECTOR: &str = "app.kubernetes.io/name=lamina,app.kubernetes.io/component=node";
/// Name of what makes them.
pub(crate) const DAEMON_SET: &str = "lamina-node";
/// Port of the node server.
pub(crate) const PORT: u16 = 7150;

/// A node whose server is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the node.
    pub(crate) name: String,
    /// `host:port` of its server.
    pub(crate) address: String,
    /// Labels of the node.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Every node whose server is ready, by name.
pub(crate) async fn ready(ctx: &Ctx) -> Result<Vec<Place>, Fault> {
    let pods = staying(pods(ctx).await?);
    let nodes = Api::<Node>::all(ctx.client.clone())
        .list(&ListParams::default())
        .await?;
    let able: Vec<Pod> = pods.into_iter().filter(is_ready).collect();
    let mut places = places(&able, &nodes.items);
    places.retain(|place| !place.address.is_empty());
    Ok(places)
}

/// Every node the server was brought to, by name, ready or not and without labels: what it left behind has
/// to be looked after. The address is empty before its pod has one.
pub(crate) async fn inhabited(ctx: &Ctx) -> Result<Vec<Place>, Fault> {
    Ok(places(&staying(pods(ctx).await?), &[]))
}

/// The same with those whose server is about to end: volumes outlive it.
pub(crate) async fn occupied(ctx: &Ctx) -> Result<Vec<Place>, Fault> {
    Ok(places(&pods(ctx).await?, &[]))
}

/// On how many nodes the server should run; none where it was never set up.
pub(crate) async fn wanted(ctx: &Ctx) -> Result<usize, kube::Error> {
    let api = Api::<DaemonSet>::namespaced(ctx.client.clone(), &ctx.namespace);
    let status = api.get_opt(DAEMON_SET).await?.and_then(|set| set.status);
    let wanted = status.map_or(0, |status| status.desired_number_scheduled);
    Ok(usize::try_from(wanted).unwrap_or(0))
}

async fn pods(ctx: &Ctx) -> Result<Vec<Pod>, Fault> {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &ctx.namespace);
    let all = api.list(&ListParams::default().labels(SELECTOR)).await?;
    Ok(all.items)
}

fn staying(mut pods: Vec<Pod>) -> Vec<Pod> {
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods
}

/// Deletes the server's pods on a node: its `DaemonSet` makes a new one.
pub(crate) async fn delete_pods(api: &Api<Pod>, node: &str) -> Result<(), kube::Error> {
    let selected = ListParams::default().labels(SELECTOR);
    let on_it =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
    for pod in api.list(&selected).await?.items.into_iter().filter(on_it) {
        if let Some(name) = &pod.metadata.name {
            api.delete(name, &DeleteParams::default()).await?;
        }
    }
    Ok(())
}

fn places(pods: &[Pod], nodes: &[Node]) -> Vec<Place> {
    let labels: BTreeMap<&str, &BTreeMap<String, String>> = nodes
        .iter()
        .filter_map(|node| {
            Some((
                node.metadata.name.as_deref()?,
                node.metadata.labels.as_ref()?,
            ))
        })
        .collect();
    let mut all: Vec<Place> = pods
        .iter()
        .filter_map(|pod| {
            let name = pod.spec.as_ref()?.node_name.clone()?;
            let ip = pod
                .status
                .as_ref()
                .and_then(|status| status.pod_ip.as_ref());
            let labels = labels.get(name.as_str()).map(|all| (*all).clone());
            Some(Place {
                address: ip.map(|ip| address(ip)).unwrap_or_default(),
                labels: labels.unwrap_or_default(),
                name,
            })
        })
        .collect();
    // A pod that failed may stand beside its successor: of two, the one with an address.
    all.sort_by(|a, b| (&a.name, &b.address).cmp(&(&b.name, &a.address)));
    all.dedup_by(|a, b| a.name == b.name);
    all
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn address(ip: &str) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{PORT}"),
        false => format!("{ip}:{PORT}"),
    }
}

/// Those of `places` that have every label of `selector`.
///
/// # Errors
/// `InvalidSpec` for what no label can be, `NoNode` when there is none.
pub(crate) fn admitted<'a>(
    places: &'a [Place],
    selector: &BTreeMap<String, String>,
) -> Result<Vec<&'a Place>, Fault> {
    if let Some((key, value)) = selector.iter().find(|one| !is_label(one.0, one.1)) {
        let message = format!(
            "nodeSelector: {key:?}: {value:?} is not a label, so no node has it: correct it (kubectl get nodes \
             --show-labels)"
        );
        return Err(Fault::new("InvalidSpec", message));
    }
    let has_all = |place: &&Place| {
        selector
            .iter()
            .all(|(key, value)| place.labels.get(key) == Some(value))
    };
    let admitted: Vec<&Place> = places.iter().filter(has_all).collect();
    match admitted.is_empty() {
        true => Err(Fault::no_node(!places.is_empty())),
        false => Ok(admitted),
    }
}

/// Whether a node can have this label: `[prefix/]name: value`, as Kubernetes has it.
fn is_label(key: &str, value: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("a", key));
    let is_prefix = (1..=253).contains(&prefix.len())
        && prefix.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
        });
    is_prefix && !name.is_empty() && is_word(name) && is_word(value)
}

/// At most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    let is_edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63 && bytes.iter().all(fits) && is_edge(bytes.first()) && is_edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": format!("lamina-node-{node}") },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "podIP": ip, "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    #[test]
    fn only_ready_servers_are_places() {
        let node: Node = serde_json::from_value(
            json!({ "metadata": { "name": "a", "labels": { "zone": "one" } } }),
        )
        .unwrap();
        let pods = [
            pod("b", "10.0.0.2", "False"),
            pod("a", "10.0.0.1", "True"),
            pod("c", "fd00::1", "True"),
        ];
        let able: Vec<Pod> = pods.into_iter().filter(is_ready).collect();
        let all = places(&able, &[node]);
        let names: Vec<&str> = all.iter().map(|place| place.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(all[0].address, "10.0.0.1:7150");
        assert_eq!(all[1].address, "[fd00::1]:7150");
        let selector = BTreeMap::from([("zone".to_owned(), "one".to_owned())]);
        assert_eq!(admitted(&all, &selector).unwrap().len(), 1);
        assert_eq!(admitted(&all, &BTreeMap::new()).unwrap().len(), 2);
    }

    #[test]
    fn labels_that_no_node_can_have_are_told_from_those_that_none_has() {
        for (key, value, reason) in [
            ("zone", "a b", "InvalidSpec"),
            ("my zone", "a", "InvalidSpec"),
            ("", "a", "InvalidSpec"),
            ("zone", "-a", "InvalidSpec"),
            ("zone", "two", "NoNode"),
            ("example.com/disk", "", "NoNode"),
        ] {
            let selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            let fault = admitted(&[], &selector).unwrap_err();
            assert_eq!(fault.reason, reason, "{key}: {value}");
        }
    }
}
