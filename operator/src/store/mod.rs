//! `Store`: whether it answers and what it holds, asked of a node.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use lamina_crds::{Store, StoreStatus, size};
use lamina_proto::lamina::v1::CheckStoreRequest;
use lamina_proto::lamina::v1::node_care_client::NodeCareClient;

use crate::context::Ctx;
use crate::events::say;
use crate::fault::{Fault, from_status};
use crate::keys::store_url;
use crate::nodes::{self, Place};
use crate::place;
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
    conclude(store, &mut new, result.as_ref());
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
    result.map(|_| LOOK_AGAIN)
}

/// Looking changes the status, and that calls for a look: so not again at once.
fn fresh(store: &Store, status: &StoreStatus, now: Timestamp) -> bool {
    let recent = status.checked_at.as_ref().is_some_and(|last| {
        let passed = now.as_second().saturating_sub(last.0.as_second());
        u64::try_from(passed).is_ok_and(|passed| passed < LOOK_AGAIN.as_secs() / 2)
    });
    recent && status.observed_generation == store.metadata.generation
}

async fn look(store: &Store, ctx: &Ctx, status: &mut StoreStatus) -> Result<Seen, Fault> {
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
    let known = |number: u64, is_known: bool| i64::try_from(number).ok().filter(|_| is_known);
    status.objects = known(answer.objects, answer.objects_known);
    status.bytes = known(answer.bytes, answer.bytes_known);
    status.size = Some(match answer.bytes_known {
        true => size(answer.bytes),
        false => "unknown".to_owned(),
    });
    status.node = Some(place.name.clone());
    status.checked_at = Some(Time(Timestamp::now()));
    status.observed_generation = store.metadata.generation;
    match answer.nothing_seen {
        true => Ok(Seen::Nothing),
        false => Ok(Seen::Store),
    }
}

/// What shows of a place that answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It holds objects, or could.
    Store,
    /// It cannot be listed, and its folder is not found.
    Nothing,
}

fn pick<'a>(store: &Store, places: &'a [Place]) -> Result<&'a Place, Fault> {
    place::first(&store.spec.url, places).ok_or_else(|| Fault::no_node(false))
}

fn conclude(store: &Store, status: &mut StoreStatus, looked: Result<&Seen, &Fault>) {
    let node = status.node.clone().unwrap_or_default();
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: store.metadata.generation,
        now: Timestamp::now(),
    };
    for kind in ["Reachable", "Ready"] {
        match looked {
            Err(fault) => said.no(kind, fault),
            Ok(Seen::Nothing) if kind == "Ready" => said.unknown(
                kind,
                "NothingSeen",
                format!(
                    "node {node} gets answers, and they say that there is no such folder: correct the URL if there is one; \
                     some web servers say so of every folder, then reads will show it"
                ),
            ),
            Ok(_) => said.yes(kind, "Reachable", format!("node {node} can use it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use lamina_crds::conditions::find;
    use lamina_proto::lamina::v1::CheckStoreResponse;
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::FakeApi;
    use crate::nodes::fake::FakeNode;

    fn store(url: &str) -> Store {
        serde_json::from_value(json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Store",
            "metadata": { "name": "s", "generation": 1 }, "spec": { "url": url },
        }))
        .unwrap()
    }

    /// The status that a node's answer leads to.
    async fn after(url: &str, answer: Option<CheckStoreResponse>) -> StoreStatus {
        let fake = FakeNode::start("a").await;
        fake.state().store = answer;
        let api = FakeApi::default();
        api.answer(
            "/api/v1/namespaces/lamina-system/pods",
            json!({ "metadata": {}, "items": [api.pod(&fake.place)] }),
        );
        api.answer("/api/v1/nodes", json!({ "metadata": {}, "items": [] }));
        let _ = step(&store(url), &api.ctx()).await;
        let body = api.last_write("/apis/lamina.dev/v1alpha1/stores/s/status");
        serde_json::from_value(body["status"].clone()).unwrap()
    }

    fn ready(status: &StoreStatus) -> (&str, &str) {
        let ready = find(&status.conditions, "Ready").unwrap();
        (&ready.status, &ready.reason)
    }

    #[tokio::test]
    async fn a_size_that_nobody_tells_is_unknown_and_not_zero() {
        let answer = CheckStoreResponse {
            writable: true,
            objects: 7,
            objects_known: true,
            ..CheckStoreResponse::default()
        };
        let status = after("oci://registry/packs", Some(answer)).await;
        assert_eq!(ready(&status), ("True", "Reachable"));
        assert_eq!((status.objects, status.bytes), (Some(7), None));
        assert_eq!(status.size.as_deref(), Some("unknown"));
        let told = CheckStoreResponse {
            bytes: 2048,
            bytes_known: true,
            ..answer
        };
        let status = after("dir:///srv", Some(told)).await;
        assert_eq!(
            (status.bytes, status.size.as_deref()),
            (Some(2048), Some("2.00 KiB"))
        );
    }

    #[tokio::test]
    async fn a_place_that_shows_no_store_is_not_ready() {
        let answer = CheckStoreResponse {
            nothing_seen: true,
            ..CheckStoreResponse::default()
        };
        let status = after("http://host/typo", Some(answer)).await;
        assert_eq!(ready(&status), ("Unknown", "NothingSeen"));
        let status = after("dir://packs", Some(CheckStoreResponse::default())).await;
        assert_eq!(ready(&status), ("False", "InvalidSource"));
        let status = after("http://host/away", None).await;
        assert_eq!(ready(&status), ("False", "Unavailable"));
    }
}
