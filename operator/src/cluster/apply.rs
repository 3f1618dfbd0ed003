//! Server-side apply of a `LaminaCluster`'s objects, owned by it.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use lamina_crds::LaminaCluster;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::MANAGER;
use crate::context::Ctx;
use crate::fault::Fault;

/// Applies every object.
pub(crate) async fn objects(
    cluster: &LaminaCluster,
    ctx: &Ctx,
    objects: Vec<Value>,
) -> Result<(), Fault> {
    for object in objects {
        match object["kind"].as_str() {
            Some("DaemonSet") => one::<DaemonSet>(cluster, ctx, object).await?,
            Some("Deployment") => one::<Deployment>(cluster, ctx, object).await?,
            _ => one::<Secret>(cluster, ctx, object).await?,
        }
    }
    Ok(())
}

/// Applies certificates.
pub(crate) async fn secrets(
    cluster: &LaminaCluster,
    ctx: &Ctx,
    secrets: Vec<Secret>,
) -> Result<(), Fault> {
    for secret in secrets {
        tracing::info!(secret = secret.name_any(), "new certificate");
        let object = json!(secret);
        one::<Secret>(cluster, ctx, object).await?;
    }
    Ok(())
}

async fn one<K>(cluster: &LaminaCluster, ctx: &Ctx, mut object: Value) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    object["metadata"]["ownerReferences"] = json!([cluster.controller_owner_ref(&())]);
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let api = Api::<K>::namespaced(ctx.client.clone(), &ctx.namespace);
    let params = PatchParams::apply(MANAGER).force();
    api.patch(&name, &params, &Patch::Apply(&object))
        .await
        .map_err(|error| {
            Fault::new(
                "ApplyFailed",
                format!("could not apply {} {name}: {error}", K::kind(&())),
            )
        })?;
    Ok(())
}
