//! `node`: serving a Kubernetes node.

use super::stores;
use crate::args::{self, StoreAccess};
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_nodeagent::node::{
    self, CERTIFICATE_DIR, CertificatesFrom, Listen, Membership, NodeConfig,
};
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The service's socket in the run directory.
const SOCKET: &str = "node.sock";
/// The store of a node that was given none, in its state directory.
const OWN_STORE: &str = "store";

pub(crate) fn node(args: args::Node) -> Result<()> {
    let certificates = certificates(&args);
    let made = certificates
        .is_some()
        .then(|| args.state.join(CERTIFICATE_DIR));
    let args = args::Node {
        tls_dir: args.tls_dir.or(made),
        ..args
    };
    let cluster = cluster(&args)?;
    let listen = listen(&args)?;
    let stores = match args.stores.is_empty() {
        true => vec![format!("dir://{}", args.state.join(OWN_STORE).display())],
        false => args
            .stores
            .iter()
            .map(|store| stores::absolute(store))
            .collect::<Result<_>>()?,
    };
    let access = StoreAccess { credentials: None };
    let config = NodeConfig {
        cache: args.cache.unwrap_or_else(|| args.state.join("cache")),
        socket: args.run_dir.join(SOCKET),
        run_dir: args.run_dir,
        state: args.state,
        kubelet_dir: args.kubelet_dir,
        stores,
        store_env: stores::env(&access)?,
        insecure_registries: args.insecure_registries,
        cache_bytes_max: args.cache_size,
        node: args.name.map_or_else(own_name, Ok)?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        outside_pod: args.outside_pod,
        listen,
        certificates,
        cluster,
        http: args.http,
    };
    node::run(config).context("serve this node")
}

/// How the node gets a certificate, if somebody is to be asked.
fn certificates(args: &args::Node) -> Option<CertificatesFrom> {
    Some(CertificatesFrom {
        address: args.certificates_from.clone()?,
        token: args.token_file.clone()?,
        ca: args.ca_file.clone()?,
    })
}

fn listen(args: &args::Node) -> Result<Option<Listen>> {
    match (args.listen, &args.tls_dir) {
        (Some(at), Some(dir)) => Ok(Some(Listen::Mutual(at, dir.clone()))),
        (Some(at), None) if args.insecure => Ok(Some(Listen::Plain(at))),
        (None, _) => Ok(None),
        (Some(_), None) => bail!(exit::Usage(
            "--listen needs --tls-dir or --certificates-from: nobody is served over TCP without a certificate, \
             unless --insecure says so for a cluster's layers"
                .into()
        )),
    }
}

/// The cluster that --discovery names.
fn cluster(args: &args::Node) -> Result<Option<Membership>> {
    let Some(endpoint) = args.endpoint.as_deref().map(bracketed) else {
        return Ok(None);
    };
    if args.listen.is_none() {
        bail!(exit::Usage(
            "--discovery needs --listen: other nodes read this one's layers there".into()
        ));
    }
    if let Err(why) = lamina_discovery::node_id::check_endpoint(&endpoint) {
        bail!(exit::Usage(format!("--endpoint {endpoint}: {why}")));
    }
    if args.tls_dir.is_none() && !args.insecure {
        bail!(exit::Usage(
            "--discovery needs --tls-dir or --certificates-from, or --insecure to believe whoever answers".into()
        ));
    }
    Ok(Some(Membership {
        discovery: args.discovery.clone(),
        endpoint,
        tls_dir: args.tls_dir.clone(),
        layers_bytes_max: args.layers_size,
    }))
}

/// An IPv6 address and a port as everybody writes them: a pod's spec can only put `:7150` behind an address.
fn bracketed(endpoint: &str) -> String {
    match endpoint.rsplit_once(':') {
        Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
        _ => endpoint.to_owned(),
    }
}

/// The machine's name, where nobody says the node's.
pub(super) fn own_name() -> Result<String> {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(&path).context("read the machine's name")?;
    Ok(name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_be_an_address_with_a_port_behind_it() {
        for (given, meant) in [
            ("10.0.0.1:7150", "10.0.0.1:7150"),
            ("fd00::1:7150", "[fd00::1]:7150"),
            ("[fd00::1]:7150", "[fd00::1]:7150"),
            ("node-a:7150", "node-a:7150"),
        ] {
            assert_eq!(bracketed(given), meant);
            lamina_discovery::node_id::check_endpoint(meant).unwrap();
        }
    }
}
