//! `Job`: its runs are sent to the proxy, which finds nodes for them. No pod is made.
//!
//! The steps: the object is read afresh, what ended is taken in and what is next decided (`plan`), the status that names
//! every new attempt is written, and only then is anything begun (`runs`, `proxy`). The write is refused when somebody
//! else wrote meanwhile: so two operators never begin the same attempt.

mod indexes;
mod inputs;
mod kept;
mod order;
mod plan;
mod proxy;
pub(crate) mod queue;
mod runs;
mod tail;
mod told;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub(crate) use runs::Runs;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use lamina_crds::conditions::find;
use lamina_crds::{FINALIZER, Job, JobOutcome, JobPhase, JobStatus};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tonic::transport::Channel;

use crate::context::Ctx;
use crate::deletion;
use crate::fault::{Again, Fault};
use crate::nodes::Peer;
use crate::status;
use order::Order;
use plan::{How, Look, Next};
use queue::{QUEUE_LABEL, Turn};
use told::Decided;

/// Name in the proxies' certificates.
const PROXY_NAME: &str = "proxy.lamina.internal";
/// How often a job is looked at of which nothing is heard.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// And one that is over.
const LONG: Duration = Duration::from_secs(3600);
/// After what others hear of first.
const SOON: Duration = Duration::from_secs(1);
/// Runs over one connection: servers allow a hundred streams and more.
const RUNS_PER_CONNECTION: usize = 64;

/// One reconciliation: when to look again, or why nothing can be begun.
pub(crate) async fn step(job: &Job, ctx: &Ctx) -> Result<Duration, Fault> {
    let uid = job.uid().unwrap_or_default();
    let version = job.resource_version().unwrap_or_default();
    // Every job is asked when a run of any ended.
    if let Some(rest) = ctx.runs.nothing_new(&uid, &version) {
        return Ok(rest);
    }
    let result = fresh(job, ctx).await;
    match &result {
        Ok(Seen::Going(pause)) => ctx.runs.looked(&uid, &version, *pause),
        Ok(Seen::Over(pause)) => {
            ctx.runs.forget(&uid);
            ctx.runs.looked(&uid, &version, *pause);
        }
        Ok(Seen::Gone) => ctx.runs.forget(&uid),
        Err(_) => {}
    }
    result.map(|seen| match seen {
        Seen::Going(pause) | Seen::Over(pause) => pause,
        Seen::Gone => LONG,
    })
}

/// What there is of a job.
enum Seen {
    /// It goes on, and is looked at again after this time.
    Going(Duration),
    /// It is over; the object stays for this time.
    Over(Duration),
    /// The object is gone, or we let it go.
    Gone,
}

async fn fresh(job: &Job, ctx: &Ctx) -> Result<Seen, Fault> {
    let namespace = job.namespace().unwrap_or_default();
    let api = Api::<Job>::namespaced(ctx.client.clone(), &namespace);
    // What a watch gave may be of before our own last write: by that, an attempt would be begun twice.
    let Some(job) = api.get_opt(&job.name_any()).await? else {
        return Ok(Seen::Gone);
    };
    if job.metadata.deletion_timestamp.is_some() {
        ctx.runs.forget(&job.uid().unwrap_or_default());
        deletion::finish(ctx, &api, &job, &[], &[]).await?;
        return Ok(Seen::Gone);
    }
    let old = job.status.clone().unwrap_or_default();
    if old.phase == Some(JobPhase::Finished) {
        let finished = match ctx.kueue {
            true => queue::finish(ctx, &job, old.outcome.unwrap_or(JobOutcome::Failed)).await,
            false => Ok(()),
        };
        let rest = expire(&api, &job, &old).await?;
        return finished.map(|()| Seen::Over(rest));
    }
    if !job.finalizers().iter().any(|name| name == FINALIZER) {
        deletion::guard(&api, &job).await?;
        return Ok(Seen::Going(SOON));
    }
    if !ctx.kueue && waits_for_kueue(&job, &old) {
        suspend(&api, &job).await?;
        return Ok(Seen::Going(SOON));
    }
    let turn = match ctx.kueue {
        true => queue::turn(ctx, &job, is_idle(&job, ctx, &old)).await,
        false => Ok(Turn::Now),
    };
    advance(&job, ctx, &api, old, turn).await.map(Seen::Going)
}

/// None of its runs is under way.
fn is_idle(job: &Job, ctx: &Ctx, status: &JobStatus) -> bool {
    let seen = ctx.runs.look(&job.uid().unwrap_or_default());
    status.active == 0 && seen.live.is_empty()
}

async fn advance(
    job: &Job,
    ctx: &Ctx,
    api: &Api<Job>,
    old: JobStatus,
    turn: Result<Turn, Fault>,
) -> Result<Duration, Fault> {
    let uid = job.uid().unwrap_or_default();
    let seen = ctx.runs.look(&uid);
    let (ended, unkept) = kept::make(ctx, job, &old, &seen.ended).await;
    let (queued, unknown) = held_back(turn, old.active);
    let mut spec = job.spec.clone();
    spec.suspend |= queued.is_some();
    let look = Look {
        spec: &spec,
        ended: &ended,
        live: &seen.live,
        now: Timestamp::now(),
    };
    if seen.ended.iter().any(|one| matches!(one.how, How::Ran(_))) {
        ctx.runs.accepted(&uid);
    }
    let mut new = old.clone();
    let (next, fault) = decide(&mut new, &look, unknown.or(unkept));
    let (prepared, fault) = match (&next, fault, seen.held) {
        (Next::Begin(indexes), None, None) => match prepare(job, ctx, indexes).await {
            Ok(prepared) => (Some(prepared), None),
            Err(fault) => (None, Some(fault)),
        },
        (_, fault, _) => (None, fault),
    };
    let prepared = prepared.filter(|prepared| !prepared.permits.is_empty());
    let begun = match (&next, &prepared) {
        (Next::Begin(indexes), Some(prepared)) => {
            let count = indexes.len().min(prepared.permits.len());
            plan::record(&mut new, &job.spec, &indexes[..count], look.now)
        }
        _ => Vec::new(),
    };
    // What is held back for a reason that is known keeps it.
    let keeps = seen.held.is_some() && fault.is_none();
    let decided = Decided {
        next: &next,
        fault: fault.as_ref(),
        held: keeps,
        queued: queued.as_ref(),
    };
    told::conclude(job, &mut new, &decided);
    if new != old {
        let version = job.resource_version();
        let written = status::write_at(api, &job.name_any(), version, &new).await;
        // It may be there all the same: the next look takes out what was not begun.
        written.inspect_err(|fault| ctx.runs.refuse(&uid, &begun, fault))?;
    }
    ctx.runs.written(&uid, &ended);
    if matches!(next, Next::Suspended | Next::Over) {
        ctx.runs.end(&uid);
    }
    if let Some(prepared) = prepared {
        prepared.begin(job, ctx, &begun);
    }
    told::tell(job, ctx, &old, &new, fault.as_ref()).await;
    let hold = || ctx.runs.hold(&uid);
    rest(&next, fault, seen.held, hold)
}

/// When to look again; what is wrong is tried again after it was held back.
fn rest(
    next: &Next,
    fault: Option<Fault>,
    held: Option<Duration>,
    hold: impl FnOnce() -> Duration,
) -> Result<Duration, Fault> {
    match (fault, next) {
        (_, Next::Over) => Ok(SOON),
        (Some(fault), _) => Err(Fault {
            again: Again::Soon(hold()),
            ..fault
        }),
        (None, Next::Wait(Some(pause))) => Ok((*pause).min(LOOK_AGAIN)),
        (None, _) => Ok(held.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)),
    }
}

/// What of the queue keeps runs from beginning, and what is wrong with it.
fn held_back(turn: Result<Turn, Fault>, active: i32) -> (Option<Fault>, Option<Fault>) {
    match turn {
        Ok(Turn::Now) => (None, None),
        Ok(Turn::Later(why)) => (Some(Fault::new("Queued", why)), None),
        Err(fault) if active == 0 => (Some(fault.clone()), Some(fault)),
        // While Kueue cannot be asked what runs goes on, and nothing is begun.
        Err(fault) => (None, Some(fault)),
    }
}

/// What is next, after what ended was taken in, and what is wrong; `known` is what was wrong before.
fn decide(new: &mut JobStatus, look: &Look<'_>, known: Option<Fault>) -> (Next, Option<Fault>) {
    match plan::settle(new, look) {
        Some(How::Impossible(fault)) => {
            plan::over(new, JobOutcome::Failed, look);
            (Next::Over, Some(fault))
        }
        Some(How::Refused(fault)) => (plan::decide(new, look), Some(fault)),
        // What could not be kept yet is under way until it is.
        _ => (plan::decide(new, look), known),
    }
}

/// What runs need to begin.
struct Prepared {
    order: Arc<Order>,
    channels: Vec<Channel>,
    permits: Vec<OwnedSemaphorePermit>,
}

/// Everything that can go wrong before an attempt is written down.
async fn prepare(job: &Job, ctx: &Ctx, indexes: &[i32]) -> Result<Prepared, Fault> {
    let order = Order::new(&job.spec, inputs::read(ctx, job).await?)?;
    kept::check(ctx, job, indexes).await?;
    let permits = ctx.runs.room(indexes.len());
    let proxy = Peer {
        what: format!("the proxy {}", ctx.proxy),
        address: ctx.proxy.clone(),
        certificate: PROXY_NAME,
        reason: "ProxyUnreachable",
    };
    let mut channels = Vec::new();
    for _ in 0..permits.len().div_ceil(RUNS_PER_CONNECTION) {
        let channel = ctx.dial.reach(&ctx.client, &ctx.namespace, &proxy).await?;
        channels.push(channel);
    }
    Ok(Prepared {
        order: Arc::new(order),
        channels,
        permits,
    })
}

impl Prepared {
    fn begin(self, job: &Job, ctx: &Ctx, begun: &[lamina_crds::JobRun]) {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        let uid = job.uid().unwrap_or_default();
        for (number, (run, permit)) in begun.iter().zip(self.permits).enumerate() {
            let channel = self.channels[number / RUNS_PER_CONNECTION].clone();
            let asked = proxy::Run {
                index: run.index,
                attempt: run.attempt,
                request: order::request_id(&namespace, &name, run.attempt),
            };
            let work = proxy::run(channel, Arc::clone(&self.order), asked);
            ctx.runs.watch(&uid, run.attempt, permit, work);
        }
    }
}

/// One that is new and that Kueue is to start. What was seen before has the condition.
fn waits_for_kueue(job: &Job, status: &JobStatus) -> bool {
    let is_new = find(&status.conditions, "Admitted").is_none();
    is_new && !job.spec.suspend && job.labels().contains_key(QUEUE_LABEL)
}

async fn suspend(api: &Api<Job>, job: &Job) -> Result<(), Fault> {
    let patch = json!({
        "metadata": { "resourceVersion": job.resource_version() },
        "spec": { "suspend": true },
    });
    let params = PatchParams::default();
    api.patch(&job.name_any(), &params, &Patch::Merge(&patch))
        .await?;
    Ok(())
}

/// Deletes a job whose time after its end is over.
async fn expire(api: &Api<Job>, job: &Job, status: &JobStatus) -> Result<Duration, Fault> {
    let Some(ttl) = job.spec.ttl_seconds_after_finished else {
        return Ok(LONG);
    };
    let now = Timestamp::now().as_second();
    let ended = status
        .finished_at
        .as_ref()
        .map_or(now, |time| time.0.as_second());
    let rest = u64::try_from(ended + i64::from(ttl) - now).unwrap_or(0);
    if rest > 0 {
        return Ok(Duration::from_secs(rest).min(LONG));
    }
    // Not one that has its name by now.
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: job.uid(),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match api.delete(&job.name_any(), &params).await {
        Err(kube::Error::Api(answer)) if answer.code == 404 => {}
        answer => drop(answer?),
    }
    Ok(SOON)
}
