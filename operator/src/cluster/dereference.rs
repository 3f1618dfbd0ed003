//! What a `LaminaCluster` names, and the certificates there are.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::LaminaCluster;

use crate::context::Ctx;
use crate::fault::Fault;
use crate::keys::store_urls;
use crate::pki::{Found, SECRETS};

/// What is read before anything is decided.
pub(crate) struct Known {
    pub(crate) stores: Vec<String>,
    pub(crate) certificates: Found,
}

pub(crate) async fn dereference(cluster: &LaminaCluster, ctx: &Ctx) -> Result<Known, Fault> {
    let secrets = Api::<Secret>::namespaced(ctx.client.clone(), &ctx.namespace);
    let stores = match cluster.spec.stores.is_empty() {
        true => Vec::new(),
        false => store_urls(ctx, &cluster.spec.stores).await?,
    };
    let given = cluster.spec.authority_secret.as_ref();
    let given = given.map(|reference| reference.name.clone());
    let mut found = Vec::new();
    for name in SECRETS.iter().copied().chain(given.as_deref()) {
        found.extend(secrets.get_opt(name).await?);
    }
    Ok(Known {
        stores,
        certificates: Found {
            given,
            secrets: found,
        },
    })
}
