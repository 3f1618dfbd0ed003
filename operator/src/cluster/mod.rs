//! `LaminaCluster`: the workloads on nodes, the provisioner, and the internal certificates.

mod apply;
pub mod build;
mod dereference;
mod readiness;
mod taint;
#[cfg(test)]
pub(crate) mod testing;
mod validate;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use lamina_crds::{LaminaCluster, LaminaClusterStatus};

use crate::VERSION;
use crate::context::Ctx;
use crate::events::say;
use crate::fault::Fault;
use crate::status::{self, Conditions};

/// How often certificates are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// How often it is looked at while something is not ready.
const NOT_READY: Duration = Duration::from_secs(5);

/// One reconciliation: when to look again, or why it is not ready.
pub(crate) async fn step(cluster: &LaminaCluster, ctx: &Ctx) -> Result<Duration, Fault> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(LOOK_AGAIN);
    }
    let old = cluster.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let result = advance(cluster, ctx, &mut new).await;
    conclude(cluster, &mut new, result.as_ref().err());
    if new != old {
        let api = Api::<LaminaCluster>::all(ctx.client.clone());
        status::write(&api, &cluster.name_any(), &new).await?;
    }
    if let Err(fault) = &result
        && lamina_crds::conditions::find(&old.conditions, "Applied")
            .is_none_or(|old| old.reason != fault.reason)
    {
        say(
            &ctx.recorder,
            cluster,
            EventType::Warning,
            fault.reason,
            &fault.message,
        )
        .await;
    }
    let waits = result?;
    let is_ready = lamina_crds::conditions::holds(&new.conditions, "Ready");
    Ok(match is_ready && !waits {
        true => LOOK_AGAIN,
        false => NOT_READY,
    })
}

/// Whether something is to be waited for that the status does not tell.
async fn advance(
    cluster: &LaminaCluster,
    ctx: &Ctx,
    status: &mut LaminaClusterStatus,
) -> Result<bool, Fault> {
    let known = dereference::dereference(cluster, ctx).await?;
    let inputs = validate::validate(cluster, &ctx.namespace, known.stores)?;
    let secrets = crate::pki::renewed(&known.certificates, Timestamp::now())
        .map_err(|error| Fault::new("CertificateFailed", error.to_string()))?;
    apply::secrets(cluster, ctx, secrets).await?;
    apply::objects(cluster, ctx, build::objects(&inputs)).await?;
    apply::unwanted(cluster, ctx).await?;
    status.workloads = readiness::workloads(cluster, ctx).await?;
    status.version = Some(VERSION.to_owned());
    status.observed_generation = cluster.metadata.generation;
    match &cluster.spec.startup_taint {
        Some(key) => taint::take_off(ctx, key).await,
        None => Ok(false),
    }
}

fn conclude(cluster: &LaminaCluster, status: &mut LaminaClusterStatus, fault: Option<&Fault>) {
    let waiting = readiness::waiting(&status.workloads);
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: cluster.metadata.generation,
        now: Timestamp::now(),
    };
    if let Some(fault) = fault {
        said.no("Applied", fault);
        said.no("Ready", fault);
        return;
    }
    said.yes("Applied", "Applied", "every workload is as the spec says");
    said.yes(
        "CertificatesValid",
        "CertificatesValid",
        "every certificate is renewed long before it ends",
    );
    match waiting {
        None => said.yes("Ready", "Ready", "every workload is ready"),
        Some(waiting) => said.no("Ready", &Fault::new("WorkloadsNotReady", waiting)),
    }
}
