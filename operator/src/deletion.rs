//! Deleting an `Image` or `Flist`: nodes forget the flist and stores lose what nothing else uses. After a
//! deadline the object is let go whatever happened, and an event says what stays behind.

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

use crate::context::Ctx;
use crate::events::say;
use crate::fault::{Fault, from_status};
use crate::keys::store_urls;
use crate::nodes::{self, Place};
use crate::status::Conditions;

/// How long a deletion may take.
const DEADLINE: Duration = Duration::from_secs(60);
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
    for digest in digests {
        let cleaned = clean(ctx, object.uid().as_deref(), digest, stores).await;
        let Err(fault) = cleaned else { continue };
        if !expired(object.meta().deletion_timestamp.as_ref().map(|time| time.0)) {
            return Err(fault);
        }
        let note = format!("Deleted without cleaning up flist {digest}: {fault}");
        say(
            &ctx.recorder,
            object,
            EventType::Warning,
            "CleanupIncomplete",
            &note,
        )
        .await;
    }
    let kept: Vec<String> = object
        .finalizers()
        .iter()
        .filter(|name| *name != FINALIZER)
        .cloned()
        .collect();
    write(api, object, &kept).await
}

/// Cleans up what an object was before, as far as nothing shows it any more; the rest stays in `retired`.
pub(crate) async fn retire(
    ctx: &Ctx,
    uid: Option<&str>,
    retired: &mut Vec<String>,
    stores: &[String],
) {
    if retired.is_empty() {
        return;
    }
    // A node that cannot be asked may show what the shared stores would lose.
    if let Err(fault) = heard(ctx).await {
        tracing::debug!(%fault, "flists of before stay");
        return;
    }
    let mut kept = Vec::new();
    for digest in std::mem::take(retired) {
        if let Err(fault) = clean(ctx, uid, &digest, stores).await {
            tracing::debug!(digest, %fault, "a flist of before stays");
            kept.push(digest);
        }
    }
    *retired = kept;
}

/// Whether every node can be asked now.
async fn heard(ctx: &Ctx) -> Result<(), Fault> {
    let ready = nodes::ready(ctx).await?;
    let all = nodes::inhabited(ctx).await?;
    let is_silent = |place: &&Place| ready.iter().all(|one| one.name != place.name);
    match all.iter().find(is_silent) {
        None => Ok(()),
        Some(place) => Err(Fault::new(
            "NodeUnreachable",
            format!("node {} cannot be asked what it shows", place.name),
        )),
    }
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

async fn clean(ctx: &Ctx, uid: Option<&str>, digest: &str, stores: &[String]) -> Result<(), Fault> {
    if named_elsewhere(ctx, uid, digest).await? {
        return Ok(());
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

    #[test]
    fn a_deletion_expires_after_its_deadline() {
        let now = Timestamp::now();
        let ago = |seconds| Timestamp::from_second(now.as_second() - seconds).unwrap();
        assert!(!expired(Some(ago(5))));
        assert!(expired(Some(ago(61))));
    }
}
