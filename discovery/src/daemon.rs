//! What every serving process does alike: listeners that end together, an end when asked for, and HTTP for who
//! watches it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long calls under way may take once the process is to end. Pods have 30 s.
pub const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// Returns once `stop` says so.
pub async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has stopped, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Runs listeners, which end at `stop`, until SIGTERM or SIGINT; then says `ending`, and `cut_off` if calls are
/// under way after [`STOP_DEADLINE`].
///
/// # Errors
/// When a listener ends before: a process that answers half is worse than one that is started again.
pub async fn run_until_asked(
    mut serving: JoinSet<Result<()>>,
    stop: watch::Sender<bool>,
    ending: &str,
    cut_off: &str,
) -> Result<()> {
    let stops = stop.subscribe();
    tokio::spawn(asked_to_end(stop));
    let ended = tokio::select! {
        ended = serving.join_next() => ended,
        () = stopped(stops.clone()) => None,
    };
    if let Some(ended) = ended
        && !*stops.borrow()
    {
        return ended?.context("a listener ended");
    }
    tracing::info!("{ending}");
    let rest = tokio::time::timeout(STOP_DEADLINE, async {
        while serving.join_next().await.is_some() {}
    });
    if rest.await.is_err() {
        tracing::warn!("{cut_off}");
    }
    Ok(())
}

/// Sets `stop` at SIGTERM or SIGINT.
pub async fn asked_to_end(stop: watch::Sender<bool>) {
    let Ok(mut term) = signal(SignalKind::terminate()) else {
        return;
    };
    let Ok(mut int) = signal(SignalKind::interrupt()) else {
        return;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    stop.send_replace(true);
}

/// Serves `router` and `/healthz` until `stop`.
///
/// # Errors
/// When the address cannot be listened on, or not any more.
pub async fn serve_http(at: SocketAddr, router: Router, stop: watch::Receiver<bool>) -> Result<()> {
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("listen for http on {at}"))?;
    let router = router.route("/healthz", get(|| async { "ok\n" }));
    axum::serve(listener, router)
        .with_graceful_shutdown(stopped(stop))
        .await
        .context("serve http")
}

/// Metrics in the text format of Prometheus, or why there are none.
pub fn exposition(text: Result<String, impl Display>) -> Response {
    match text {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
