//! Takes the start-up taint off nodes on which volumes work: the node server is ready and kubelet knows the
//! driver.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::api::storage::v1::CSINode;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::context::Ctx;
use crate::fault::Fault;
use crate::nodes;

const DRIVER: &str = "csi.lamina.dev";

/// Whether kubelet has yet to hear of the driver on a node that is ready otherwise: then look again soon.
pub(crate) async fn take_off(ctx: &Ctx, key: &str) -> Result<bool, Fault> {
    let api = Api::<Node>::all(ctx.client.clone());
    let all = ListParams::default();
    let tainted: Vec<Node> = api
        .list(&all)
        .await?
        .items
        .into_iter()
        .filter(|node| has(node, key))
        .collect();
    if tainted.is_empty() {
        return Ok(false);
    }
    let ready: BTreeSet<String> = nodes::ready(ctx)
        .await?
        .into_iter()
        .map(|place| place.name)
        .collect();
    let registered = Api::<CSINode>::all(ctx.client.clone()).list(&all).await?;
    let registered: BTreeSet<String> = registered
        .items
        .iter()
        .filter(|node| knows(node))
        .map(ResourceExt::name_any)
        .collect();
    let mut waits = false;
    for node in tainted {
        let name = node.name_any();
        if !ready.contains(&name) {
            continue;
        }
        waits |= !registered.contains(&name);
        if registered.contains(&name) {
            // With the version, so that a taint somebody else set meanwhile is not lost.
            let patch = json!({
                "metadata": { "resourceVersion": node.resource_version() },
                "spec": { "taints": without(&node, key) },
            });
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
                .await?;
        }
    }
    Ok(waits)
}

fn taints(node: &Node) -> &[Taint] {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

fn has(node: &Node, key: &str) -> bool {
    taints(node).iter().any(|taint| taint.key == key)
}

fn without(node: &Node, key: &str) -> Vec<Taint> {
    taints(node)
        .iter()
        .filter(|taint| taint.key != key)
        .cloned()
        .collect()
}

fn knows(node: &CSINode) -> bool {
    node.spec.drivers.iter().any(|driver| driver.name == DRIVER)
}
