//! `/status`, `/metrics`, `/healthz` and `/readyz`, for who watches a proxy.

use std::net::SocketAddr;

use anyhow::Result;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use lamina_discovery::daemon;
use tokio::sync::watch;

use crate::run::Served;

/// Serves until `stop`.
pub(crate) async fn serve(
    at: SocketAddr,
    served: Served,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = Router::new()
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/readyz", get(ready))
        .with_state(served);
    daemon::serve_http(at, router, stop).await
}

/// JSON, unless the caller would rather read text.
async fn status(State(served): State<Served>, headers: HeaderMap) -> Response {
    let overview = served.service.overview().await;
    match prefers_text(&headers) {
        true => overview.text().into_response(),
        false => Json(overview).into_response(),
    }
}

/// The first kind that is named and that there is.
fn prefers_text(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT);
    let accepted = accepted.and_then(|value| value.to_str().ok());
    let kinds = accepted.unwrap_or_default().split(',');
    let mut known = kinds.filter_map(|kind| match kind.split(';').next()?.trim() {
        "text/plain" | "text/html" | "text/*" => Some(true),
        "application/json" | "application/*" | "*/*" => Some(false),
        _ => None,
    });
    known.next().unwrap_or(false)
}

async fn metrics(State(served): State<Served>) -> Response {
    daemon::exposition(served.exposition())
}

/// Ready is who takes runs.
async fn ready(State(served): State<Served>) -> Response {
    match served.is_draining() {
        false => "ok\n".into_response(),
        true => (StatusCode::SERVICE_UNAVAILABLE, "ending\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_that_is_named_first_is_answered() {
        for (accept, text) in [
            (None, false),
            (Some("*/*"), false),
            (Some("application/json, text/plain"), false),
            (Some("text/plain;q=0.5, application/json"), true),
            (Some("image/png, text/html,application/xhtml+xml"), true),
            (Some("image/png"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(prefers_text(&headers), text, "{accept:?}");
        }
    }
}
