//! What a `LaminaCluster` names, and the certificates there are.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::LaminaCluster;

use crate::context::Ctx;
use crate::fault::Fault;
use crate::keys::store_urls;
use crate::pki::{CA_SECRET, CLIENT_SECRET, Found, NODE_SECRET};

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
    Ok(Known {
        stores,
        certificates: Found {
            ca: secrets.get_opt(CA_SECRET).await?,
            node: secrets.get_opt(NODE_SECRET).await?,
            client: secrets.get_opt(CLIENT_SECRET).await?,
        },
    })
}
