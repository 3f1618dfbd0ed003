//! `/metrics`, `/healthz` and `/readyz`, for who watches the node.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use lamina_discovery::daemon;
use tokio::sync::watch;

use super::daemons::blocking;
use super::{Parts, layer_metrics};

/// Serves until `stop`.
pub(super) async fn serve(at: SocketAddr, parts: Parts, stop: watch::Receiver<bool>) -> Result<()> {
    // Kubelet gives up after a second, which this may take.
    let own = parts.clone();
    tokio::spawn(async move {
        if let Err(why) = super::info::self_test(&own).await {
            tracing::error!(why, "this node is not ready");
        }
    });
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .with_state(parts);
    daemon::serve_http(at, router, stop).await
}

async fn metrics(State(parts): State<Parts>) -> Response {
    let listed = blocking(&parts.daemons, super::daemons::Daemons::long_glance)
        .await
        .ok();
    let children = blocking(&parts.daemons, |daemons| Ok(daemons.children()))
        .await
        .unwrap_or_default();
    let (records, flists) = (parts.volumes.all(), parts.library.list().len());
    parts
        .metrics
        .look(listed.as_ref(), &records, flists, &children);
    let layers = parts.layers.as_ref();
    let layers = layers.map(|layers| layer_metrics::text(&layers.store, layers.chunks.served()));
    let layers = layers.transpose();
    let text = parts
        .metrics
        .text()
        .and_then(|text| Ok(text + &layers?.unwrap_or_default()));
    daemon::exposition(text)
}

/// Ready is who can mount: whose agent answers, and whose kernel has what mounts need.
async fn ready(State(parts): State<Parts>) -> Response {
    let answers = blocking(&parts.daemons, super::daemons::Daemons::glance).await;
    let able = match answers {
        Ok(_) => super::info::self_test(&parts).await,
        Err(error) => Err(error.to_string()),
    };
    match able {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}
