//! Calling a proxy: the connection, and what its refusals mean.

use crate::args::proxy::Reach;
use crate::cmd::up;
use crate::exit;
use crate::kube::{Fault, Kind, kind_of, message_of};
use anyhow::{Context, Result};
use lamina_discovery::reason;
use lamina_discovery::tls::Certificates;
use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// Name in the certificates of proxies.
const PROXY: &str = "proxy.lamina.internal";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent connection is asked whether it lives: a black hole is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Where `lamina up` has its proxy, unless it says otherwise.
const OWN: &str = "127.0.0.1:7180";

/// A proxy that can be called.
pub(super) struct Proxy {
    channel: Channel,
    address: String,
    is_tls: bool,
}

impl Proxy {
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Why a call got no answer. One who wants TLS ends a connection that is none, and cannot say why.
    pub(super) fn unanswered(&self, status: &Status) -> Fault {
        let fault = refused(status);
        match is_broken(status) && !self.is_tls {
            false => fault,
            true => Fault::unavailable(format!(
                "the proxy at {} broke off: {}; if it wants TLS, give --tls-dir (LAMINA_TLS_DIR)",
                self.address,
                reason(status)
            )),
        }
    }
}

/// Connects now, so that nothing else is done in vain.
pub(super) async fn connect(reach: &Reach) -> Result<Proxy> {
    let (address, tls_dir) = match &reach.proxy {
        Some(address) => (address.clone(), reach.tls_dir.clone()),
        None => (own()?, reach.tls_dir.clone().or(own_certificate()?)),
    };
    let scheme = if tls_dir.is_some() { "https" } else { "http" };
    let named = || exit::Usage(format!("--proxy {address}: give HOST:PORT"));
    lamina_discovery::node_id::check_endpoint(&address)
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
    let channel = connected.map_err(|error| {
        let why = message_of(&error);
        let hint = hint(&why, reach);
        Fault::unavailable(format!("connect to the proxy at {address}: {why}{hint}"))
    })?;
    Ok(Proxy {
        channel,
        address,
        is_tls: tls_dir.is_some(),
    })
}

/// What to do about a connection that cannot be made.
fn hint(why: &str, reach: &Reach) -> &'static str {
    match (why.contains(NO_TLS), &reach.proxy) {
        (true, _) => "; it speaks no TLS: leave --tls-dir (LAMINA_TLS_DIR) away, if that is right",
        (false, None) => "; start `lamina up`, or name a proxy by --proxy (LAMINA_PROXY)",
        (false, Some(_)) => "",
    }
}

/// What rustls says of an answer that is none of TLS.
const NO_TLS: &str = "InvalidContentType";

/// Where `lamina up` says that its proxy is.
fn own() -> Result<String> {
    let file = crate::daemon::state_dir()?.join(up::PROXY_FILE);
    match std::fs::read_to_string(&file) {
        Ok(address) => Ok(address.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(OWN.to_owned()),
        Err(error) => {
            let why = format!("read where the proxy of `lamina up` is, {}", file.display());
            Err(error).context(why)
        }
    }
}

/// What `lamina up` keeps for those who have commands run, if it ran here.
fn own_certificate() -> Result<Option<PathBuf>> {
    let dir = crate::daemon::state_dir()?
        .join(up::AUTHORITY)
        .join(up::authority::USER);
    Ok(dir.join("ca.crt").exists().then_some(dir))
}

/// Whether the connection is what failed: then nobody said this status.
fn is_broken(status: &Status) -> bool {
    status.source().is_some()
}

/// What the proxy's refusal means.
pub(super) fn refused(status: &Status) -> Fault {
    if is_broken(status) {
        let why = reason(status);
        return Fault::unavailable(format!("the connection to the proxy broke: {why}"));
    }
    let kind = kind_of(status.code());
    let said = match (kind, status.message()) {
        (Kind::Other, said) => format!("{:?}: {said}", status.code()),
        (_, said) => said.to_owned(),
    };
    Fault::new(kind, said)
}
