//! Asks every node to end what Lamina runs outside of its pods, and to remove its files.
//!
//! No node is left while one has volumes or does not answer. One that was left although another could not be is started
//! again, by a new pod: until then it would serve no volumes.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;
use lamina_proto::lamina::v1::{LeaveRequest, ListVolumesRequest, Volume};
use tonic::transport::Channel;

use super::{Deadline, PAUSE, pods, remove};
use crate::context::Ctx;
use crate::fault::{Fault, from_status};
use crate::nodes::{self, DAEMON_SET, NodeClient, Place};

/// How long one node may take for one answer.
const CALL: Duration = Duration::from_secs(60);
/// The least one call gets, also when the time is nearly over.
const CALL_MIN: Duration = Duration::from_secs(2);
/// Nodes asked at once.
const AT_ONCE: usize = 32;
/// Pods named in a refusal.
const NAMED_MAX: usize = 4;
/// What the ids of volumes of afslets begin with.
const AFSLET_VOLUMES: &str = "afslet-";

/// Leaves every node.
///
/// # Errors
/// Names each that could not be left.
pub(super) async fn every(ctx: &Ctx, deadline: Deadline) -> Result<()> {
    let places = nodes::inhabited(ctx)
        .await
        .context("list the node servers")?;
    let wanted = nodes::wanted(ctx).await.context("read its DaemonSet")?;
    complete(wanted, &places)?;
    let unused = each(&places, |place| unused(ctx, place)).await;
    all_done(&unused, places.len())?;
    // If a node cannot be left after all, the operator makes them again.
    remove::execution(ctx).await?;
    pods::gone(ctx, &pods::RUNNING, deadline).await?;
    let left = each(&places, |place| patiently(ctx, place, deadline)).await;
    let done = all_done(&left, places.len());
    if done.is_err() {
        for (place, _) in left.iter().filter(|(_, left)| left.is_ok()) {
            start_again(ctx, place).await;
        }
    }
    done
}

type Answers<'p> = Vec<(&'p Place, Result<(), Fault>)>;

/// Asks many nodes at once.
async fn each<'p, F>(places: &'p [Place], ask: impl Fn(&'p Place) -> F) -> Answers<'p>
where
    F: Future<Output = Result<(), Fault>>,
{
    futures::stream::iter(places)
        .map(|place| {
            let asked = ask(place);
            async move { (place, asked.await) }
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// Fails with what every node that refused says.
fn all_done(answers: &Answers<'_>, nodes: usize) -> Result<()> {
    let refused = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err());
    let mut refused: Vec<&str> = refused.map(|fault| fault.message.as_str()).collect();
    refused.sort_unstable();
    if refused.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {nodes} nodes could not be left: {}",
        refused.len(),
        refused.join("; ")
    );
}

/// Fails while the node has volumes.
async fn unused(ctx: &Ctx, place: &Place) -> Result<(), Fault> {
    let mut node = NodeClient::new(channel(ctx, place).await?);
    let asked = tokio::time::timeout(CALL, node.list_volumes(ListVolumesRequest {})).await;
    let volumes = match asked.map_err(|_| late(place))? {
        Ok(answer) => answer.into_inner().volumes,
        Err(status) => return Err(from_status(&place.name, "list its volumes", &status)),
    };
    let name = |volume: &Volume| match &volume.pod {
        Some(pod) if !pod.name.is_empty() => format!("pod {}/{}", pod.namespace, pod.name),
        _ => format!("volume {}", volume.volume_id),
    };
    let of_pods = volumes
        .iter()
        .filter(|volume| !volume.volume_id.starts_with(AFSLET_VOLUMES));
    let names: BTreeSet<String> = of_pods.map(name).collect();
    if names.is_empty() {
        return Ok(());
    }
    let more = match names.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<String> = names.into_iter().take(NAMED_MAX).collect();
    let message = format!(
        "volumes of node {} are in use by {}{more}: delete these pods first",
        place.name,
        named.join(", ")
    );
    Err(Fault::new("InUse", message))
}

/// Has a node that was left serve volumes again.
async fn start_again(ctx: &Ctx, place: &Place) {
    let api = Api::<Pod>::namespaced(ctx.client.clone(), &ctx.namespace);
    let gone = nodes::delete_pods(&api, &place.name).await;
    match gone {
        Ok(()) => tracing::info!("node {} was left and is started again", place.name),
        Err(error) => tracing::warn!(
            "node {} was left and serves no volumes until its lamina-node pod is deleted: {error}",
            place.name
        ),
    }
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
    let mut node = NodeCareClient::new(channel(ctx, place).await?);
    let mut request = tonic::Request::new(LeaveRequest::default());
    // The node answers a little earlier, and says what it is at.
    request.set_timeout(patience * 9 / 10);
    let answer = tokio::time::timeout(patience, node.leave(request)).await;
    match answer.map_err(|_| late(place))? {
        Ok(_) => Ok(()),
        Err(status) => Err(from_status(&place.name, "clean up", &status)),
    }
}

async fn channel(ctx: &Ctx, place: &Place) -> Result<Channel, Fault> {
    if place.address.is_empty() {
        let message = format!(
            "node {} cannot be asked: its pod has not started",
            place.name
        );
        return Err(Fault::new("NodeUnreachable", message));
    }
    ctx.dial.channel(&ctx.client, &ctx.namespace, place).await
}

fn late(place: &Place) -> Fault {
    let message = format!("node {} did not answer in time", place.name);
    Fault::new("NodeUnreachable", message)
}
