//! Pull secrets of a namespace as one docker `config.json`.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use lamina_crds::LocalName;
use lamina_crds::pull_secrets::{KEY, merged};

use crate::context::Ctx;
use crate::fault::Fault;

/// The merged configuration; empty without secrets.
pub(crate) async fn docker_config(
    ctx: &Ctx,
    namespace: &str,
    names: &[LocalName],
) -> Result<Vec<u8>, Fault> {
    let api = Api::<Secret>::namespaced(ctx.client.clone(), namespace);
    let mut configs = Vec::with_capacity(names.len());
    for LocalName { name } in names {
        let secret = api.get_opt(name).await?.ok_or_else(|| {
            Fault::new(
                "NoSuchSecret",
                format!("there is no Secret {name} in namespace {namespace}"),
            )
        })?;
        let data = secret.data.unwrap_or_default();
        let bytes = data.get(KEY).ok_or_else(|| {
            Fault::new(
                "BadSecret",
                format!("Secret {name} is not a pull secret: it has no key {KEY}"),
            )
        })?;
        configs.push((name.clone(), bytes.0.clone()));
    }
    merged(&configs).map_err(|bad| Fault::new("BadSecret", bad.to_string()))
}
