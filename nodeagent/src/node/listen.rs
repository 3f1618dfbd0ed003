//! Where the service is reached: a Unix socket for processes of the same user and root, and TCP with mutual
//! TLS for whoever has a certificate of our authority.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::Stream;
use lamina_proto::lamina::v1::node_care_server::NodeCareServer;
use lamina_proto::lamina::v1::node_server::NodeServer;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::server::Service;
use crate::wire::{self, ACCEPT_PAUSE};

/// Between two looks whether the certificates changed: renewed ones are valid long before the old ones end.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);

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
    server()
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

/// Serves on TCP until `stop`, with the certificates as they are on disk: after a change, new connections
/// get the new ones, and those there are end after their calls.
pub(super) async fn on_tcp(
    at: SocketAddr,
    dir: PathBuf,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let listener = std::net::TcpListener::bind(at).with_context(|| format!("listen on {at}"))?;
    listener.set_nonblocking(true)?;
    let mut files = Files::read(&dir)?;
    loop {
        let (end, ended) = watch::channel(false);
        let incoming = tcp_streams(TcpListener::from_std(listener.try_clone()?)?);
        let serving = server()
            .tls_config(files.config())
            .context("use the certificates")?
            .add_service(NodeServer::new(service.clone()))
            .add_service(NodeCareServer::new(service.clone()))
            .serve_with_incoming_shutdown(incoming, stopped(ended));
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            served = &mut serving => return served?.context("serve calls on TCP"),
            () = stopped(stop.clone()) => {
                end.send_replace(true);
                return serving.await?.context("serve calls on TCP");
            }
            changed = files.changed(&dir) => {
                tracing::info!("using other certificates");
                files = changed;
                end.send_replace(true);
            }
        }
    }
}

fn tcp_streams(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .concurrency_limit_per_connection(256)
}

/// Returns once `stop` says so.
pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has stopped, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What authenticates both sides.
#[derive(Clone, PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Files {
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).with_context(|| format!("read {}", path.display()))
        };
        Ok(Self {
            cert: read("tls.crt")?,
            key: read("tls.key")?,
            ca: read("ca.crt")?,
        })
    }

    /// A client without a certificate of the authority gets no connection.
    fn config(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.cert, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
            .client_auth_optional(false)
    }

    /// The next whole set that is another one.
    async fn changed(&self, dir: &Path) -> Self {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match Self::read(dir) {
                Ok(files) if files != *self && files.is_usable() => return files,
                Ok(_) => {}
                Err(error) => tracing::warn!("look for other certificates: {error:#}"),
            }
        }
    }

    /// Whether a server would take them: half a change is waited for.
    fn is_usable(&self) -> bool {
        server()
            .tls_config(self.config())
            .inspect_err(|error| tracing::warn!(%error, "the certificates cannot be used"))
            .is_ok()
    }
}
