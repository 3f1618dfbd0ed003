//! What a job's status and events say of what was decided.

use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::EventType;
use lamina_crds::conditions::find;
use lamina_crds::{Job, JobOutcome, JobPhase, JobStatus};

use super::plan::Next;
use crate::context::Ctx;
use crate::events::{say, say_of};
use crate::fault::Fault;
use crate::status::Conditions;

/// Failed runs told of by events at one time.
const TOLD_MAX: usize = 3;

/// What was decided.
pub(super) struct Decided<'a> {
    pub(super) next: &'a Next,
    /// What keeps runs from beginning, or ended the job.
    pub(super) fault: Option<&'a Fault>,
    /// It is held back for a reason that was told before.
    pub(super) held: bool,
    /// Why its queue does not let it run now.
    pub(super) queued: Option<&'a Fault>,
}

/// The conditions of what was decided.
pub(super) fn conclude(job: &Job, status: &mut JobStatus, decided: &Decided<'_>) {
    status.observed_generation = job.metadata.generation;
    let summary = status.summary.clone().unwrap_or_default();
    let why = why_failed(status, decided.fault);
    let (begun, active, outcome) = (status.attempts > 0, status.active, status.outcome);
    let mut said = Conditions {
        all: &mut status.conditions,
        generation: job.metadata.generation,
        now: Timestamp::now(),
    };
    let text = format!("{summary} runs succeeded");
    if let Some(outcome) = outcome {
        let text = match why {
            Some(why) if outcome != JobOutcome::Succeeded => format!("{text}; {why}"),
            _ => text,
        };
        said.yes("Finished", outcome.as_str(), text);
        status.reason = Some(outcome.as_str().to_owned());
        return;
    }
    said.no("Finished", &Fault::new("Unfinished", text));
    let reason = match decided.next {
        Next::Suspended => Some(suspended(&mut said, decided.queued)),
        _ => going(&mut said, decided, begun, active > 0),
    };
    if let Some(reason) = reason {
        status.reason = Some(reason.to_owned());
    }
}

fn suspended(said: &mut Conditions<'_>, queued: Option<&Fault>) -> &'static str {
    let message = "spec.suspend is true: its runs begin when it is not";
    let own = Fault::new("Suspended", message);
    let fault = queued.unwrap_or(&own);
    said.no("Admitted", fault);
    said.no("Started", fault);
    fault.reason
}

/// The word for it; none where it stays as it is.
fn going(
    said: &mut Conditions<'_>,
    decided: &Decided<'_>,
    begun: bool,
    active: bool,
) -> Option<&'static str> {
    said.yes("Admitted", "Admitted", "its runs may begin");
    match decided.fault {
        Some(fault) if !active => {
            said.no("Started", fault);
            Some(fault.reason)
        }
        Some(fault) => Some(fault.reason),
        None if decided.held && !active => None,
        None => {
            if begun {
                said.yes("Started", "Started", "runs were sent");
            }
            Some(if active { "Running" } else { "Waiting" })
        }
    }
}

/// Why a job failed: what keeps it for ever, or what its last failed run says.
fn why_failed(status: &JobStatus, fault: Option<&Fault>) -> Option<String> {
    if let Some(fault) = fault {
        return Some(fault.message.clone());
    }
    let failed = status.runs.iter().filter(|run| run.message.is_some());
    let run = failed.max_by_key(|run| run.attempt)?;
    let message = run.message.as_deref().unwrap_or_default();
    Some(format!(
        "run {}, attempt {}: {message}",
        run.index, run.attempt
    ))
}

/// Events of what changed.
pub(super) async fn tell(
    job: &Job,
    ctx: &Ctx,
    old: &JobStatus,
    new: &JobStatus,
    fault: Option<&Fault>,
) {
    for (attempt, note) in failed(old, new) {
        let (to, action) = (&ctx.recorder, format!("Attempt{attempt}"));
        say_of(to, job, EventType::Warning, "RunFailed", &note, &action).await;
    }
    for (attempt, note) in kept(old, new) {
        let (to, action) = (&ctx.recorder, format!("Attempt{attempt}"));
        say_of(to, job, EventType::Normal, "Kept", &note, &action).await;
    }
    let is_told = old.reason.as_deref() == fault.map(|fault| fault.reason);
    if let (Some(fault), false) = (fault, is_told) {
        let (kind, message) = (EventType::Warning, &fault.message);
        say(&ctx.recorder, job, kind, fault.reason, message).await;
    }
    if let Some((kind, reason, note)) = phase(old, new) {
        say(&ctx.recorder, job, kind, reason, &note).await;
    }
}

/// Whether an attempt had ended before, or is older than what is remembered.
fn is_known(old: &JobStatus, attempt: i32) -> bool {
    let before = old.runs.iter().find(|run| run.attempt == attempt);
    before.is_none_or(|run| run.outcome.is_some())
}

/// Runs that failed, by attempt.
fn failed(old: &JobStatus, new: &JobStatus) -> impl Iterator<Item = (i32, String)> {
    let failed = new
        .runs
        .iter()
        .filter(|run| run.message.is_some() && !is_known(old, run.attempt));
    failed.take(TOLD_MAX).map(|run| {
        let node = run.node.as_ref().map(|node| format!(" on {node}"));
        let note = format!(
            "Run {}, attempt {}{}: {}",
            run.index,
            run.attempt,
            node.unwrap_or_default(),
            run.message.as_deref().unwrap_or_default(),
        );
        (run.attempt, note)
    })
}

/// Runs whose changes were kept, by attempt.
fn kept(old: &JobStatus, new: &JobStatus) -> impl Iterator<Item = (i32, String)> {
    let kept = new
        .runs
        .iter()
        .filter(|run| run.flist.is_some() && !is_known(old, run.attempt));
    kept.take(TOLD_MAX).map(|run| {
        let flist = run.flist.as_deref().unwrap_or_default();
        let note = format!("Run {}: what it changed is Flist {flist}", run.index);
        (run.attempt, note)
    })
}

/// The phase, if it is another one.
fn phase(old: &JobStatus, new: &JobStatus) -> Option<(EventType, &'static str, String)> {
    if new.phase == old.phase {
        return None;
    }
    Some(match (new.phase, new.outcome) {
        (Some(JobPhase::Finished), Some(JobOutcome::Succeeded)) => {
            (EventType::Normal, "Finished", ended(new))
        }
        (Some(JobPhase::Finished), _) => (EventType::Warning, "Finished", ended(new)),
        (Some(JobPhase::Running), _) => (
            EventType::Normal,
            "Started",
            "Its runs were sent".to_owned(),
        ),
        (Some(JobPhase::Pending), _) if new.reason.as_deref() != Some("Suspended") => {
            let said = find(&new.conditions, "Admitted");
            let note = said.map(|said| said.message.clone()).unwrap_or_default();
            (EventType::Normal, "Queued", note)
        }
        (Some(JobPhase::Pending), _) => {
            let note = "It waits until spec.suspend is false".to_owned();
            (EventType::Normal, "Suspended", note)
        }
        _ => return None,
    })
}

/// How it ended, and how long it took.
fn ended(status: &JobStatus) -> String {
    let said = find(&status.conditions, "Finished").map(|said| said.message.clone());
    let duration = status.duration.as_deref().unwrap_or("0s");
    format!("{} ({duration})", said.unwrap_or_default())
}
