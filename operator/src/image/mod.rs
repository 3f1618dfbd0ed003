//! `Image`: resolved and converted by one node, published, and kept ready on others.

mod build;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use kube::{Api, ResourceExt};
use lamina_crds::{Image, ImageStatus};

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
pub(crate) async fn step(image: &Image, ctx: &Ctx) -> Result<Duration, Fault> {
    let namespace = image.namespace().unwrap_or_default();
    let api = Api::<Image>::namespaced(ctx.client.clone(), &namespace);
    let old = image.status.clone().unwrap_or_default();
    if image.metadata.deletion_timestamp.is_some() {
        let mut new = old.clone();
        if deletion::announce(image, &mut new.conditions) && new != old {
            // What is written now has another version than the object at hand: the rest is for the next look.
            status::write(&api, &image.name_any(), &new).await?;
            return Ok(deletion::SOON);
        }
        let digests: Vec<&str> = old
            .retired
            .iter()
            .chain(&old.flist)
            .map(|one| &**one)
            .collect();
        deletion::finish(ctx, &api, image, &digests, &image.spec.stores).await?;
        return Ok(LOOK_AGAIN);
    }
    deletion::guard(&api, image).await?;
    let mut new = old.clone();
    let result = advance(image, ctx, &mut new).await;
    conclude(image, &mut new, result.as_ref().err());
    if new != old {
        status::write(&api, &image.name_any(), &new).await?;
    }
    tell(image, ctx, &old, &new).await;
    result
}

/// What is read before anything is decided.
struct Known {
    places: Vec<Place>,
    stores: Vec<String>,
    docker_config: Vec<u8>,
}

async fn dereference(image: &Image, ctx: &Ctx) -> Result<Known, Fault> {
    let namespace = image.namespace().unwrap_or_default();
    Ok(Known {
        places: nodes::ready(ctx).await?,
        stores: store_urls(ctx, &image.spec.stores).await?,
        docker_config: docker_config(ctx, &namespace, &image.spec.pull_secrets).await?,
    })
}

/// The nodes that may be used.
fn validate<'a>(image: &Image, known: &'a Known) -> Result<Vec<&'a Place>, Fault> {
    nodes::admitted(&known.places, &image.spec.node_selector)
}

async fn advance(image: &Image, ctx: &Ctx, status: &mut ImageStatus) -> Result<Duration, Fault> {
    let known = dereference(image, ctx).await?;
    let places = validate(image, &known)?;
    let now = Timestamp::now();
    if build::is_due(image, status, now) {
        let key = &image.spec.reference;
        let place = place::first(key, places.iter().copied()).unwrap_or(places[0]);
        let request = build::convert(image, &known.docker_config, &known.stores);
        let info = ensure(ctx, place, request).await?;
        let is_new = status.flist.as_ref() != Some(&info.digest);
        build::converted(status, &info, now);
        status.observed_generation = image.metadata.generation;
        if is_new {
            note(image, ctx, status).await?;
        }
    }
    let chosen = warming::chosen(&image.spec.reference, &places, image.spec.replicas);
    let request = build::warm(image, status, &known.docker_config, &known.stores);
    let warmed = warming::warm(ctx, &chosen, &request).await;
    let recorded = warmed.record(Round {
        wanted: &mut status.nodes_wanted,
        warm: &mut status.nodes_warm,
        summary: &mut status.nodes_summary,
        nodes: &mut status.nodes,
    });
    // Only when the new one is where it shall be, or cannot be: a full disk may be full of the old one.
    if !recorded.as_ref().is_err_and(Fault::is_work) {
        let uid = image.uid();
        deletion::retire(ctx, uid.as_deref(), &mut status.retired, &image.spec.stores).await;
    }
    recorded?;
    Ok(build::next_look(image, LOOK_AGAIN))
}

/// Writes down what was converted before it is brought to nodes: that takes long, and pods can mount it now.
async fn note(image: &Image, ctx: &Ctx, status: &mut ImageStatus) -> Result<(), Fault> {
    conclude(image, status, Some(&warming::begins()));
    let namespace = image.namespace().unwrap_or_default();
    let api = Api::<Image>::namespaced(ctx.client.clone(), &namespace);
    status::write(&api, &image.name_any(), status).await
}

/// The conditions of what was reached.
fn conclude(image: &Image, status: &mut ImageStatus, fault: Option<&Fault>) {
    let current = status.observed_generation == image.metadata.generation && status.flist.is_some();
    let (digest, flist) = (
        status.digest.clone().unwrap_or_default(),
        status.flist.clone().unwrap_or_default(),
    );
    let warm = warming::summary(status.nodes_warm, status.nodes_wanted);
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: image.metadata.generation,
        now: Timestamp::now(),
    };
    if current {
        said.yes(
            "Resolved",
            "Resolved",
            format!("{} is {digest}", image.spec.reference),
        );
        said.yes("Converted", "Converted", format!("the flist is {flist}"));
    }
    let Some(fault) = fault else {
        said.yes("Replicated", "Replicated", warm);
        said.yes("Ready", "Ready", "pods can mount it");
        return;
    };
    match current {
        // Pods can mount it already: only data is still on its way.
        true => {
            said.no("Replicated", fault);
            said.yes("Ready", "Ready", "pods can mount it");
        }
        false => {
            for kind in build::unreached(fault) {
                said.no(kind, fault);
            }
        }
    }
}

async fn tell(image: &Image, ctx: &Ctx, old: &ImageStatus, new: &ImageStatus) {
    if old.flist != new.flist
        && let Some(flist) = &new.flist
    {
        let note = format!(
            "{} is flist {flist}: {}, {} stored",
            image.spec.reference,
            new.size.as_deref().unwrap_or("?"),
            lamina_crds::size(new.bytes_stored.unwrap_or(0).unsigned_abs()),
        );
        say(&ctx.recorder, image, EventType::Normal, "Converted", &note).await;
    } else {
        warn_if_unready(&ctx.recorder, image, &old.conditions, &new.conditions).await;
    }
}
