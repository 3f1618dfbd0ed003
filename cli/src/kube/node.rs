//! Talking to a node's server from a desk: the API server forwards a port of the `lamina-node` pod, and the
//! node's own mutual TLS runs through it, so the API server sees nothing of what is said.
//!
//! Each connection is one forwarded stream: when it ends, the node is dialled again.

use super::cluster::{Cluster, get};
use super::fault::{Fault, Kind, chain, of_node};
use super::page;
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::Portforwarder;
use lamina_proto::lamina::v1::node_client::NodeClient;
use lamina_proto::lamina::v1::{
    GetInfoRequest, GetInfoResponse, ListFlistsRequest, ListFlistsResponse, ListVolumesRequest,
    Volume,
};
use std::io;
use std::sync::Mutex;
use std::time::Duration;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// Labels of the node servers' pods.
const SELECTOR: &str = "app.kubernetes.io/name=lamina,app.kubernetes.io/component=node";
/// Port of the node server, and of its metrics.
const PORT: u16 = 7150;
const HTTP_PORT: u16 = 7151;
/// Name in the node servers' certificate.
const SERVER_NAME: &str = "node.lamina.internal";
/// Secret with the client certificate, in Lamina's namespace.
const CLIENT_SECRET: &str = "lamina-client-tls";
/// Until a node is connected, and until it answered a small question.
const CONNECT: Duration = Duration::from_secs(15);
const ANSWER: Duration = Duration::from_secs(15);
/// Nodes asked at once: each is a connection to the API server.
const AT_ONCE: usize = 8;

/// A `lamina-node` pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Name of the node.
    pub(crate) node: String,
    /// Name of the pod.
    pub(crate) pod: String,
    pub(crate) ready: bool,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) info: GetInfoResponse,
    pub(crate) volumes: Vec<Volume>,
}

/// A node and what it said, or why it did not.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) server: Server,
    pub(crate) answer: Result<Answer, Fault>,
}

/// The node servers, and how they are spoken to.
pub(crate) struct Nodes {
    pods: Api<Pod>,
    tls: Result<ClientTlsConfig, Fault>,
    /// By the node's name.
    pub(crate) servers: Vec<Server>,
}

/// A connected node.
pub(crate) struct Dialled {
    pub(crate) client: NodeClient<Channel>,
    _forward: Portforwarder,
}

impl Nodes {
    /// The pods, and the certificate to show them. Without the certificate every call fails with the reason.
    pub(crate) async fn find(cluster: &Cluster) -> Result<Self, Fault> {
        let pods: Vec<Pod> = cluster.in_system(SELECTOR).await?;
        Ok(Self {
            pods: Api::namespaced(cluster.client.clone(), &cluster.system),
            tls: tls(cluster).await,
            servers: servers(&pods),
        })
    }

    /// Ready servers: all, or those named.
    pub(crate) fn ready(&self, names: &[String]) -> Result<Vec<Server>, Fault> {
        chosen(&self.servers, names)
    }

    /// Asks every node for its figures.
    pub(crate) async fn ask(&self) -> Vec<Asked> {
        let asked = self.servers.iter().cloned().map(|server| async move {
            let answer = match server.ready {
                true => self.figures(&server).await,
                false => Err(Fault::unavailable(format!(
                    "pod {} is not ready",
                    server.pod
                ))),
            };
            Asked { server, answer }
        });
        futures::stream::iter(asked)
            .buffered(AT_ONCE)
            .collect()
            .await
    }

    async fn figures(&self, server: &Server) -> Result<Answer, Fault> {
        let mut node = self.dial(server).await?;
        let info = answered(
            server,
            "tell its state",
            node.client.get_info(GetInfoRequest {}),
        )
        .await?;
        let listed = node.client.list_volumes(ListVolumesRequest {});
        let volumes = answered(server, "list its volumes", listed).await?.volumes;
        Ok(Answer { info, volumes })
    }

    /// A node's library.
    pub(crate) async fn flists(&self, server: &Server) -> Result<ListFlistsResponse, Fault> {
        let mut node = self.dial(server).await?;
        let listed = node.client.list_flists(ListFlistsRequest {});
        answered(server, "list its flists", listed).await
    }

    /// Connects to a node's server.
    pub(crate) async fn dial(&self, server: &Server) -> Result<Dialled, Fault> {
        let tls = self.tls.clone()?;
        let (forward, stream) = page::forward(&self.pods, &server.pod, PORT).await?;
        let stream = Mutex::new(Some(stream));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().ok().and_then(|mut stream| stream.take());
            std::future::ready(
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionReset)),
            )
        });
        let failed = |error: tonic::transport::Error| {
            let why = chain(&error);
            Fault::unavailable(format!("node {} cannot be reached: {why}", server.node))
        };
        let endpoint = Endpoint::from_static("https://node.lamina.internal:7150")
            .tls_config(tls)
            .map_err(failed)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(20));
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(failed)?;
        Ok(Dialled {
            client: NodeClient::new(channel),
            _forward: forward,
        })
    }

    /// A node's metrics page.
    pub(crate) async fn metrics(&self, server: &Server) -> Result<String, Fault> {
        page::metrics(&self.pods, &server.pod, HTTP_PORT).await
    }
}

/// A small question to a node, with its deadline.
async fn answered<T>(
    server: &Server,
    what: &str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Fault> {
    match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(of_node(&server.node, what, &status)),
        Err(_) => Err(Fault::new(
            Kind::Timeout,
            format!("node {} did not answer in time", server.node),
        )),
    }
}

async fn tls(cluster: &Cluster) -> Result<ClientTlsConfig, Fault> {
    let api = Api::<Secret>::namespaced(cluster.client.clone(), &cluster.system);
    let what = format!(
        "secrets {CLIENT_SECRET} in {} (the certificate nodes ask for)",
        cluster.system
    );
    let data = get(&api, &what, CLIENT_SECRET)
        .await?
        .data
        .unwrap_or_default();
    let part = |key: &str| {
        data.get(key).map(|bytes| bytes.0.clone()).ok_or_else(|| {
            Fault::unavailable(format!(
                "Secret {CLIENT_SECRET} has no {key} yet: is the operator running?"
            ))
        })
    };
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(part("ca.crt")?))
        .identity(Identity::from_pem(part("tls.crt")?, part("tls.key")?))
        .domain_name(SERVER_NAME))
}

fn servers(pods: &[Pod]) -> Vec<Server> {
    let mut all: Vec<Server> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter_map(|pod| {
            Some(Server {
                node: pod.spec.as_ref()?.node_name.clone()?,
                pod: pod.metadata.name.clone()?,
                ready: super::objects::pod_ready(pod),
            })
        })
        .collect();
    all.sort_by(|a, b| (&a.node, b.ready).cmp(&(&b.node, a.ready)));
    all.dedup_by(|a, b| a.node == b.node);
    all
}

fn chosen(servers: &[Server], names: &[String]) -> Result<Vec<Server>, Fault> {
    for name in names {
        match servers.iter().find(|server| server.node == *name) {
            None => {
                let known: Vec<&str> = servers.iter().map(|server| server.node.as_str()).collect();
                return Err(Fault::new(
                    Kind::NotFound,
                    format!(
                        "no lamina-node pod runs on node {name}; they run on: {}",
                        known.join(", ")
                    ),
                ));
            }
            Some(server) if !server.ready => {
                return Err(Fault::unavailable(format!(
                    "pod {} on node {name} is not ready",
                    server.pod
                )));
            }
            Some(_) => {}
        }
    }
    let ready: Vec<Server> = servers
        .iter()
        .filter(|server| server.ready && (names.is_empty() || names.contains(&server.node)))
        .cloned()
        .collect();
    if ready.is_empty() {
        return Err(Fault::unavailable(
            "no lamina-node pod is ready; see `kubectl lamina status`",
        ));
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(node: &str, name: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [] },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    #[test]
    fn of_two_pods_of_a_node_the_ready_one_serves() {
        let found = servers(&[
            pod("b", "b1", "True"),
            pod("a", "a1", "False"),
            pod("a", "a2", "True"),
        ]);
        let names: Vec<&str> = found.iter().map(|server| server.pod.as_str()).collect();
        assert_eq!(names, ["a2", "b1"]);
    }

    #[test]
    fn an_unknown_node_is_answered_with_the_known_ones() {
        let found = servers(&[pod("a", "a1", "True"), pod("b", "b1", "False")]);
        assert_eq!(chosen(&found, &[]).unwrap().len(), 1);
        let unknown = chosen(&found, &["c".to_owned()]).unwrap_err();
        assert_eq!(unknown.kind, Kind::NotFound);
        assert!(unknown.message.ends_with("they run on: a, b"), "{unknown}");
        let late = chosen(&found, &["b".to_owned()]).unwrap_err();
        assert_eq!(late.kind, Kind::Unavailable);
    }
}
