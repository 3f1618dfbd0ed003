//! Deletes what the operator made: workloads first, and when their pods are gone what they used.

use std::fmt::Debug;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt};
use lamina_crds::{CLUSTER_NAME, LaminaCluster};
use serde::de::DeserializeOwned;

use crate::cluster::build::{STORES_SECRET, discovery, execution};
use crate::context::Ctx;
use crate::pki::SECRETS;

/// Pods that pack claims, in the namespaces of their `Flist`s, and that of `helm test`, which helm leaves.
const ODD_PODS: &str = "app.kubernetes.io/name=lamina,app.kubernetes.io/component in (pack,test)";

/// Deletes what runs commands, whose images are volumes of nodes.
pub(super) async fn execution(ctx: &Ctx) -> Result<()> {
    own::<Deployment>(ctx, execution::PROXY).await?;
    own::<DaemonSet>(ctx, execution::AFSLET).await
}

/// Deletes the `LaminaCluster` and every other workload made for it.
pub(super) async fn workloads(ctx: &Ctx) -> Result<()> {
    delete(&Api::<LaminaCluster>::all(ctx.client.clone()), CLUSTER_NAME).await?;
    own::<Service>(ctx, execution::PROXY).await?;
    own::<PodDisruptionBudget>(ctx, execution::PROXY).await?;
    own::<Service>(ctx, execution::AFSLET).await?;
    own::<DaemonSet>(ctx, "lamina-csi").await?;
    own::<DaemonSet>(ctx, "lamina-node").await?;
    own::<Deployment>(ctx, "lamina-controller").await?;
    own::<Deployment>(ctx, discovery::NAME).await?;
    own::<Service>(ctx, discovery::NAME).await?;
    own::<PodDisruptionBudget>(ctx, discovery::NAME).await?;
    let odd = Api::<Pod>::all(ctx.client.clone())
        .list(&ListParams::default().labels(ODD_PODS))
        .await
        .context("list the pods that pack and test")?;
    for pod in odd {
        let namespace = pod.namespace().unwrap_or_default();
        let api = Api::<Pod>::namespaced(ctx.client.clone(), &namespace);
        delete(&api, &pod.name_any()).await?;
    }
    Ok(())
}

/// Deletes certificates, stores' URLs and leases: who used them is gone, and would have made leases again.
pub(super) async fn leftovers(ctx: &Ctx) -> Result<()> {
    for name in SECRETS.into_iter().chain([STORES_SECRET]) {
        own::<Secret>(ctx, name).await?;
    }
    for name in ["lamina-operator", "lamina-provisioner"] {
        own::<Lease>(ctx, name).await?;
    }
    Ok(())
}

async fn own<K>(ctx: &Ctx, name: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    delete(
        &Api::<K>::namespaced(ctx.client.clone(), &ctx.namespace),
        name,
    )
    .await
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let kind = K::kind(&());
    match api.delete(name, &DeleteParams::background()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        result => {
            result.with_context(|| format!("delete {kind} {name}"))?;
            tracing::info!("{kind} {name} deleted");
        }
    }
    Ok(())
}
