//! Connections to node servers: mutual TLS with the certificates of the internal authority.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_proto::lamina::v1::node_client;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::fault::Fault;
use crate::nodes::Place;
use crate::pki;

/// A connected node server.
pub(crate) type NodeClient = node_client::NodeClient<Channel>;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How node servers are dialled.
#[derive(Debug, Clone)]
pub(crate) enum Dial {
    /// With the client certificate in Lamina's namespace, read at each dial: it is renewed.
    Mutual,
    /// Without TLS: fakes on the loopback interface.
    #[cfg(test)]
    Plain,
}

/// Who is dialled.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// As a sentence names it.
    pub(crate) what: String,
    /// `host:port`.
    pub(crate) address: String,
    /// Name in its certificate.
    pub(crate) certificate: &'static str,
    /// Of the fault when it does not answer.
    pub(crate) reason: &'static str,
}

impl From<&Place> for Peer {
    fn from(place: &Place) -> Self {
        Self {
            what: format!("node {}", place.name),
            address: place.address.clone(),
            certificate: pki::SERVER_NAME,
            reason: "NodeUnreachable",
        }
    }
}

impl Dial {
    /// A client of a node's server.
    pub(crate) async fn connect(
        &self,
        client: &kube::Client,
        namespace: &str,
        place: &Place,
    ) -> Result<NodeClient, Fault> {
        let channel = self.channel(client, namespace, place).await?;
        Ok(NodeClient::new(channel))
    }

    /// A connection to a node's server.
    pub(crate) async fn channel(
        &self,
        client: &kube::Client,
        namespace: &str,
        place: &Place,
    ) -> Result<Channel, Fault> {
        self.reach(client, namespace, &Peer::from(place)).await
    }

    /// A connection.
    pub(crate) async fn reach(
        &self,
        client: &kube::Client,
        namespace: &str,
        peer: &Peer,
    ) -> Result<Channel, Fault> {
        let endpoint = match self {
            Self::Mutual => mutual(client, namespace, peer).await?,
            #[cfg(test)]
            Self::Plain => {
                // A fake has a port of its own: it comes as the pod's address, and looks like IPv6.
                let inner = peer.address.trim_start_matches('[');
                let address = inner.split("]:").next().unwrap_or(inner);
                Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| unreachable_peer(peer, &error))?
            }
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(20));
        tokio::time::timeout(CONNECT_TIMEOUT * 2, endpoint.connect())
            .await
            .map_err(|_| Fault::new(peer.reason, format!("{} does not answer", peer.what)))?
            .map_err(|error| unreachable_peer(peer, &error))
    }
}

async fn mutual(client: &kube::Client, namespace: &str, peer: &Peer) -> Result<Endpoint, Fault> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let secret = api.get_opt(pki::CLIENT_SECRET).await?;
    let data = secret.and_then(|secret| secret.data).unwrap_or_default();
    let part = |key: &str| {
        data.get(key).map(|bytes| bytes.0.clone()).ok_or_else(|| {
            Fault::new(
                "NoCertificate",
                format!("Secret {} has no {key} yet", pki::CLIENT_SECRET),
            )
        })
    };
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(part("ca.crt")?))
        .identity(Identity::from_pem(part("tls.crt")?, part("tls.key")?))
        .domain_name(peer.certificate);
    Endpoint::from_shared(format!("https://{}", peer.address))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| unreachable_peer(peer, &error))
}

fn unreachable_peer(peer: &Peer, error: &dyn std::error::Error) -> Fault {
    let mut message = format!("{} cannot be reached: {error}", peer.what);
    let mut cause = error.source();
    while let Some(inner) = cause {
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    Fault::new(peer.reason, message)
}
