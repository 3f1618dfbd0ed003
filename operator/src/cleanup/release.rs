//! Takes our finalizer off objects that stay: deleted later, they must not wait for an operator.

use std::fmt::Debug;

use anyhow::{Context as _, Result};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use lamina_crds::FINALIZER;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Takes it off every object of a kind; none where the kind is not defined.
pub(super) async fn all<K>(client: &Client) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let kind = K::kind(&());
    let listed = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await;
    let objects = match listed {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
        listed => listed.with_context(|| format!("list objects of kind {kind}"))?,
    };
    let mut count = 0;
    for object in objects.iter().filter(|object| held(*object)) {
        let namespace = object.namespace().unwrap_or_default();
        let api = Api::<K>::namespaced(client.clone(), &namespace);
        one(&api, &object.name_any())
            .await
            .with_context(|| format!("let go of {kind} {namespace}/{}", object.name_any()))?;
        count += 1;
    }
    if count > 0 {
        tracing::info!("{count} objects of kind {kind} let go; they stay");
    }
    Ok(())
}

fn held<K: Resource>(object: &K) -> bool {
    object.finalizers().iter().any(|name| name == FINALIZER)
}

/// Others change finalizers, too: what is written must follow from what was read.
async fn one<K>(api: &Api<K>, name: &str) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    loop {
        let Some(object) = api.get_opt(name).await? else {
            return Ok(());
        };
        let kept: Vec<&String> = object
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .collect();
        let patch = json!({ "metadata": {
            "finalizers": kept,
            "resourceVersion": object.resource_version(),
        }});
        match api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            // Changed meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            result => return result.map(drop),
        }
    }
}
