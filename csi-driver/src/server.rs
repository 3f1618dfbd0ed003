//! gRPC on a Unix socket, within bounds: message sizes, headers and streams per connection are limited, and
//! a stop lets calls under way end.

use std::{future::Future, path::Path, time::Duration};

use anyhow::Context;
use lamina_proto::{
    csi::v1::{
        controller_server::ControllerServer, identity_server::IdentityServer,
        node_server::NodeServer,
    },
    pluginregistration::registration_server::RegistrationServer,
};
use tokio::{net::UnixListener, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Server, server::Router};

use crate::{
    controller::Controller, identity::Identity, node::Node, registration::Registration, socket,
};

/// Largest request: a Secret has at most 1 MiB, and everything else is small.
const REQUEST_MAX: usize = 2 << 20;
/// Largest answer: a list of 10,000 volumes.
const RESPONSE_MAX: usize = 32 << 20;
const HEADERS_MAX: u32 = 16 << 10;
const STREAMS_MAX: u32 = 256;
/// Time for calls under way at a stop; kubelet repeats what was cut off.
const LAST_CALLS: Duration = Duration::from_secs(20);

/// The services of one socket.
#[derive(Clone)]
pub struct Services {
    /// Always there.
    pub identity: Identity,
    /// The node role.
    pub node: Option<Node>,
    /// The controller role.
    pub controller: Option<Controller>,
}

/// Serves CSI on a socket until `stop`.
///
/// # Errors
///
/// The socket cannot be made, or serving failed.
pub async fn serve(
    path: &Path,
    services: Services,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (listener, _file) = socket::listen(path)?;
    let identity = IdentityServer::new(services.identity).max_decoding_message_size(REQUEST_MAX);
    let node = services
        .node
        .map(|node| NodeServer::new(node).max_decoding_message_size(REQUEST_MAX));
    let controller = services.controller.map(|controller| {
        ControllerServer::new(controller)
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(RESPONSE_MAX)
    });
    let router = bounded()
        .add_service(identity)
        .add_optional_service(node)
        .add_optional_service(controller);
    tracing::info!(socket = %path.display(), "serving CSI");
    until(router, listener, stop).await
}

/// Serves kubelet's registration on a socket until `stop`.
///
/// # Errors
///
/// The socket cannot be made, or serving failed.
pub async fn serve_registration(
    path: &Path,
    registration: Registration,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (listener, _file) = socket::listen(path)?;
    let service = RegistrationServer::new(registration).max_decoding_message_size(REQUEST_MAX);
    tracing::info!(socket = %path.display(), "waiting for kubelet");
    until(bounded().add_service(service), listener, stop).await
}

fn bounded() -> Server {
    Server::builder()
        .http2_max_header_list_size(HEADERS_MAX)
        .max_concurrent_streams(STREAMS_MAX)
}

async fn until(
    router: Router,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        let _ = stopped.await;
    };
    let serving = router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), end);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended.context("gRPC server"),
        () = stop => {}
    }
    let _ = stopping.send(());
    if let Ok(ended) = timeout(LAST_CALLS, serving).await {
        return ended.context("gRPC server");
    }
    tracing::warn!("stopped while calls were under way; their callers repeat them");
    Ok(())
}
