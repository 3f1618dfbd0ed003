//! `cleanup`: the chart's pre-delete hook. Nodes end what runs outside of pods, workloads go, and no object
//! is left waiting for an operator that is gone.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use lamina_crds::{CLUSTER_NAME, FINALIZER, Flist, Image, LaminaCluster};
use lamina_proto::lamina::v1::LeaveRequest;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::Ctx;
use crate::fault::from_status;
use crate::metrics::Metrics;
use crate::nodes::{self, Dial, Place};

/// How long one node may take.
const CALL: Duration = Duration::from_secs(60);

/// Takes Lamina off the nodes.
///
/// # Errors
/// Names the nodes that could not be left (they have volumes mounted, say); nothing is removed then.
pub async fn run(namespace: &str, timeout: Duration) -> Result<()> {
    let client = Client::try_default().await.context("find the API server")?;
    let work = clean(client, namespace);
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => bail!("not done after {} s", timeout.as_secs()),
    }
}

async fn clean(client: Client, namespace: &str) -> Result<()> {
    let metrics = Metrics::new().context("register metrics")?;
    let ctx = Ctx::new(
        client,
        namespace.to_owned(),
        "cleanup".to_owned(),
        Dial::Mutual,
        metrics,
    );
    let places = nodes::ready(&ctx).await.context("list the node servers")?;
    let left = futures::future::join_all(places.iter().map(|place| leave(&ctx, place))).await;
    let refused: Vec<String> = left.into_iter().filter_map(Result::err).collect();
    if !refused.is_empty() {
        bail!("some nodes cannot be left: {}", refused.join("; "));
    }
    let clusters = Api::<LaminaCluster>::all(ctx.client.clone());
    match clusters
        .delete(CLUSTER_NAME, &DeleteParams::foreground())
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        result => drop(result.context("delete the LaminaCluster")?),
    }
    release::<Image>(&ctx.client).await?;
    release::<Flist>(&ctx.client).await
}

async fn leave(ctx: &Ctx, place: &Place) -> Result<(), String> {
    let text = |fault: crate::fault::Fault| fault.to_string();
    let channel = ctx
        .dial
        .channel(&ctx.client, &ctx.namespace, place)
        .await
        .map_err(text)?;
    let mut node = NodeCareClient::new(channel);
    let answer = tokio::time::timeout(CALL, node.leave(LeaveRequest { force: false }))
        .await
        .map_err(|_| format!("node {} did not answer in time", place.name))?;
    match answer {
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            tracing::warn!(
                node = place.name,
                "this version cannot be taken off: its files stay"
            );
        }
        Err(status) => return Err(text(from_status(&place.name, "take Lamina off", &status))),
        Ok(_) => {}
    }
    Ok(())
}

/// Takes our finalizer off every object of a kind.
async fn release<K>(client: &Client) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    let objects = Api::<K>::all(client.clone())
        .list(&ListParams::default())
        .await;
    for object in objects.context("list objects")? {
        let kept: Vec<&String> = object
            .finalizers()
            .iter()
            .filter(|name| *name != FINALIZER)
            .collect();
        let patch = json!({ "metadata": { "finalizers": kept } });
        let api = Api::<K>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        api.patch(
            &object.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
        .with_context(|| format!("let go of {} {}", K::kind(&()), object.name_any()))?;
    }
    Ok(())
}
