//! A `LaminaCluster`'s spec as values that cannot be wrong.

use lamina_crds::{LaminaCluster, LaminaClusterSpec};

use crate::fault::Fault;
use crate::quantity;

const MEBIBYTE: u64 = 1 << 20;

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
    /// Most bytes of a node's layers.
    pub layers_bytes_max: Option<u64>,
    /// Mebibytes of a node for commands.
    pub run_memory_mb: Option<u64>,
}

pub(crate) fn validate(
    cluster: &LaminaCluster,
    namespace: &str,
    stores: Vec<String>,
) -> Result<Inputs, Fault> {
    let node = &cluster.spec.node;
    let cache_bytes_max = bytes("node.cacheBytesMax", node.cache_bytes_max.as_deref())?;
    let layers_bytes_max = bytes("node.layersBytesMax", node.layers_bytes_max.as_deref())?;
    let memory = &cluster.spec.execution.afslet.memory;
    let run_memory_mb = match bytes("execution.afslet.memory", memory.as_deref())? {
        Some(bytes) if bytes < MEBIBYTE => {
            let message = "execution.afslet.memory: give 1Mi or more";
            return Err(Fault::new("InvalidSpec", message));
        }
        given => given.map(|bytes| bytes / MEBIBYTE),
    };
    Ok(Inputs {
        namespace: namespace.to_owned(),
        spec: cluster.spec.clone(),
        stores,
        cache_bytes_max,
        layers_bytes_max,
        run_memory_mb,
    })
}

fn bytes(field: &str, given: Option<&str>) -> Result<Option<u64>, Fault> {
    let Some(text) = given else {
        return Ok(None);
    };
    let bytes = quantity::bytes(text).ok_or_else(|| {
        let message = format!("{field}: {text} is not an amount of bytes");
        Fault::new("InvalidSpec", message)
    })?;
    Ok(Some(bytes))
}
