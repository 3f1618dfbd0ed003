//! `/metrics`, `/healthz` and `/readyz`, for who watches a replica.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::daemon;
use crate::service::Service;

/// Serves until `stop`.
pub(crate) async fn serve(
    at: SocketAddr,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .with_state(service);
    daemon::serve_http(at, router, stop).await
}

async fn metrics(State(service): State<Service>) -> Response {
    daemon::exposition(service.metrics())
}

/// Ready is who takes heartbeats: one that waited until it knows everything would never be told, as nodes are
/// sent only to replicas that are ready.
async fn ready(State(service): State<Service>) -> Response {
    match service.is_warm() {
        true => "ok\n".into_response(),
        false => "ok, and being told who holds what\n".into_response(),
    }
}
