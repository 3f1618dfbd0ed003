//! `Store`: whether it answers and what it holds, asked of a node.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use lamina_crds::{Store, StoreStatus};
use lamina_proto::lamina::v1::CheckStoreRequest;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;

use crate::context::Ctx;
use crate::events::say;
use crate::fault::{Fault, from_status};
use crate::keys::store_url;
use crate::nodes::{self, Place};
use crate::place;
use crate::quantity::size;
use crate::status::{self, Conditions};

const LOOK_AGAIN: Duration = Duration::from_secs(300);
const CALL: Duration = Duration::from_secs(60);

/// One reconciliation: when to look again, or why it is not ready.
pub(crate) async fn step(store: &Store, ctx: &Ctx) -> Result<Duration, Fault> {
    if store.metadata.deletion_timestamp.is_some() {
        return Ok(LOOK_AGAIN);
    }
    let old = store.status.clone().unwrap_or_default();
    if fresh(store, &old, Timestamp::now()) {
        return Ok(LOOK_AGAIN);
    }
    let mut new = old.clone();
    let result = look(store, ctx, &mut new).await;
    conclude(store, &mut new, result.as_ref().err());
    if new != old {
        let api = Api::<Store>::all(ctx.client.clone());
        status::write(&api, &store.name_any(), &new).await?;
    }
    let reason = |status: &StoreStatus| {
        lamina_crds::conditions::find(&status.conditions, "Ready").map(|ready| ready.reason.clone())
    };
    if let Err(fault) = &result
        && reason(&old) != reason(&new)
    {
        say(
            &ctx.recorder,
            store,
            EventType::Warning,
            fault.reason,
            &fault.message,
        )
        .await;
    }
    result
}

/// Looking changes the status, and that calls for a look: so not again at once.
fn fresh(store: &Store, status: &StoreStatus, now: Timestamp) -> bool {
    let recent = status.checked_at.as_ref().is_some_and(|last| {
        let passed = now.as_second().saturating_sub(last.0.as_second());
        u64::try_from(passed).is_ok_and(|passed| passed < LOOK_AGAIN.as_secs() / 2)
    });
    recent && status.observed_generation == store.metadata.generation
}

async fn look(store: &Store, ctx: &Ctx, status: &mut StoreStatus) -> Result<Duration, Fault> {
    let places = nodes::ready(ctx).await?;
    let url = store_url(ctx, &store.spec).await?;
    let place = pick(store, &places)?;
    let channel = ctx.dial.channel(&ctx.client, &ctx.namespace, place).await?;
    let mut node = NodeCareClient::new(channel);
    let request = CheckStoreRequest { store: url };
    let answer = tokio::time::timeout(CALL, node.check_store(request))
        .await
        .map_err(|_| {
            Fault::new(
                "Timeout",
                format!("node {} got no answer in time", place.name),
            )
        })?
        .map_err(|status| from_status(&place.name, "check the store", &status))?
        .into_inner();
    status.objects = i64::try_from(answer.objects).ok();
    status.bytes = i64::try_from(answer.bytes).ok();
    status.size = Some(size(answer.bytes));
    status.node = Some(place.name.clone());
    status.checked_at = Some(Time(Timestamp::now()));
    status.observed_generation = store.metadata.generation;
    Ok(LOOK_AGAIN)
}

fn pick<'a>(store: &Store, places: &'a [Place]) -> Result<&'a Place, Fault> {
    place::first(&store.spec.url, places).ok_or_else(|| Fault::no_node(false))
}

fn conclude(store: &Store, status: &mut StoreStatus, fault: Option<&Fault>) {
    let node = status.node.clone().unwrap_or_default();
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: store.metadata.generation,
        now: Timestamp::now(),
    };
    for kind in ["Reachable", "Ready"] {
        match fault {
            Some(fault) => said.no(kind, fault),
            None => said.yes(kind, "Reachable", format!("node {node} can use it")),
        }
    }
}
