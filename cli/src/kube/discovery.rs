//! What the replicas of `lamina-discovery` say of themselves: how many nodes each knows. One that knows fewer than there
//! are sends readers to registries.

use super::cluster::Cluster;
use super::fault::Fault;
use super::objects::pod_ready;
use super::page;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

/// Labels of its pods.
const SELECTOR: &str = "app.kubernetes.io/name=lamina,app.kubernetes.io/component=discovery";
/// Port of its metrics.
const PORT: u16 = 7071;
/// Live nodes, in its metrics.
const NODES: &str = "lamina_discovery_nodes";
/// Asked at once: each is a connection to the API server.
const AT_ONCE: usize = 4;

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Replica {
    pub(crate) pod: String,
    /// Nodes that it knows to live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) problem: Option<String>,
}

/// Every replica, by name.
pub(crate) async fn replicas(cluster: &Cluster) -> Result<Vec<Replica>, Fault> {
    let mut pods: Vec<Pod> = cluster.in_system(SELECTOR).await?;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(kube::ResourceExt::name_any);
    let api = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.system);
    let asked = pods.iter().map(|pod| async {
        let name = pod.name_any();
        let page = match pod_ready(pod) {
            true => page::metrics(&api, &name, PORT).await,
            false => Err(Fault::unavailable(format!("pod {name} is not ready"))),
        };
        told(name, page)
    });
    Ok(futures::stream::iter(asked)
        .buffered(AT_ONCE)
        .collect()
        .await)
}

fn told(pod: String, page: Result<String, Fault>) -> Replica {
    let nodes = page.and_then(|page| {
        let missing = || Fault::unavailable(format!("pod {pod}: its metrics lack {NODES}"));
        page::value(&page, NODES).ok_or_else(missing)
    });
    Replica {
        problem: nodes.as_ref().err().map(ToString::to_string),
        nodes: nodes.ok(),
        pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_says_how_many_nodes_it_knows_or_why_it_does_not() {
        let page = format!("# HELP x\n{NODES} 3\n");
        let known = told("a".into(), Ok(page));
        assert_eq!((known.nodes, known.problem), (Some(3), None));
        let odd = told("b".into(), Ok("nothing".into()));
        assert!(odd.problem.unwrap().contains(NODES));
        let silent = told("c".into(), Err(Fault::unavailable("gone")));
        assert_eq!(
            (silent.nodes, silent.problem.as_deref()),
            (None, Some("gone"))
        );
    }
}
