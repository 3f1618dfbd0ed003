//! A proxy in this process, and waiting for things.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use anyhow::Result;
use lamina_proxy::{Limits, Lookup, Proxy, ProxyConfig, Security};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::fake::Fake;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// A proxy that is served; it ends when dropped.
pub(crate) struct Bench {
    pub(crate) at: SocketAddr,
    pub(crate) http: SocketAddr,
    stop: watch::Sender<bool>,
    pub(crate) serving: JoinHandle<Result<()>>,
}

/// How a test wants it.
pub(crate) fn config(afslets: &[&Fake]) -> ProxyConfig {
    let afslets = afslets.iter().map(|fake| fake.at.to_string());
    ProxyConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        // Free when asked.
        http: TcpListener::bind("127.0.0.1:0").unwrap().local_addr().ok(),
        afslets: afslets.collect(),
        discovery: Vec::new(),
        security: Security::None,
        drain_timeout: Duration::from_secs(30),
        limits: Limits {
            poll_every: Duration::from_millis(50),
            lookup_every: Duration::from_millis(50),
            ..Limits::default()
        },
        lookup: Lookup::system(),
        version: "test".into(),
    }
}

impl Bench {
    pub(crate) fn before(afslets: &[&Fake]) -> Self {
        Self::start(config(afslets))
    }

    pub(crate) fn start(config: ProxyConfig) -> Self {
        let http = config.http.unwrap();
        let proxy = Proxy::start(config).unwrap();
        let at = proxy.at();
        let (stop, stops) = watch::channel(false);
        let serving = tokio::spawn(proxy.serve(stops));
        Self {
            at,
            http,
            stop,
            serving,
        }
    }

    /// As SIGTERM does.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something that ends.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(DEADLINE, work).await;
    done.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
