//! Calling a proxy: the connection, and what its refusals mean.

use crate::args::proxy::Reach;
use crate::cmd::up;
use crate::exit;
use crate::kube::{Fault, Kind, kind_of, message_of};
use anyhow::{Context, Result};
use lamina_discovery::tls::Certificates;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Name in the certificates of proxies.
const PROXY: &str = "proxy.lamina.internal";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is asked whether it lives: a black hole is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Where `lamina up` has its proxy.
const OWN: &str = "127.0.0.1:7180";

/// Connects now, so that nothing else is done in vain.
pub(super) async fn connect(reach: &Reach) -> Result<Channel> {
    let (address, tls_dir) = match &reach.proxy {
        Some(address) => (address.as_str(), reach.tls_dir.clone()),
        None => (OWN, reach.tls_dir.clone().or(own_certificate()?)),
    };
    let scheme = if tls_dir.is_some() { "https" } else { "http" };
    let named = || exit::Usage(format!("--proxy {address}: give HOST:PORT"));
    lamina_discovery::node_id::check_endpoint(address)
        .map_err(|why| exit::Usage(format!("--proxy {address}: {why}; give HOST:PORT")))?;
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .with_context(named)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .tcp_nodelay(true);
    if let Some(dir) = &tls_dir {
        let own = Certificates::read(dir).context("read our certificate")?;
        let tls = own.client(PROXY);
        endpoint = endpoint
            .tls_config(tls)
            .with_context(|| format!("use the certificate in {}", dir.display()))?;
    }
    let connected = endpoint.connect().await;
    connected.map_err(|error| {
        let why = message_of(&error);
        Fault::unavailable(format!("connect to the proxy at {address}: {why}")).into()
    })
}

/// What `lamina up` keeps for those who have commands run, if it ran here.
fn own_certificate() -> Result<Option<PathBuf>> {
    let dir = crate::daemon::state_dir()?
        .join(up::AUTHORITY)
        .join(up::authority::USER);
    Ok(dir.join("ca.crt").exists().then_some(dir))
}

/// What the proxy's refusal means.
pub(super) fn refused(status: &Status) -> Fault {
    let kind = kind_of(status.code());
    let said = match (kind, status.message()) {
        (Kind::Other, said) => format!("{:?}: {said}", status.code()),
        (_, said) => said.to_owned(),
    };
    Fault::new(kind, said)
}
