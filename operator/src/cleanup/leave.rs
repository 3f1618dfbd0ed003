//! Asks every node to end what Lamina runs outside of its pods, and to remove its files.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use lamina_proto::lamina::v1::LeaveRequest;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;

use super::{Deadline, PAUSE};
use crate::context::Ctx;
use crate::fault::{Fault, from_status};
use crate::nodes::{self, Place};

/// How long one node may take for one answer.
const CALL: Duration = Duration::from_secs(60);
/// The least one call gets, also when the time is nearly over.
const CALL_MIN: Duration = Duration::from_secs(2);
/// Nodes asked at once.
const AT_ONCE: usize = 32;
const DAEMON_SET: &str = "lamina-node";

/// Leaves every node.
///
/// # Errors
/// Names each that could not be left.
pub(super) async fn every(ctx: &Ctx, deadline: Deadline) -> Result<()> {
    let places = nodes::inhabited(ctx)
        .await
        .context("list the node servers")?;
    complete(wanted(ctx).await.context("read its DaemonSet")?, &places)?;
    let mut refused: Vec<String> = futures::stream::iter(&places)
        .map(|place| patiently(ctx, place, deadline))
        .buffer_unordered(AT_ONCE)
        .filter_map(|left| std::future::ready(left.err().map(|fault| fault.message)))
        .collect()
        .await;
    refused.sort();
    if !refused.is_empty() {
        bail!(
            "{} of {} nodes could not be left: {}",
            refused.len(),
            places.len(),
            refused.join("; ")
        );
    }
    Ok(())
}

/// On how many nodes the server should run; none where it was never set up.
async fn wanted(ctx: &Ctx) -> Result<usize, kube::Error> {
    let api = Api::<DaemonSet>::namespaced(ctx.client.clone(), &ctx.namespace);
    let status = api.get_opt(DAEMON_SET).await?.and_then(|set| set.status);
    let wanted = status.map_or(0, |status| status.desired_number_scheduled);
    Ok(usize::try_from(wanted).unwrap_or(0))
}

/// Refuses to leave some nodes while others cannot even be asked.
fn complete(wanted: usize, places: &[Place]) -> Result<()> {
    if places.len() >= wanted {
        return Ok(());
    }
    let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
    let on = match names.is_empty() {
        true => "none of them".to_owned(),
        false => format!("{} only", names.join(", ")),
    };
    bail!(
        "{DAEMON_SET} should run on {wanted} nodes, but there are pods on {on}: the others cannot be asked"
    )
}

/// Asks until the node is done with it, or the time is over.
async fn patiently(ctx: &Ctx, place: &Place, deadline: Deadline) -> Result<(), Fault> {
    loop {
        let patience = deadline.left().clamp(CALL_MIN, CALL);
        match once(ctx, place, patience).await {
            Err(fault) if fault.is_work() && deadline.left() > PAUSE => {
                tracing::info!("{}", fault.message);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(()) => {
                tracing::info!("node {} was left", place.name);
                return Ok(());
            }
            failed => return failed,
        }
    }
}

async fn once(ctx: &Ctx, place: &Place, patience: Duration) -> Result<(), Fault> {
    let late = || {
        Fault::new(
            "NodeUnreachable",
            format!("node {} did not answer in time", place.name),
        )
    };
    if place.address.is_empty() {
        let message = format!(
            "node {} cannot be asked: its pod has not started",
            place.name
        );
        return Err(Fault::new("NodeUnreachable", message));
    }
    let channel = ctx.dial.channel(&ctx.client, &ctx.namespace, place);
    let mut node = NodeCareClient::new(channel.await?);
    let mut request = tonic::Request::new(LeaveRequest::default());
    // The node answers a little earlier, and says what it is at.
    request.set_timeout(patience * 9 / 10);
    let answer = tokio::time::timeout(patience, node.leave(request)).await;
    match answer.map_err(|_| late())? {
        Ok(_) => Ok(()),
        Err(status) => Err(from_status(&place.name, "clean up", &status)),
    }
}
