//! `/metrics`, `/healthz` and `/readyz`, for who watches a replica.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::service::Service;
use crate::tls::stopped;

/// Serves until `stop`.
pub(crate) async fn serve(
    at: SocketAddr,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("listen for http on {at}"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(service);
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await
        .context("serve http")
}

async fn metrics(State(service): State<Service>) -> Response {
    match service.metrics() {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready is who takes heartbeats: one that waited until it knows everything would never be told, as nodes are
/// sent only to replicas that are ready.
async fn ready(State(service): State<Service>) -> Response {
    match service.is_warm() {
        true => "ok\n".into_response(),
        false => "ok, and being told who holds what\n".into_response(),
    }
}
