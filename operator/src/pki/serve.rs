//! Where nodes ask for certificates: TLS with the operator's certificate, read again while it serves.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_proto::lamina::v1::certificates_server::CertificatesServer;
use prometheus::IntCounterVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::transport::{Identity, Server, ServerTlsConfig};

use super::authority::text;
use super::service::Service;
use super::{OPERATOR_SECRET, sign};

/// Between two looks whether the certificate changed: a renewed one is there long before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Before there is a certificate at all: the leader is making it.
const LOOK_SOON: Duration = Duration::from_secs(2);
/// Connections at once, over all callers.
const CONNECTIONS_MAX: usize = 512;
/// How long a connection is kept: a node makes one call.
const CONNECTION: Duration = Duration::from_secs(30);
/// How long a caller may take for its part of TLS.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(20);
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be listened on.
pub(crate) async fn serve(
    at: SocketAddr,
    client: kube::Client,
    namespace: &str,
    counted: IntCounterVec,
) -> anyhow::Result<()> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let first = changed(&api, None, LOOK_SOON).await;
    let service = Service::new(client, namespace.to_owned(), counted);
    let listener = TcpListener::bind(at).await;
    let listener = listener.with_context(|| format!("listen for nodes on {at}"))?;
    serve_on(listener, first, &api, LOOK_EVERY, service).await
}

pub(super) async fn serve_on(
    listener: TcpListener,
    first: Pair,
    api: &Api<Secret>,
    look_every: Duration,
    service: Service,
) -> anyhow::Result<()> {
    let (listener, service) = (Arc::new(listener), Arc::new(service));
    let mut known = first;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let (end, ended) = oneshot::channel::<()>();
        let incoming = streams(Arc::clone(&listener), Arc::clone(&room));
        let serving = server(&known)?
            .add_service(limited(Arc::clone(&service)))
            .serve_with_incoming_shutdown(incoming, async {
                let _ = ended.await;
            });
        let mut serving = tokio::spawn(serving);
        tokio::select! {
            served = &mut serving => return served?.context("serve nodes"),
            new = changed(api, Some(&known), look_every) => {
                tracing::info!("signing under another certificate");
                known = new;
                let _ = end.send(());
            }
        }
    }
}

fn limited(service: Arc<Service>) -> CertificatesServer<Service> {
    CertificatesServer::from_arc(service).max_decoding_message_size(2 * sign::REQUEST_MAX)
}

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) cert: String,
    pub(super) key: String,
}

/// The next pair that is another one and can be used.
async fn changed(api: &Api<Secret>, known: Option<&Pair>, every: Duration) -> Pair {
    loop {
        if known.is_some() {
            tokio::time::sleep(every).await;
        }
        match tokio::time::timeout(CALL, api.get_opt(OPERATOR_SECRET)).await {
            Ok(Ok(found)) => {
                let found = found.as_ref().and_then(pair);
                if let Some(new) = found.filter(|new| Some(new) != known) {
                    match server(&new) {
                        Ok(_) => return new,
                        Err(error) => tracing::warn!("{error:#}"),
                    }
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "look for the certificate to sign under"),
            Err(_) => tracing::warn!("the API server does not say which certificate to sign under"),
        }
        if known.is_none() {
            tokio::time::sleep(every).await;
        }
    }
}

pub(super) fn pair(secret: &Secret) -> Option<Pair> {
    let part = |key| text(secret, key).map(str::to_owned);
    Some(Pair {
        cert: part("tls.crt")?,
        key: part("tls.key")?,
    })
}

fn server(pair: &Pair) -> anyhow::Result<Server> {
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&pair.cert, &pair.key))
        .timeout(HANDSHAKE);
    let server = Server::builder()
        .max_connection_age(CONNECTION)
        .max_connection_age_grace(CALL)
        .timeout(CALL)
        .concurrency_limit_per_connection(4)
        .max_concurrent_streams(4)
        .http2_max_header_list_size(16 << 10)
        .tls_config(tls);
    server.with_context(|| format!("use the certificate in Secret {OPERATOR_SECRET}"))
}

/// Connections as they come, while there is room for more.
fn streams(
    listener: Arc<TcpListener>,
    room: Arc<Semaphore>,
) -> impl Stream<Item = io::Result<Counted>> {
    futures::stream::unfold((listener, room), |(listener, room)| async {
        let place = Arc::clone(&room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let counted = Counted {
                        stream,
                        _place: place,
                    };
                    return Some((Ok(counted), (listener, room)));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a node's connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// A connection that takes one of the places until it ends.
struct Counted {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
}

impl Connected for Counted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
