//! Server-side apply of a `LaminaCluster`'s objects, owned by it, and removal of those it does not want any more.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use lamina_crds::LaminaCluster;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::build::{discovery, execution};
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
            Some("Service") => one::<Service>(cluster, ctx, object).await?,
            Some("PodDisruptionBudget") => {
                one::<PodDisruptionBudget>(cluster, ctx, object).await?;
            }
            _ => one::<Secret>(cluster, ctx, object).await?,
        }
    }
    Ok(())
}

/// Removes discovery and what runs commands as far as the spec does not want them.
pub(crate) async fn unwanted(cluster: &LaminaCluster, ctx: &Ctx) -> Result<(), Fault> {
    let spec = &cluster.spec.discovery;
    if !spec.enabled {
        gone::<Deployment>(cluster, ctx, discovery::NAME).await?;
        gone::<Service>(cluster, ctx, discovery::NAME).await?;
    }
    if !spec.enabled || spec.replicas < 2 {
        gone::<PodDisruptionBudget>(cluster, ctx, discovery::NAME).await?;
    }
    let spec = &cluster.spec.execution;
    if !spec.enabled {
        gone::<Deployment>(cluster, ctx, execution::PROXY).await?;
        gone::<Service>(cluster, ctx, execution::PROXY).await?;
        gone::<DaemonSet>(cluster, ctx, execution::AFSLET).await?;
        gone::<Service>(cluster, ctx, execution::AFSLET).await?;
    }
    if !spec.enabled || spec.proxy.replicas < 2 {
        gone::<PodDisruptionBudget>(cluster, ctx, execution::PROXY).await?;
    }
    Ok(())
}

/// Only what the `LaminaCluster` owns.
async fn gone<K>(cluster: &LaminaCluster, ctx: &Ctx, name: &str) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api = Api::<K>::namespaced(ctx.client.clone(), &ctx.namespace);
    let Some(found) = api.get_opt(name).await? else {
        return Ok(());
    };
    let mut owners = found.owner_references().iter();
    if owners.any(|owner| Some(&owner.uid) == cluster.metadata.uid.as_ref()) {
        tracing::info!(kind = %K::kind(&()), name, "not wanted any more");
        match api.delete(name, &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
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
        .map_err(|error| match Fault::from(error) {
            conflict if conflict.is_work() => conflict,
            fault => Fault::new(
                "ApplyFailed",
                format!("could not apply {} {name}: {fault}", K::kind(&())),
            ),
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::FakeApi;

    const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/lamina-system/deployments/lamina-discovery";
    const SERVICE: &str = "/api/v1/namespaces/lamina-system/services/lamina-discovery";
    const BUDGET: &str =
        "/apis/policy/v1/namespaces/lamina-system/poddisruptionbudgets/lamina-discovery";

    fn cluster(discovery: &Value) -> LaminaCluster {
        let spec = json!({ "image": "lamina:1", "discovery": discovery });
        let mut cluster = LaminaCluster::new("default", serde_json::from_value(spec).unwrap());
        cluster.metadata.uid = Some("u1".to_owned());
        cluster
    }

    fn api(owner: &str) -> FakeApi {
        let api = FakeApi::default();
        let reference = json!([{ "apiVersion": "lamina.dev/v1alpha1", "kind": "LaminaCluster", "name": "default", "uid": owner }]);
        for path in [DEPLOYMENT, SERVICE, BUDGET] {
            let metadata = json!({ "name": "lamina-discovery", "ownerReferences": reference });
            api.answer(path, json!({ "metadata": metadata }));
        }
        api
    }

    #[tokio::test]
    async fn discovery_goes_when_it_is_not_wanted_any_more() {
        for (spec, gone) in [
            (json!({}), vec![]),
            (json!({ "replicas": 1 }), vec![BUDGET]),
            (
                json!({ "enabled": false }),
                vec![DEPLOYMENT, SERVICE, BUDGET],
            ),
        ] {
            let api = api("u1");
            unwanted(&cluster(&spec), &api.ctx()).await.unwrap();
            let gone: Vec<String> = gone.iter().map(|path| format!("DELETE {path}")).collect();
            assert_eq!(api.writes(), gone, "{spec}");
        }
    }

    #[tokio::test]
    async fn what_somebody_else_made_stays() {
        let api = api("u2");
        let off = cluster(&json!({ "enabled": false }));
        unwanted(&off, &api.ctx()).await.unwrap();
        assert_eq!(api.writes(), [""; 0]);
    }
}
