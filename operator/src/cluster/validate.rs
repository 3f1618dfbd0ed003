//! A `LaminaCluster`'s spec as values that cannot be wrong.

use lamina_crds::{LaminaCluster, LaminaClusterSpec};

use crate::fault::Fault;
use crate::quantity;

/// Everything the workloads are built from.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// Lamina's namespace.
    pub namespace: String,
    /// The spec.
    pub spec: LaminaClusterSpec,
    /// Store URLs with credentials, in order.
    pub stores: Vec<String>,
    /// Most bytes of a node's cache.
    pub cache_bytes_max: Option<u64>,
}

pub(crate) fn validate(
    cluster: &LaminaCluster,
    namespace: &str,
    stores: Vec<String>,
) -> Result<Inputs, Fault> {
    let given = cluster.spec.node.cache_bytes_max.as_deref();
    let cache_bytes_max = given
        .map(|text| {
            quantity::bytes(text).ok_or_else(|| {
                Fault::new(
                    "InvalidSpec",
                    format!("node.cacheBytesMax: {text} is not an amount of bytes"),
                )
            })
        })
        .transpose()?;
    Ok(Inputs {
        namespace: namespace.to_owned(),
        spec: cluster.spec.clone(),
        stores,
        cache_bytes_max,
    })
}
