//! Serving and dialling with mutual TLS, by a directory of certificates that may change at any time.
//!
//! `tls.crt` and `tls.key` are ours, `ca.crt` whom we believe. Always: half a change is waited for; what cannot be
//! used is not taken; connections that there are end after their calls when others come.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::server::Router;
use tonic::transport::{Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig};

use crate::daemon::stopped;

/// Between two looks whether the certificates changed: renewed ones are valid long before the old ones end.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A connection that is silent for this long is asked whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// After a connection that could not be accepted: most often there are too many.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why nobody can be served or dialled.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the files.
    #[error("use the certificates in {dir}")]
    Unusable {
        /// Where they are.
        dir: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The socket.
    #[error("listen for calls")]
    Listen(#[from] io::Error),
    /// The server.
    #[error("serve calls")]
    Serve(#[from] tonic::transport::Error),
    /// The server's task.
    #[error("the server was cut off")]
    Lost(#[from] tokio::task::JoinError),
}

/// What authenticates both sides.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificates {
    dir: PathBuf,
    cert: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

impl Certificates {
    /// Reads a directory.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(dir: &Path) -> Result<Self, TlsError> {
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map_err(|source| TlsError::Read { path, source })
        };
        Ok(Self {
            dir: dir.to_owned(),
            cert: read("tls.crt")?,
            key: read("tls.key")?,
            ca: read("ca.crt")?,
        })
    }

    /// Reads a directory that somebody else may still be filling; `None` while a file is not there.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read_made(dir: &Path) -> Result<Option<Self>, TlsError> {
        match Self::read(dir) {
            Ok(found) => Ok(Some(found)),
            Err(TlsError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// For a server: a client without a certificate of the authority gets no connection.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.cert, &self.key))
            .client_ca_root(Certificate::from_pem(&self.ca))
            .client_auth_optional(false)
    }

    /// For a client of servers called `name`.
    pub fn client(&self, name: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(Identity::from_pem(&self.cert, &self.key))
            .domain_name(name)
    }

    /// The next whole set that is another one and can be used.
    async fn changed(&self) -> Self {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match Self::read(&self.dir) {
                Ok(found) if found == *self => {}
                Ok(found) => match found.start() {
                    Ok(_) => return found,
                    Err(error) => tracing::warn!(%error, "other certificates cannot be used"),
                },
                Err(error) => tracing::warn!(%error, "look for other certificates"),
            }
        }
    }

    fn start(&self) -> Result<Server, TlsError> {
        let server = server().tls_config(self.server());
        server.map_err(|source| TlsError::Unusable {
            dir: self.dir.clone(),
            source,
        })
    }
}

/// A server with the settings that all of ours have.
pub fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .concurrency_limit_per_connection(256)
}

/// Serves until `stop`, with the certificates as they are on disk: after a change, new connections get the new
/// ones, and those there are end after their calls.
///
/// # Errors
/// When it cannot begin, or cannot serve any more.
pub async fn serve(
    listener: std::net::TcpListener,
    dir: &Path,
    router: impl Fn(Server) -> Router,
    stop: watch::Receiver<bool>,
) -> Result<(), TlsError> {
    listener.set_nonblocking(true)?;
    let mut certificates = Certificates::read(dir)?;
    loop {
        let (end, ended) = watch::channel(false);
        let incoming = streams(TcpListener::from_std(listener.try_clone()?)?);
        let serving =
            router(certificates.start()?).serve_with_incoming_shutdown(incoming, stopped(ended));
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            served = &mut serving => return Ok(served??),
            () = stopped(stop.clone()) => {
                end.send_replace(true);
                return Ok(serving.await??);
            }
            changed = certificates.changed() => {
                tracing::info!("using other certificates");
                certificates = changed;
                end.send_replace(true);
            }
        }
    }
}

/// Serves until `stop` without TLS.
///
/// # Errors
/// When it cannot serve.
pub async fn serve_plain(
    listener: std::net::TcpListener,
    router: impl FnOnce(Server) -> Router,
    stop: watch::Receiver<bool>,
) -> Result<(), TlsError> {
    listener.set_nonblocking(true)?;
    let incoming = streams(TcpListener::from_std(listener)?);
    let serving = router(server()).serve_with_incoming_shutdown(incoming, stopped(stop));
    Ok(serving.await?)
}

fn streams(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    futures::stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // An answer's last, short segment would wait 40 ms for the other side's acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "have a connection send at once");
                    }
                    return Some((Ok(stream), listener));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
