//! `discovery`: being a replica of the cluster's memory of nodes.

use crate::args;
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_discovery::resolve::{RegistryUpstream, ResolveConfig};
use lamina_discovery::{DiscoveryConfig, Limits, Security};
use lamina_image::registry::{CredentialSource, Credentials};
use std::time::Duration;

/// Nodes send three heartbeats in it, at most one a second.
const TTL_MIN: Duration = Duration::from_secs(3);

pub(crate) fn discovery(args: args::Discovery) -> Result<()> {
    if args.ttl < TTL_MIN {
        bail!(exit::Usage(format!(
            "--ttl {:?} is too short: nodes send a heartbeat a second at most, so give 3s or more",
            args.ttl
        )));
    }
    let security = match (args.tls_dir, args.insecure) {
        (Some(dir), _) => Security::Mutual(dir),
        (None, true) => Security::None,
        (None, false) => bail!(exit::Usage(
            "give --tls-dir, or --insecure to serve anybody: then every caller may report as any node".into()
        )),
    };
    let credentials = match args.registry_config {
        Some(file) => CredentialSource::File(file),
        // What discovery may see every caller sees.
        None => CredentialSource::Explicit(Credentials::Anonymous),
    };
    let config = DiscoveryConfig {
        listen: args.listen,
        security,
        http: args.http,
        limits: Limits::with_ttl(args.ttl),
        resolve: ResolveConfig {
            ttl: args.resolve_ttl,
            ..ResolveConfig::default()
        },
        upstream: RegistryUpstream {
            credentials,
            insecure: args.insecure_registries,
            limits: lamina_image::Limits::default(),
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    lamina_discovery::run(config).context("serve discovery")
}
