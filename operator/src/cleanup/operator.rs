//! The operator itself, stopped for the cleanup: it would make workloads and finalizers again.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{Deadline, SLACK, pods};
use crate::context::Ctx;

/// The chart's name of it.
const DEPLOYMENT: &str = "lamina-operator";

/// How many there shall be; none where there is no operator.
pub(super) async fn replicas(ctx: &Ctx) -> Result<Option<i32>> {
    let found = api(ctx).get_opt(DEPLOYMENT).await?;
    Ok(found.map(|deployment| deployment.spec.replicas.unwrap_or(1)))
}

/// Ends it, and waits until it has.
pub(super) async fn stop(ctx: &Ctx, deadline: Deadline) -> Result<()> {
    match scale(ctx, 0).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        result => result?,
    }
    pods::gone(ctx, &["operator"], deadline).await
}

/// Lets as many as there were go on: Lamina stays for now.
pub(super) async fn go_on(ctx: &Ctx, replicas: Option<i32>) {
    let Some(replicas) = replicas else { return };
    tracing::info!("nothing was removed: the operator goes on");
    let scaled = tokio::time::timeout(SLACK, scale(ctx, replicas))
        .await
        .context("no answer in time")
        .and_then(|scaled| Ok(scaled?));
    if let Err(error) = scaled {
        tracing::warn!(
            "could not start the operator again: {error:#}; \
             do it by kubectl -n {} scale deployment {DEPLOYMENT} --replicas={replicas}",
            ctx.namespace
        );
    }
}

async fn scale(ctx: &Ctx, replicas: i32) -> Result<(), kube::Error> {
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    let params = PatchParams::default();
    api(ctx).patch(DEPLOYMENT, &params, &patch).await.map(drop)
}

fn api(ctx: &Ctx) -> Api<Deployment> {
    Api::namespaced(ctx.client.clone(), &ctx.namespace)
}
