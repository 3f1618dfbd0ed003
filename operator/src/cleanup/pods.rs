//! Waiting for pods to be gone.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Deadline, PAUSE};
use crate::context::Ctx;

/// Of those that run commands.
pub(super) const RUNNING: [&str; 2] = ["afslet", "proxy"];
/// Components of the other workloads that the operator makes.
pub(super) const MADE: [&str; 4] = ["node", "csi", "controller", "discovery"];

/// Waits until no pod of these components runs.
pub(super) async fn gone(ctx: &Ctx, components: &[&str], deadline: Deadline) -> Result<()> {
    let mut told = usize::MAX;
    loop {
        let there = running(ctx, components).await?;
        if there.is_empty() {
            return Ok(());
        }
        let names = there.join(", ");
        if deadline.left() < PAUSE {
            bail!("pods are still there in {}: {names}", ctx.namespace);
        }
        if there.len() < told {
            tracing::info!("waiting for {} pods: {names}", there.len());
            told = there.len();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn running(ctx: &Ctx, components: &[&str]) -> Result<Vec<String>> {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &ctx.namespace);
    let mut names = Vec::new();
    for component in components {
        let labels =
            format!("app.kubernetes.io/name=lamina,app.kubernetes.io/component={component}");
        let all = api.list(&ListParams::default().labels(&labels)).await?;
        names.extend(
            all.iter()
                .filter(|pod| !over(pod))
                .map(ResourceExt::name_any),
        );
    }
    Ok(names)
}

/// What ended stays as a record, of an eviction for example.
fn over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
