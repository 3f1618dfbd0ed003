//! A replica as a process: what `lamina discovery` runs.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::limits::Limits;
use crate::resolve::{RegistryUpstream, ResolveConfig, Resolver};
use crate::service::{Identity, Service};
use crate::{daemon, http, tls};

/// Between two looks for nodes whose heartbeats stopped.
const TICK: Duration = Duration::from_secs(1);

/// Who may call.
#[derive(Debug, Clone)]
pub enum Security {
    /// Clients with a certificate of the authority in this directory; nodes report themselves alone.
    Mutual(PathBuf),
    /// Anybody, as anybody.
    None,
}

/// How a replica runs.
#[derive(Debug, Clone)]
pub struct DiscoveryConfig {
    /// Where the services are served.
    pub listen: SocketAddr,
    /// Who may call.
    pub security: Security,
    /// Where metrics and health are served.
    pub http: Option<SocketAddr>,
    /// What callers may cost.
    pub limits: Limits,
    /// How images are resolved.
    pub resolve: ResolveConfig,
    /// Where.
    pub upstream: RegistryUpstream,
    /// The program's version.
    pub version: String,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or cannot serve any more.
pub fn run(config: DiscoveryConfig) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the I/O runtime")?;
    let served = runtime.block_on(serve(config));
    // Requests to registries that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    served
}

async fn serve(config: DiscoveryConfig) -> Result<()> {
    let clock = Clock::system();
    let resolver = Resolver::new(config.upstream, config.resolve, clock.clone());
    let identity = match config.security {
        Security::Mutual(_) => Identity::Certificate,
        Security::None => Identity::Anyone,
    };
    let service = Service::new(config.limits, identity, resolver, clock, &config.version)?;
    let listener =
        TcpListener::bind(config.listen).with_context(|| format!("listen on {}", config.listen))?;
    tracing::info!(at = %listener.local_addr()?, security = ?config.security, "serving discovery");
    let (stop, stops) = watch::channel(false);
    let mut serving = JoinSet::new();
    serving.spawn(calls(
        listener,
        config.security,
        service.clone(),
        stops.clone(),
    ));
    if let Some(at) = config.http {
        serving.spawn(http::serve(at, service.clone(), stops.clone()));
    }
    let ticking = tokio::spawn(tick(service));
    let cut_off = "calls under way are cut off; they can be made again, at another replica";
    let served = daemon::run_until_asked(serving, stop, "ending", cut_off).await;
    ticking.abort();
    served
}

async fn calls(
    listener: TcpListener,
    security: Security,
    service: Service,
    stop: watch::Receiver<bool>,
) -> Result<()> {
    let router = |server| service.serve_on(server);
    match security {
        Security::Mutual(dir) => tls::serve(listener, &dir, router, stop).await?,
        Security::None => tls::serve_plain(listener, router, stop).await?,
    }
    Ok(())
}

async fn tick(service: Service) {
    let mut every = tokio::time::interval(TICK);
    loop {
        every.tick().await;
        service.tick();
    }
}
