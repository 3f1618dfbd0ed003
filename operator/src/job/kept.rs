//! What runs left: a `Flist` for each index, named after the job and owned by it.
//!
//! What always holds: a run counts as succeeded only when its Flist is there; a Flist that somebody else made is never
//! touched; of several attempts of an index the last one that succeeded has the name.

use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Resource, ResourceExt};
use lamina_crds::warm::Warm;
use lamina_crds::{Flist, FlistSource, FlistSpec, Job, JobStatus, StoredFrom};
use lamina_proto::afsletpb::Keep;

use super::plan::{Ended, How};
use crate::context::Ctx;
use crate::fault::Fault;
use crate::keys::{store_names, store_urls};

/// Labels of what a job left.
const JOB_LABEL: &str = "lamina.dev/job";
const INDEX_LABEL: &str = "lamina.dev/job-index";
/// Longest value of a label.
const LABEL_MAX: usize = 63;

/// What is called so was left by this run of the job.
pub(crate) fn name(job: &str, index: i32) -> String {
    format!("{job}-{index}")
}

/// Names of the stores of what is kept: first those that take it, then those of what it is over.
async fn stores(ctx: &Ctx, job: &Job) -> Result<(Vec<String>, Vec<String>), Fault> {
    let named = &job.spec.diff_stores;
    let keep = store_names(ctx, named).await?;
    if keep.is_empty() {
        let message =
            "keepDiff needs a Store: name one in spec.diffStores, or in the LaminaCluster";
        return Err(Fault::new("NoStore", message));
    }
    let below = match &job.spec.source.flist {
        None => Vec::new(),
        Some(flist) => {
            let found = flists(ctx, job).get_opt(flist).await?;
            found.map_or_else(Vec::new, |found| found.spec.stores)
        }
    };
    let mut below = store_names(ctx, &below).await?;
    below.retain(|name| !keep.contains(name));
    Ok((keep, below))
}

/// What the node that runs it is to know.
pub(crate) async fn order(ctx: &Ctx, job: &Job) -> Result<Option<Keep>, Fault> {
    if !job.spec.keep_diff {
        return Ok(None);
    }
    let (keep, below) = stores(ctx, job).await?;
    let base_stores = match below.is_empty() {
        true => Vec::new(),
        false => store_urls(ctx, &below).await?,
    };
    Ok(Some(Keep {
        stores: store_urls(ctx, &keep).await?,
        base_stores,
    }))
}

/// Refuses to run what could not be kept under its name.
pub(crate) async fn check(ctx: &Ctx, job: &Job, indexes: &[i32]) -> Result<(), Fault> {
    if !job.spec.keep_diff {
        return Ok(());
    }
    let api = flists(ctx, job);
    for &index in indexes {
        let name = name(&job.name_any(), index);
        if let Some(found) = api.get_opt(&name).await? {
            refuse_others(&found, job)?;
        }
    }
    Ok(())
}

/// Makes the Flists of what ended; gives what may be written of it, and why the rest may not yet.
pub(crate) async fn make(
    ctx: &Ctx,
    job: &Job,
    status: &JobStatus,
    ended: &[Ended],
) -> (Vec<Ended>, Option<Fault>) {
    let (mut done, mut fault) = (Vec::with_capacity(ended.len()), None);
    for one in ended {
        match make_one(ctx, job, status, one.clone()).await {
            Ok(one) => done.push(one),
            Err(why) => fault = Some(why),
        }
    }
    (done, fault)
}

async fn make_one(
    ctx: &Ctx,
    job: &Job,
    status: &JobStatus,
    mut ended: Ended,
) -> Result<Ended, Fault> {
    let How::Ran(ran) = &mut ended.how else {
        return Ok(ended);
    };
    let run = status.runs.iter().find(|run| run.attempt == ended.attempt);
    // One that was cancelled meanwhile leaves nothing.
    let run = run.filter(|run| run.outcome.is_none());
    if let (Some(digest), Some(run)) = (&ran.kept, run) {
        let flist = name(&job.name_any(), run.index);
        put(ctx, job, &flist, run.index, digest).await?;
        ran.flist = Some(flist);
    }
    Ok(ended)
}

/// Has a Flist of this name be of this digest.
async fn put(ctx: &Ctx, job: &Job, name: &str, index: i32, digest: &str) -> Result<(), Fault> {
    let api = flists(ctx, job);
    let Some(found) = api.get_opt(name).await? else {
        let (mut all, below) = stores(ctx, job).await?;
        all.extend(below);
        let flist = build(job, name, index, digest, all);
        api.create(&PostParams::default(), &flist).await?;
        return Ok(());
    };
    refuse_others(&found, job)?;
    let has = found.spec.source.flist.as_ref().map(|from| &*from.digest);
    if has == Some(digest) && found.metadata.deletion_timestamp.is_none() {
        return Ok(());
    }
    // An attempt of which nobody knew that it had succeeded.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: found.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    if found.metadata.deletion_timestamp.is_none() {
        api.delete(name, &params).await?;
    }
    let message = format!("the Flist {name} of an earlier attempt is being deleted");
    Err(Fault::working(message))
}

fn build(job: &Job, name: &str, index: i32, digest: &str, stores: Vec<String>) -> Flist {
    let spec = FlistSpec {
        source: FlistSource {
            flist: Some(StoredFrom {
                digest: digest.to_owned(),
            }),
            ..FlistSource::default()
        },
        stores,
        replicas: None,
        node_selector: std::collections::BTreeMap::new(),
        warm: Warm::default(),
    };
    let mut flist = Flist::new(name, spec);
    let meta = flist.meta_mut();
    meta.namespace = job.namespace();
    meta.owner_references = job.controller_owner_ref(&()).map(|owner| vec![owner]);
    let labels = [
        (JOB_LABEL, job.name_any()),
        (INDEX_LABEL, index.to_string()),
    ];
    let labels = labels
        .into_iter()
        .filter(|(_, value)| value.len() <= LABEL_MAX);
    meta.labels = Some(labels.map(|(key, value)| (key.to_owned(), value)).collect());
    flist
}

fn refuse_others(found: &Flist, job: &Job) -> Result<(), Fault> {
    let owners = found.owner_references();
    if owners
        .iter()
        .any(|owner| Some(&owner.uid) == job.uid().as_ref())
    {
        return Ok(());
    }
    let name = found.name_any();
    let message = format!(
        "a run's changes are to be the Flist {name}, which is there and not of this Job: delete it, or give the Job another name"
    );
    Err(Fault::new("FlistExists", message))
}

fn flists(ctx: &Ctx, job: &Job) -> Api<Flist> {
    Api::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default())
}
