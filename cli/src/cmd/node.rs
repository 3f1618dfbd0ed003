//! `node`: serving a Kubernetes node.

use super::stores;
use crate::args::{self, StoreAccess};
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_nodeagent::node::{self, CERTIFICATE_DIR, CertificatesFrom, NodeConfig};
use std::path::PathBuf;

/// The service's socket in the run directory.
const SOCKET: &str = "node.sock";
/// The store of a node that was given none, in its state directory.
const OWN_STORE: &str = "store";

pub(crate) fn node(args: args::Node) -> Result<()> {
    let certificates = match (args.certificates_from, args.token_file, args.ca_file) {
        (Some(address), Some(token), Some(ca)) => Some(CertificatesFrom { address, token, ca }),
        _ => None,
    };
    let made = certificates
        .is_some()
        .then(|| args.state.join(CERTIFICATE_DIR));
    let tls = match (args.listen, args.tls_dir.or(made)) {
        (Some(at), Some(dir)) => Some((at, dir)),
        (None, _) => None,
        (Some(_), None) => bail!(exit::Usage(
            "--listen needs --tls-dir or --certificates-from: nobody is served over TCP without a certificate".into()
        )),
    };
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
        tls,
        certificates,
        http: args.http,
    };
    node::run(config).context("serve this node")
}

/// The machine's name, where nobody says the node's.
fn own_name() -> Result<String> {
    let path = PathBuf::from("/proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(&path).context("read the machine's name")?;
    Ok(name.trim().to_owned())
}
