//! Where the services are reached: a Unix socket for processes of the same user and root, and TCP with mutual
//! TLS for whoever has a certificate of our authority; its names decide what he may call.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::Stream;
pub(super) use lamina_discovery::daemon::stopped;
use lamina_discovery::tls;
use lamina_proto::lamina::v1::layers_server::LayersServer;
use lamina_proto::lamina::v1::node_care_server::NodeCareServer;
use lamina_proto::lamina::v1::node_commit_server::NodeCommitServer;
use lamina_proto::lamina::v1::node_server::NodeServer;
use lamina_proto::lamina::v1::{ReadChunksRequest, ReadChunksResponse};
use lamina_proto::layerstore::v1::layer_store_server::LayerStoreServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;

use super::certificate::{self, Certified};
use super::chunks::Chunks;
use super::guard::Guard;
use super::server::Service;
use crate::layers::{Answers, LayerService, Layerstore, PeerService, Reach, ServeChunks};
use crate::wire::{self, ACCEPT_PAUSE};

/// Where TCP is served.
#[derive(Debug, Clone)]
pub enum Listen {
    /// With mutual TLS, by the certificates in a directory.
    Mutual(SocketAddr, PathBuf),
    /// Without TLS, to anybody: what nodes read of each other, and nothing else.
    Plain(SocketAddr),
}

/// What is served; clones are the same.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) node: Service,
    pub(super) layers: Option<Layers>,
}

/// What nodes read of each other.
#[derive(Clone)]
pub(super) struct Layers {
    pub(super) store: Layerstore,
    pub(super) chunks: Chunks,
}

#[tonic::async_trait]
impl ServeChunks for Chunks {
    async fn read_chunks(
        &self,
        request: ReadChunksRequest,
    ) -> Result<Answers<ReadChunksResponse>, Status> {
        Ok(self.read(&request).await?)
    }
}

impl Layers {
    fn services(&self, reach: Reach) -> (LayerService, PeerService) {
        let layers = LayerService::new(self.store.clone(), reach);
        let chunks = Arc::new(self.chunks.clone());
        (layers.clone(), PeerService::new(layers, chunks))
    }
}

impl Services {
    fn on_unix(self, mut server: Server) -> Router {
        let router = server
            .add_service(NodeServer::new(self.node.clone()))
            .add_service(NodeCommitServer::new(self.node.clone()))
            .add_service(NodeCareServer::new(self.node));
        let Some(layers) = &self.layers else {
            return router;
        };
        let (layers, peers) = layers.services(Reach::Local);
        router
            .add_service(LayerStoreServer::new(layers))
            .add_service(LayersServer::new(peers))
    }

    fn guarded(&self, mut server: Server) -> Router {
        let (node, clients, nodes) = (self.node.clone(), Guard::Clients, Guard::Nodes);
        let care = NodeCareServer::new(node.clone());
        let router = server
            .add_service(InterceptedService::new(NodeServer::new(node), clients))
            .add_service(InterceptedService::new(care, clients));
        let Some(layers) = &self.layers else {
            return router;
        };
        let (layers, peers) = layers.services(Reach::Remote);
        router
            .add_service(InterceptedService::new(
                LayerStoreServer::new(layers),
                nodes,
            ))
            .add_service(InterceptedService::new(LayersServer::new(peers), nodes))
    }
}

/// Serves on the Unix socket until `stop`.
pub(super) async fn on_unix(
    path: PathBuf,
    services: Services,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let listener = wire::listen(&path).context("listen for calls")?;
    // What connects is checked again; this keeps others from trying.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect {}", path.display()))?;
    listener.set_nonblocking(true)?;
    let incoming = unix_streams(UnixListener::from_std(listener)?);
    services
        .on_unix(tls::server())
        .serve_with_incoming_shutdown(incoming, stopped(stop))
        .await
        .context("serve calls on the Unix socket")
}

fn unix_streams(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => match wire::check_peer(&stream) {
                    Ok(()) => return Some((Ok(stream), listener)),
                    Err(error) => tracing::warn!(%error, "connection refused"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accept a call");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Serves on TCP until `stop`, with the certificates as they are on disk, from when there are any.
pub(super) async fn on_tcp(
    listen: Listen,
    services: Services,
    is_certified: Certified,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    if !certificate::certified(is_certified, stop.clone()).await {
        return Ok(());
    }
    let bind =
        |at: SocketAddr| std::net::TcpListener::bind(at).with_context(|| format!("listen on {at}"));
    let served = match (listen, services.layers.clone()) {
        (Listen::Mutual(at, dir), _) => {
            let router = |server| services.guarded(server);
            tls::serve(bind(at)?, &dir, router, stop).await
        }
        (Listen::Plain(at), Some(layers)) => {
            let (layers, peers) = layers.services(Reach::Remote);
            let router = |mut server: Server| {
                server
                    .add_service(LayerStoreServer::new(layers))
                    .add_service(LayersServer::new(peers))
            };
            tls::serve_plain(bind(at)?, router, stop).await
        }
        (Listen::Plain(_), None) => {
            bail!("nothing is served without TLS but layers, and there is no --discovery")
        }
    };
    served.context("serve calls on TCP")
}
