//! Deleting an `Image` or `Flist`: nodes forget the flist and stores lose what nothing else uses. After a
//! deadline the object is let go whatever happened, and an event says what stays behind.
//!
//! What always holds: a shared store loses nothing while a node cannot be asked whether it shows it.

use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Api, Resource, ResourceExt};
use lamina_crds::{FINALIZER, Flist, Image};
use lamina_proto::lamina::v1::ForgetRequest;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::context::Ctx;
use crate::events::say;
use crate::fault::{Fault, from_status};
use crate::keys::store_urls;
use crate::nodes::{self, DAEMON_SET, Place};
use crate::status::Conditions;

/// How long a deletion may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long one look at an object cleans up what it was before.
const RETIRING: Duration = Duration::from_secs(60);
/// When to go on with a deletion.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// How long one node may take.
const CALL: Duration = Duration::from_secs(15);
/// Nodes asked at once.
const AT_ONCE: usize = 32;

/// Sees to it that a deletion passes by here.
pub(crate) async fn guard<K>(api: &Api<K>, object: &K) -> Result<(), Fault>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    if object.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(());
    }
    let mut finalizers = object.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    write(api, object, &finalizers).await
}

/// Has the conditions of a deleted object say so, which nobody should take for ready any more. False where it is gone
/// already, as far as we have a say.
pub(crate) fn announce<K: Resource<DynamicType = ()>>(
    object: &K,
    conditions: &mut Vec<Condition>,
) -> bool {
    let deleting = Fault::new(
        "Deleting",
        "it is being deleted: nodes forget it, and stores lose what nothing else needs",
    );
    let mut said = Conditions {
        all: conditions,
        generation: object.meta().generation,
        now: Timestamp::now(),
    };
    said.no("Ready", &deleting);
    object.finalizers().iter().any(|name| name == FINALIZER)
}

/// Cleans up after a deleted object and lets it go.
pub(crate) async fn finish<K>(
    ctx: &Ctx,
    api: &Api<K>,
    object: &K,
    digests: &[&str],
    stores: &[String],
) -> Result<(), Fault>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug,
{
    if !object.finalizers().iter().any(|name| name == FINALIZER) {
        return Ok(());
    }
    let is_over = expired(object.meta().deletion_timestamp.as_ref().map(|time| time.0));
    let patience = match is_over {
        true => Patience::Over,
        false => Patience::Left,
    };
    for (number, digest) in digests.iter().enumerate() {
        let cleaned = clean(ctx, object.uid().as_deref(), digest, stores, patience).await;
        let Err(fault) = cleaned else { continue };
        if !is_over {
            return Err(fault);
        }
        let more = match digests.len() - number - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let note = format!("Deleted without cleaning up flist {digest}{more}: {fault}");
        say(
            &ctx.recorder,
            object,
            EventType::Warning,
            "CleanupIncomplete",
            &note,
        )
        .await;
        // What keeps one from being cleaned up may keep them all, each for as long as a node may take.
        break;
    }
    let kept: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    write(api, object, &kept).await
}

/// Cleans up what an object was before, as far as nothing shows it any more and there is time; the rest stays in `retired`.
pub(crate) async fn retire(
    ctx: &Ctx,
    uid: Option<&str>,
    retired: &mut Vec<String>,
    stores: &[String],
) {
    retire_until(Instant::now() + RETIRING, ctx, uid, retired, stores).await;
}

async fn retire_until(
    end: Instant,
    ctx: &Ctx,
    uid: Option<&str>,
    retired: &mut Vec<String>,
    stores: &[String],
) {
    if retired.is_empty() {
        return;
    }
    // Then none of them would go.
    if let Err(fault) = heard(ctx).await {
        tracing::debug!(%fault, "flists of before stay");
        return;
    }
    let mut kept = Vec::new();
    for digest in std::mem::take(retired) {
        let cleaned = timeout_at(end, clean(ctx, uid, &digest, stores, Patience::Left)).await;
        let late = || Err(Fault::working("there is no time left for it now"));
        if let Err(fault) = cleaned.unwrap_or_else(|_| late()) {
            tracing::debug!(digest, %fault, "a flist of before stays");
            kept.push(digest);
        }
    }
    *retired = kept;
}

/// Whether every node can be asked now. One that cannot may show what the shared stores would lose: its volumes go on
/// while its server restarts, and while its pod is replaced.
async fn heard(ctx: &Ctx) -> Result<(), Fault> {
    // First who should be there: what comes meanwhile is no node that is missed.
    let wanted = nodes::wanted(ctx).await?;
    let ready = nodes::ready(ctx).await?;
    let all = nodes::occupied(ctx).await?;
    let is_silent = |place: &&Place| ready.iter().all(|one| one.name != place.name);
    let unheard = |message| Err(Fault::new("NodeUnreachable", message));
    match all.iter().find(is_silent) {
        Some(place) => unheard(format!("node {} cannot be asked what it shows", place.name)),
        None if all.len() < wanted => unheard(format!(
            "{DAEMON_SET} should run on {wanted} nodes and has pods on {}: the others cannot be asked what they show",
            all.len()
        )),
        None => Ok(()),
    }
}

/// What to do about a node that cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Nothing goes before it can be.
    Left,
    /// The others forget; what it may show stays in the shared stores.
    Over,
}

fn expired(deleted: Option<Timestamp>) -> bool {
    deleted.is_none_or(|at| {
        let limit = i64::try_from(DEADLINE.as_secs()).unwrap_or(i64::MAX);
        Timestamp::now().as_second().saturating_sub(at.as_second()) >= limit
    })
}

async fn write<K>(api: &Api<K>, object: &K, finalizers: &[String]) -> Result<(), Fault>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    // With the version, so that a finalizer somebody else added meanwhile is not lost.
    let patch = json!({ "metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.resource_version(),
    }});
    let params = PatchParams::default();
    api.patch(&object.name_any(), &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}

async fn clean(
    ctx: &Ctx,
    uid: Option<&str>,
    digest: &str,
    stores: &[String],
    patience: Patience,
) -> Result<(), Fault> {
    if named_elsewhere(ctx, uid, digest).await? {
        return Ok(());
    }
    let heard = heard(ctx).await;
    if patience == Patience::Left {
        heard.clone()?;
    }
    let places = nodes::ready(ctx).await?;
    let stores = store_urls(ctx, stores).await?;
    // A node's own store only it can clean.
    let request = ForgetRequest {
        digest: digest.to_owned(),
        delete_stored: stores.is_empty(),
        stores,
    };
    // Each is asked, whatever the others say: what one shows is no reason to stay on the rest.
    let asked: Vec<_> = places
        .iter()
        .map(|place| forget(ctx, place, request.clone()))
        .collect();
    let done: Vec<Result<(), Fault>> = futures::stream::iter(asked)
        .buffered(AT_ONCE)
        .collect()
        .await;
    done.into_iter().collect::<Result<(), Fault>>()?;
    heard?;
    match places.first() {
        // Shared stores are cleaned once, when every node has let go.
        Some(place) if !request.stores.is_empty() => {
            let delete_stored = true;
            let request = ForgetRequest {
                delete_stored,
                ..request
            };
            forget(ctx, place, request).await
        }
        _ => Ok(()),
    }
}

async fn forget(ctx: &Ctx, place: &Place, request: ForgetRequest) -> Result<(), Fault> {
    let mut node = ctx.dial.connect(&ctx.client, &ctx.namespace, place).await?;
    let answer = tokio::time::timeout(CALL, node.forget(request)).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) if status.code() == tonic::Code::NotFound => Ok(()),
        Ok(Err(status)) => Err(from_status(&place.name, "forget the flist", &status)),
        Err(_) => Err(Fault::new(
            "NodeUnreachable",
            format!("node {} did not answer in time", place.name),
        )),
    }
}

/// Whether an object that is not being deleted has this flist.
async fn named_elsewhere(ctx: &Ctx, uid: Option<&str>, digest: &str) -> Result<bool, Fault> {
    let all = ListParams::default();
    let images = Api::<Image>::all(ctx.client.clone()).list(&all).await?;
    let flists = Api::<Flist>::all(ctx.client.clone()).list(&all).await?;
    let of_image = images.iter().any(|image| {
        other(image, uid)
            && image
                .status
                .as_ref()
                .and_then(|status| status.flist.as_deref())
                == Some(digest)
    });
    let of_flist = flists.iter().any(|flist| {
        other(flist, uid)
            && flist
                .status
                .as_ref()
                .and_then(|status| status.digest.as_deref())
                == Some(digest)
    });
    Ok(of_image || of_flist)
}

fn other<K: Resource>(object: &K, uid: Option<&str>) -> bool {
    object.meta().uid.as_deref() != uid && object.meta().deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::FakeApi;

    // Nodes that did not answer were waited for longer than one look at an object may take, for each flist of before.
    #[tokio::test]
    async fn what_there_is_no_time_for_is_cleaned_up_later() {
        let api = FakeApi::default();
        for path in [
            "/api/v1/namespaces/lamina-system/pods",
            "/api/v1/nodes",
            "/apis/lamina.dev/v1alpha1/images",
            "/apis/lamina.dev/v1alpha1/flists",
        ] {
            api.answer(path, json!({ "metadata": {}, "items": [] }));
        }
        let ctx = api.ctx();
        let mut retired = vec!["f1".to_owned(), "f2".to_owned()];
        let over = Instant::now() - Duration::from_secs(1);
        retire_until(over, &ctx, None, &mut retired, &[]).await;
        assert_eq!(retired, ["f1", "f2"]);
        retire(&ctx, None, &mut retired, &[]).await;
        assert_eq!(retired, [""; 0]);
    }

    #[test]
    fn a_deletion_expires_after_its_deadline() {
        let now = Timestamp::now();
        let ago = |seconds| Timestamp::from_second(now.as_second() - seconds).unwrap();
        assert!(!expired(Some(ago(5))));
        assert!(expired(Some(ago(61))));
    }
}
