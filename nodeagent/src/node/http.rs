//! `/metrics`, `/healthz` and `/readyz`, for who watches the node.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::Parts;
use super::daemons::blocking;
use super::listen::stopped;

/// Serves until `stop`.
pub(super) async fn serve(at: SocketAddr, parts: Parts, stop: watch::Receiver<bool>) -> Result<()> {
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("listen for http on {at}"))?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(parts);
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await
        .context("serve http")
}

async fn metrics(State(parts): State<Parts>) -> Response {
    let listed = blocking(&parts.daemons, super::daemons::Daemons::glance)
        .await
        .ok();
    let children = blocking(&parts.daemons, |daemons| Ok(daemons.children()))
        .await
        .unwrap_or_default();
    let (records, flists) = (parts.volumes.all(), parts.library.list().len());
    parts
        .metrics
        .look(listed.as_ref(), &records, flists, &children);
    match parts.metrics.text() {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready is who can mount.
async fn ready(State(parts): State<Parts>) -> Response {
    match blocking(&parts.daemons, super::daemons::Daemons::glance).await {
        Ok(_) => "ok\n".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}
