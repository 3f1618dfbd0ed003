//! `Flist`: from an image, an archive, a stored flist (a node makes it) or a claim (a pod beside it packs it).

mod build;
mod pack;

pub(crate) use build::again;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use lamina_crds::{Flist, FlistFrom, FlistStatus};

use lamina_proto::lamina::v1::EnsureRequest;

use crate::context::Ctx;
use crate::deletion;
use crate::ensure::ensure;
use crate::events::{say, warn_if_unready};
use crate::fault::Fault;
use crate::keys::store_urls;
use crate::nodes::{self, Place};
use crate::place;
use crate::pull_secrets::docker_config;
use crate::status::{self, Conditions};
use crate::warming::{self, Round};

/// How often nodes are asked whether they still hold what they should.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// One reconciliation: when to look again, or why it is not ready.
pub(crate) async fn step(flist: &Flist, ctx: &Ctx) -> Result<Duration, Fault> {
    let namespace = flist.namespace().unwrap_or_default();
    let api = Api::<Flist>::namespaced(ctx.client.clone(), &namespace);
    let old = flist.status.clone().unwrap_or_default();
    if flist.metadata.deletion_timestamp.is_some() {
        let mut new = old.clone();
        if deletion::announce(flist, &mut new.conditions) && new != old {
            // What is written now has another version than the object at hand: the rest is for the next look.
            status::write(&api, &flist.name_any(), &new).await?;
            return Ok(deletion::SOON);
        }
        let digests: Vec<&str> = old.digest.as_deref().into_iter().collect();
        deletion::finish(ctx, &api, flist, &digests, &flist.spec.stores).await?;
        return Ok(LOOK_AGAIN);
    }
    deletion::guard(&api, flist).await?;
    let mut new = old.clone();
    let result = advance(flist, ctx, &mut new).await;
    conclude(flist, &mut new, result.as_ref().err());
    if new != old {
        status::write(&api, &flist.name_any(), &new).await?;
    }
    tell(flist, ctx, &old, &new).await;
    result
}

/// What is read before anything is decided.
struct Known {
    places: Vec<Place>,
    stores: Vec<String>,
    docker_config: Vec<u8>,
}

async fn dereference(flist: &Flist, ctx: &Ctx, from: FlistFrom<'_>) -> Result<Known, Fault> {
    let namespace = flist.namespace().unwrap_or_default();
    let docker_config = match from {
        FlistFrom::Image(image) => docker_config(ctx, &namespace, &image.pull_secrets).await?,
        _ => Vec::new(),
    };
    Ok(Known {
        places: nodes::ready(ctx).await?,
        stores: store_urls(ctx, &flist.spec.stores).await?,
        docker_config,
    })
}

/// The one source.
fn validate(flist: &Flist) -> Result<FlistFrom<'_>, Fault> {
    flist.spec.source.from().ok_or_else(|| {
        Fault::new(
            "InvalidSource",
            "a source is exactly one of image, archive, pvc and flist",
        )
    })
}

async fn advance(flist: &Flist, ctx: &Ctx, status: &mut FlistStatus) -> Result<Duration, Fault> {
    let from = validate(flist)?;
    let known = dereference(flist, ctx, from).await?;
    let places = nodes::admitted(&known.places, &flist.spec.node_selector)?;
    if status.entries.is_none() {
        make(flist, ctx, status, from, &known, &places).await?;
        note(flist, ctx, status).await?;
    }
    status.observed_generation = flist.metadata.generation;
    let digest = status.digest.clone().unwrap_or_default();
    let chosen = warming::chosen(&digest, &places, flist.spec.replicas);
    let source = build::again(from, &digest, status, &known.docker_config, &known.stores);
    let amount = warming::amount(flist.spec.warm);
    let request = EnsureRequest {
        keep_layers_s: warming::keep_s(flist.spec.warm),
        ..build::request(source, amount, &known.stores)
    };
    let warmed = warming::warm(ctx, &chosen, &request).await;
    warmed.record(Round {
        wanted: &mut status.nodes_wanted,
        warm: &mut status.nodes_warm,
        summary: &mut status.nodes_summary,
        nodes: &mut status.nodes,
    })?;
    Ok(LOOK_AGAIN)
}

/// Makes the flist; afterwards the status has its digest and sizes.
async fn make(
    flist: &Flist,
    ctx: &Ctx,
    status: &mut FlistStatus,
    from: FlistFrom<'_>,
    known: &Known,
    places: &[&Place],
) -> Result<(), Fault> {
    let source = match from {
        FlistFrom::Pvc(claim) => {
            if status.digest.is_none() {
                status.digest = Some(pack::packed(flist, ctx, claim, &known.stores).await?);
            }
            build::stored(status.digest.clone().unwrap_or_default(), &known.stores)
        }
        other => build::first(other, &known.docker_config, &known.stores),
    };
    let key = flist.uid().unwrap_or_default();
    let place = place::first(&key, places.iter().copied()).unwrap_or(places[0]);
    let info = ensure(ctx, place, build::request(source, 0, &known.stores)).await?;
    build::indexed(status, &info);
    Ok(())
}

/// Writes down what was made before it is brought to nodes: that takes long, and pods can mount it now.
async fn note(flist: &Flist, ctx: &Ctx, status: &mut FlistStatus) -> Result<(), Fault> {
    status.observed_generation = flist.metadata.generation;
    conclude(flist, status, Some(&warming::begins()));
    let namespace = flist.namespace().unwrap_or_default();
    let api = Api::<Flist>::namespaced(ctx.client.clone(), &namespace);
    status::write(&api, &flist.name_any(), status).await
}

fn conclude(flist: &Flist, status: &mut FlistStatus, fault: Option<&Fault>) {
    let made = status.entries.is_some();
    let digest = status.digest.clone().unwrap_or_default();
    let warm = warming::summary(status.nodes_warm, status.nodes_wanted);
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: flist.metadata.generation,
        now: Timestamp::now(),
    };
    if made {
        said.yes("Indexed", "Indexed", format!("the flist is {digest}"));
        said.yes("Ready", "Ready", "pods can mount it");
    }
    match fault {
        None => said.yes("Available", "Available", warm),
        Some(fault) => {
            said.no("Available", fault);
            if !made {
                said.no("Indexed", fault);
                said.no("Ready", fault);
            }
        }
    }
}

async fn tell(flist: &Flist, ctx: &Ctx, old: &FlistStatus, new: &FlistStatus) {
    if old.entries.is_none()
        && let Some(digest) = new.digest.as_ref().filter(|_| new.entries.is_some())
    {
        let note = format!(
            "Flist {digest}: {} entries, {}",
            new.entries.unwrap_or(0),
            new.size.as_deref().unwrap_or("?"),
        );
        say(&ctx.recorder, flist, EventType::Normal, "Indexed", &note).await;
    } else {
        warn_if_unready(&ctx.recorder, flist, &old.conditions, &new.conditions).await;
    }
}

#[cfg(test)]
mod tests {
    use lamina_crds::conditions::holds;
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::FakeApi;
    use crate::nodes::fake::FakeNode;

    // What was made was lost when it took too long to bring it to nodes, and made again.
    #[tokio::test]
    async fn what_was_made_is_written_down_before_it_is_brought_to_nodes() {
        let fake = FakeNode::start("a").await;
        fake.state().digest = "f1".into();
        let api = FakeApi::default();
        let list = |items: &[serde_json::Value]| json!({ "metadata": {}, "items": items });
        api.answer(
            "/api/v1/namespaces/lamina-system/pods",
            list(&[api.pod(&fake.place)]),
        );
        api.answer("/api/v1/nodes", list(&[]));
        let flist = json!({
            "apiVersion": "lamina.dev/v1alpha1", "kind": "Flist",
            "metadata": {
                "name": "tools", "namespace": "team", "uid": "u1", "generation": 1,
                "finalizers": [lamina_crds::FINALIZER],
            },
            "spec": { "source": { "image": { "reference": "alpine:3" } }, "replicas": "All" },
        });
        let flist: Flist = serde_json::from_value(flist).unwrap();
        step(&flist, &api.ctx()).await.unwrap();
        let said: Vec<_> = api
            .bodies("/apis/lamina.dev/v1alpha1/namespaces/team/flists/tools/status")
            .into_iter()
            .map(|mut body| serde_json::from_value(body["status"].take()).unwrap())
            .map(|status: FlistStatus| {
                let holds = |kind| holds(&status.conditions, kind);
                (holds("Ready"), holds("Available"), status.nodes_warm)
            })
            .collect();
        assert_eq!(said, [(true, false, 0), (true, true, 1)]);
    }
}
