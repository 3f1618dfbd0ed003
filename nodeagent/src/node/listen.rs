//! Where the service is reached: a Unix socket for processes of the same user and root, and TCP with mutual
//! TLS for whoever has a certificate of our authority.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use futures::Stream;
pub(super) use lamina_discovery::daemon::stopped;
use lamina_discovery::tls;
use lamina_proto::lamina::v1::node_care_server::NodeCareServer;
use lamina_proto::lamina::v1::node_server::NodeServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::Server;

use super::certificate::{self, Certified};
use super::gate;
use super::server::Service;
use crate::wire::{self, ACCEPT_PAUSE};

/// Serves on the Unix socket until `stop`.
pub(super) async fn on_unix(
    path: PathBuf,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let listener = wire::listen(&path).context("listen for calls")?;
    // What connects is checked again; this keeps others from trying.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("protect {}", path.display()))?;
    listener.set_nonblocking(true)?;
    let incoming = unix_streams(UnixListener::from_std(listener)?);
    tls::server()
        .add_service(NodeServer::new(service.clone()))
        .add_service(NodeCareServer::new(service))
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
    at: SocketAddr,
    dir: PathBuf,
    service: Service,
    is_certified: Certified,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    if !certificate::certified(is_certified, stop.clone()).await {
        return Ok(());
    }
    let listener = std::net::TcpListener::bind(at).with_context(|| format!("listen on {at}"))?;
    let router = |mut server: Server| {
        server
            .add_service(gate::for_clients(NodeServer::new(service.clone())))
            .add_service(gate::for_clients(NodeCareServer::new(service.clone())))
    };
    tls::serve(listener, &dir, router, stop)
        .await
        .context("serve calls on TCP")
}
