//! `proxy`: finding a place for every run.

use crate::args::proxy::Proxy;
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_proxy::{Limits, Lookup, ProxyConfig, Security};

pub(crate) fn proxy(args: Proxy) -> Result<()> {
    let security = match args.tls_dir {
        Some(dir) => Security::Mutual(dir),
        None if args.insecure || args.listen.ip().is_loopback() => Security::None,
        None => bail!(exit::Usage(format!(
            "--listen {}: give --tls-dir, or --insecure to have commands run for anybody who reaches it",
            args.listen
        ))),
    };
    for address in args.afslets.iter().chain(&args.discovery) {
        if let Err(why) = lamina_discovery::node_id::check_endpoint(address) {
            bail!(exit::Usage(format!("{address}: {why}; give HOST:PORT")));
        }
    }
    lamina_proxy::run(ProxyConfig {
        listen: args.listen,
        http: Some(args.http),
        afslets: args.afslets,
        discovery: args.discovery,
        security,
        drain_timeout: args.drain_timeout,
        limits: Limits::default(),
        lookup: Lookup::system(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
    .context("serve as a proxy")
}
