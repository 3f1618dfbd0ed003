//! A proxy as a process: what `lamina proxy` runs, and a test starts beside others.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use lamina_discovery::client::{Client, ClientConfig, ClientTls};
use lamina_discovery::{daemon, tls};
use lamina_proto::afsproxy::v1::afs_proxy_server::AfsProxyServer;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;

use crate::afslets::Afslets;
use crate::config::{ProxyConfig, Security};
use crate::dial::Dialer;
use crate::dispatch::Dispatch;
use crate::execute::Execute;
use crate::guard::Guard;
use crate::http;
use crate::metrics::Metrics;
use crate::phase::Phase;
use crate::service::Service;
use crate::source::Budget;

/// Name in the certificates of discovery's replicas.
const DISCOVERY: &str = "discovery.lamina.internal";
/// A client's frames of one run that wait here.
const STREAM_WINDOW: u32 = 256 << 10;
/// How long runs that were cut off may take to say so.
const CUT_OFF_TIME: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT, and then until runs are over or cut off.
///
/// # Errors
/// When it cannot start, or cannot serve any more.
pub fn run(config: ProxyConfig) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the I/O runtime")?;
    let served = runtime.block_on(async {
        let (stop, stops) = watch::channel(false);
        tokio::spawn(daemon::asked_to_end(stop));
        Proxy::start(config)?.serve(stops).await
    });
    // A lookup of a name that nobody waits for any more must not keep the process.
    runtime.shutdown_background();
    served
}

/// What is served, for who looks at it.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) service: Service,
    execute: Execute,
    afslets: Arc<Afslets>,
    metrics: Arc<Metrics>,
    phase: Phase,
    budget: Budget,
}

impl Served {
    pub(crate) fn exposition(&self) -> prometheus::Result<String> {
        let known = self.afslets.known();
        let (runs, kept) = (self.execute.runs(), self.budget.used());
        self.metrics.look(&known, runs, kept);
        self.metrics.text()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.phase.is_draining()
    }

    /// Runs that wait for a place do not read; each has its room, so that they do not stop the others of their connection.
    fn serve_on(&self, guard: Guard, streams_max: u32, server: Server) -> Router {
        let window = STREAM_WINDOW
            .saturating_mul(streams_max)
            .min(i32::MAX.unsigned_abs());
        let runs = InterceptedService::new(self.execute.clone(), guard);
        let proxy = AfsProxyServer::with_interceptor(self.service.clone(), guard);
        server
            .max_concurrent_streams(streams_max)
            .concurrency_limit_per_connection(streams_max as usize)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(window)
            .add_service(runs)
            .add_service(proxy)
    }
}

/// A proxy that listens; it ends when dropped.
pub struct Proxy {
    at: SocketAddr,
    served: Served,
    serving: JoinSet<Result<()>>,
    end: watch::Sender<bool>,
    watching: AbortHandle,
    drain_timeout: Duration,
}

impl Proxy {
    /// Begins to serve, within a runtime.
    ///
    /// # Errors
    /// When it cannot listen, or its certificates cannot be used.
    pub fn start(config: ProxyConfig) -> Result<Self> {
        let listener = TcpListener::bind(config.listen)
            .with_context(|| format!("listen on {}", config.listen))?;
        let at = listener.local_addr().context("find out where it listens")?;
        let (served, watching) = wire(&config)?;
        tracing::info!(%at, security = ?config.security, afslets = ?config.afslets, "serving as a proxy");
        let (end, ends) = watch::channel(false);
        let mut serving = JoinSet::new();
        if let Some(at) = config.http {
            serving.spawn(http::serve(at, served.clone(), ends.clone()));
        }
        let streams_max = config.limits.streams_max;
        serving.spawn(calls(
            listener,
            config.security,
            served.clone(),
            streams_max,
            ends,
        ));
        Ok(Self {
            at,
            served,
            serving,
            end,
            watching,
            drain_timeout: config.drain_timeout,
        })
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Serves until `stop`, and then until the runs are over, or the time for that is.
    ///
    /// # Errors
    /// When a listener ends before: a process that answers half is worse than one that is started again.
    pub async fn serve(mut self, stop: watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            ended = self.serving.join_next() => {
                if let Some(ended) = ended {
                    return ended?.context("a listener ended");
                }
            }
            () = daemon::stopped(stop) => {}
        }
        tracing::info!(
            runs = self.served.execute.runs(),
            "ending: no more runs are taken"
        );
        self.served.phase.drain();
        let drained = tokio::time::timeout(self.drain_timeout, self.served.execute.over());
        if drained.await.is_err() {
            tracing::warn!(runs = self.served.execute.runs(), "runs are cut off");
            self.served.phase.cut_off();
            // Who does not read what it is told is not waited for.
            let _ = tokio::time::timeout(CUT_OFF_TIME, self.served.execute.over()).await;
        }
        self.end.send_replace(true);
        let rest = async { while self.serving.join_next().await.is_some() {} };
        if tokio::time::timeout(CUT_OFF_TIME, rest).await.is_err() {
            tracing::debug!("connections that were not closed are cut off");
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.watching.abort();
        self.served.afslets.end();
    }
}

/// Everything behind the listeners.
fn wire(config: &ProxyConfig) -> Result<(Served, AbortHandle)> {
    let dialer = Dialer::new(config.security.clone()).context("read the certificates")?;
    let metrics = Arc::new(Metrics::new(&config.version).context("make the metrics")?);
    let limits = &config.limits;
    let afslets = Arc::new(Afslets::new(
        config.afslets.clone(),
        config.lookup.clone(),
        dialer.clone(),
        limits.clone(),
    ));
    let phase = Phase::new();
    let budget = Budget::new(limits.replay_bytes_max);
    let dispatch = Dispatch::new(
        Arc::clone(&afslets),
        phase.clone(),
        Arc::clone(&metrics),
        limits.clone(),
    );
    let service = Service::new(
        Arc::clone(&afslets),
        discovery(config)?,
        dialer,
        Arc::clone(&metrics),
        limits.clone(),
        guard(&config.security).clients_alone(),
    );
    let watching = tokio::spawn(Arc::clone(&afslets).watch()).abort_handle();
    let served = Served {
        execute: Execute::new(dispatch, budget.clone(), &config.version),
        service,
        afslets,
        metrics,
        phase,
        budget,
    };
    Ok((served, watching))
}

fn discovery(config: &ProxyConfig) -> Result<Option<Client>> {
    if config.discovery.is_empty() {
        return Ok(None);
    }
    let mut client = ClientConfig::new(config.discovery.clone());
    client.tls = match &config.security {
        Security::Mutual(dir) => Some(ClientTls {
            dir: dir.clone(),
            server_name: DISCOVERY.to_owned(),
        }),
        Security::None => None,
    };
    Client::start(client)
        .context("prepare to speak to discovery")
        .map(Some)
}

async fn calls(
    listener: TcpListener,
    security: Security,
    served: Served,
    streams_max: u32,
    end: watch::Receiver<bool>,
) -> Result<()> {
    let guard = guard(&security);
    let router = |server| served.serve_on(guard, streams_max, server);
    match security {
        Security::Mutual(dir) => tls::serve(listener, &dir, router, end).await?,
        Security::None => tls::serve_plain(listener, router, end).await?,
    }
    Ok(())
}

fn guard(security: &Security) -> Guard {
    match security {
        Security::Mutual(_) => Guard::Users,
        Security::None => Guard::Anyone,
    }
}
