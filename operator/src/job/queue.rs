//! Kueue: a job of a queue runs while its Workload is admitted there.
//!
//! ```text
//!  Job with the label ──> a Workload of ours: what it reserves, its queue ──> Kueue: Admitted ──> runs begin
//!                         Evicted by Kueue ──> runs end, it is deleted after Kueue's pause, another one queues up
//!                         the job is over  ──> Finished: its quota is free
//! ```
//! Kueue counts every Workload, whoever made it; it need not know the kind of its owner. What it keeps of one that it evicted it
//! gives back when that is gone, which is for the owner to do. Nobody's `spec.suspend` is touched.

use k8s_openapi::jiff::Timestamp;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use lamina_crds::{Job, JobOutcome};
use serde_json::{Value, json};

use super::order;
use crate::MANAGER;
use crate::context::Ctx;
use crate::fault::Fault;

/// Jobs with this label wait for the queue it names.
pub(super) const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// By this Kueue's own integrations name the owner.
const OWNER_LABEL: &str = "kueue.x-k8s.io/job-uid";
/// Of Workloads that we made.
pub(crate) const OURS: &str = "app.kubernetes.io/managed-by=lamina-operator";
/// What a Workload was made for: another one is needed when that changes.
const ASKED: &str = "lamina.dev/asked";

/// Whether runs may begin or go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// They may.
    Now,
    /// Not now: why, for people.
    Later(String),
}

/// What a Workload says of itself.
#[derive(Debug, PartialEq)]
enum Says {
    Admitted,
    Waits(String),
    /// It has no quota any more, and is of no use after this time.
    Over(String, Option<Timestamp>),
}

/// Kueue's kind, as of version 0.15.
pub(crate) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", "Workload");
    ApiResource::from_gvk(&kind)
}

/// The job that a Workload of ours is of.
pub(crate) fn owner(workload: &DynamicObject) -> Option<String> {
    workload.labels().get(OWNER_LABEL).cloned()
}

/// Whether it is a job's turn. `idle`: none of its runs is under way.
pub(super) async fn turn(ctx: &Ctx, job: &Job, idle: bool) -> Result<Turn, Fault> {
    let Some(queue) = job.labels().get(QUEUE_LABEL) else {
        return Ok(Turn::Now);
    };
    let (api, name) = (workloads(ctx, job), name(job));
    let found = api.get_opt(&name).await.map_err(|error| fault(&error))?;
    if job.spec.suspend {
        // What is not to run keeps nobody else from running.
        if let (Some(workload), true) = (found, idle) {
            delete(&api, &workload).await?;
        }
        return Ok(Turn::Now);
    }
    let asked = asked(job, queue)?;
    let Some(workload) = found else {
        let wanted = wanted(job, queue, &asked)?;
        let made = api.create(&PostParams::default(), &wanted).await;
        made.map_err(|error| fault(&error))?;
        return Ok(Turn::Later(format!("it waits in the queue {queue}")));
    };
    if workload.metadata.deletion_timestamp.is_some() {
        return Ok(Turn::Later(format!(
            "it is put into the queue {queue} again"
        )));
    }
    let says = match workload.annotations().get(ASKED) == Some(&asked) {
        true => says(&workload.data, queue),
        false => Says::Over("it asks for something else than before".to_owned(), None),
    };
    match says {
        Says::Admitted => Ok(Turn::Now),
        Says::Waits(why) => Ok(Turn::Later(why)),
        Says::Over(why, until) => {
            if idle && until.is_none_or(|until| until <= Timestamp::now()) {
                delete(&api, &workload).await?;
            }
            Ok(Turn::Later(why))
        }
    }
}

/// Gives its quota back when a job is over.
pub(super) async fn finish(ctx: &Ctx, job: &Job, outcome: JobOutcome) -> Result<(), Fault> {
    if !job.labels().contains_key(QUEUE_LABEL) {
        return Ok(());
    }
    let (api, name) = (workloads(ctx, job), name(job));
    let found = api.get_opt(&name).await.map_err(|error| fault(&error))?;
    let Some(workload) = found.filter(|one| condition(&one.data, "Finished").is_none()) else {
        return Ok(());
    };
    let reason = match outcome {
        JobOutcome::Succeeded => "Succeeded",
        _ => "Failed",
    };
    let patch = json!({
        "apiVersion": resource().api_version,
        "kind": resource().kind,
        "metadata": { "name": name },
        "status": { "conditions": [{
            "type": "Finished",
            "status": "True",
            "reason": reason,
            "message": format!("The Job ended: {}", outcome.as_str()),
            "lastTransitionTime": Timestamp::now().to_string(),
            "observedGeneration": workload.metadata.generation,
        }] },
    });
    let params = PatchParams::apply(MANAGER).force();
    let patched = api
        .patch_status(&name, &params, &Patch::Apply(&patch))
        .await;
    patched.map(drop).map_err(|error| fault(&error))
}

fn workloads(ctx: &Ctx, job: &Job) -> Api<DynamicObject> {
    let namespace = job.namespace().unwrap_or_default();
    Api::namespaced_with(ctx.client.clone(), &namespace, &resource())
}

/// Of no other job, also not of one that had the same name.
fn name(job: &Job) -> String {
    format!("lamina-job-{}", job.uid().unwrap_or_default())
}

/// Runs side by side: never more than there are.
fn count(job: &Job) -> i32 {
    job.spec.parallelism.min(job.spec.completions)
}

/// In one line.
fn asked(job: &Job, queue: &str) -> Result<String, Fault> {
    let (cores, mib) = order::amounts(&job.spec)?;
    Ok(format!("{} x {cores} cpu, {mib}Mi in {queue}", count(job)))
}

/// The Workload of a job: as many pods as it has runs at a time, though none is ever made.
fn wanted(job: &Job, queue: &str, asked: &str) -> Result<DynamicObject, Fault> {
    let (cores, mib) = order::amounts(&job.spec)?;
    let mut workload = DynamicObject::new(&name(job), &resource());
    workload.metadata.namespace = job.namespace();
    workload.labels_mut().extend([
        (OWNER_LABEL.to_owned(), job.uid().unwrap_or_default()),
        (
            "app.kubernetes.io/managed-by".to_owned(),
            MANAGER.to_owned(),
        ),
    ]);
    workload
        .annotations_mut()
        .insert(ASKED.to_owned(), asked.to_owned());
    workload.metadata.owner_references = job_reference(job);
    let requests = json!({ "cpu": cores.to_string(), "memory": format!("{mib}Mi") });
    workload.data = json!({ "spec": {
        "queueName": queue,
        "podSets": [{
            "name": "main",
            "count": count(job),
            "template": { "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "run",
                    "image": job.spec.source.image.as_deref().unwrap_or("flist"),
                    "resources": { "requests": requests },
                }],
            } },
        }],
    } });
    Ok(workload)
}

/// It goes when the job goes.
fn job_reference(
    job: &Job,
) -> Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>> {
    use kube::Resource as _;
    let mut owner = job.controller_owner_ref(&())?;
    owner.block_owner_deletion = None;
    Some(vec![owner])
}

async fn delete(api: &Api<DynamicObject>, workload: &DynamicObject) -> Result<(), Fault> {
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: workload.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&workload.name_any(), &params).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => Ok(()),
        answer => answer.map(drop).map_err(|error| fault(&error)),
    }
}

/// A condition that holds.
fn condition<'a>(workload: &'a Value, kind: &str) -> Option<&'a Value> {
    let all = workload["status"]["conditions"].as_array()?;
    all.iter()
        .find(|one| one["type"] == kind && one["status"] == "True")
}

fn says(workload: &Value, queue: &str) -> Says {
    let message = |said: &Value| said["message"].as_str().unwrap_or_default().to_owned();
    if workload["spec"]["active"] == json!(false) {
        let why = "its Workload is not active: it waits until somebody sets spec.active of it";
        return Says::Waits(why.to_owned());
    }
    if let Some(evicted) = condition(workload, "Evicted") {
        let again = workload["status"]["requeueState"]["requeueAt"].as_str();
        let until = again.and_then(|text| text.parse().ok());
        return Says::Over(format!("Kueue evicted it: {}", message(evicted)), until);
    }
    if let Some(finished) = condition(workload, "Finished") {
        let why = format!("somebody ended its Workload: {}", message(finished));
        return Says::Over(why, None);
    }
    if condition(workload, "Admitted").is_some() {
        return Says::Admitted;
    }
    let all = workload["status"]["conditions"].as_array();
    let quota = all.and_then(|all| all.iter().find(|one| one["type"] == "QuotaReserved"));
    let why = quota.map(message).filter(|text| !text.is_empty());
    Says::Waits(match why {
        Some(why) => format!("it waits in the queue {queue}: {why}"),
        None => format!("it waits in the queue {queue}"),
    })
}

/// What keeps us from asking Kueue.
fn fault(error: &kube::Error) -> Fault {
    let message = match error {
        kube::Error::Api(answer) if answer.code == 404 => {
            "this cluster has no Workloads of kueue.x-k8s.io/v1beta2: Kueue 0.15 or later is needed, or no queue label"
                .to_owned()
        }
        error => format!("the API server refused what Kueue needs: {error}"),
    };
    Fault::new("QueueUnavailable", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(conditions: &[(&str, &str, &str)], more: &Value) -> Value {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, message)| json!({ "type": kind, "status": status, "message": message }))
            .collect();
        let mut workload =
            json!({ "spec": { "active": true }, "status": { "conditions": conditions } });
        for part in ["spec", "status"] {
            if let Some(more) = more[part].as_object() {
                let whole = workload[part].as_object_mut().unwrap();
                whole.extend(more.clone());
            }
        }
        workload
    }

    #[test]
    fn what_kueue_says_decides_whose_turn_it_is() {
        let waits = |text: &str| Says::Waits(text.to_owned());
        let over = |text: &str, until| Says::Over(text.to_owned(), until);
        let inactive = "its Workload is not active: it waits until somebody sets spec.active of it";
        let at = "2026-11-22T10:00:00Z";
        let requeue = json!({ "status": { "requeueState": { "requeueAt": at } } });
        let admitted = ("Admitted", "True", "");
        for (conditions, more, expected) in [
            (vec![], json!({}), waits("it waits in the queue q")),
            (
                vec![("QuotaReserved", "False", "no quota")],
                json!({}),
                waits("it waits in the queue q: no quota"),
            ),
            (
                vec![("QuotaReserved", "True", ""), ("Admitted", "False", "")],
                json!({}),
                waits("it waits in the queue q"),
            ),
            (vec![admitted], json!({}), Says::Admitted),
            // Kueue leaves it admitted until its owner has let go.
            (
                vec![admitted, ("Evicted", "True", "preempted")],
                json!({}),
                over("Kueue evicted it: preempted", None),
            ),
            (
                vec![admitted, ("Evicted", "False", "")],
                json!({}),
                Says::Admitted,
            ),
            (
                vec![("Evicted", "True", "too slow")],
                requeue,
                over("Kueue evicted it: too slow", Some(at.parse().unwrap())),
            ),
            (
                vec![admitted, ("Finished", "True", "gone")],
                json!({}),
                over("somebody ended its Workload: gone", None),
            ),
            (
                vec![admitted, ("Evicted", "True", "deactivated")],
                json!({ "spec": { "active": false } }),
                waits(inactive),
            ),
        ] {
            let workload = workload(&conditions, &more);
            assert_eq!(says(&workload, "q"), expected, "{workload}");
        }
    }
}
