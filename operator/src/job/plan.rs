//! What becomes of a job: from its status, what ended and what is watched, to the next status and what is begun. No I/O.
//!
//! What always holds: an attempt is in the status before it begins; one that is under way there and that nobody watches
//! has failed; an index that succeeded is never begun again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use lamina_crds::{JobOutcome, JobPhase, JobRun, JobSpec, JobStatus, RUN_LOG_BYTES_MAX};

use super::indexes::Indexes;
use super::tail::last;
use crate::fault::Fault;

/// Attempts that ended and are still shown.
const ENDED_MAX: usize = 64;
/// After the first failure, doubled with each.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(300);
/// Bytes of a message in a status.
const MESSAGE_BYTES_MAX: usize = 250;

/// An attempt that is over.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ended {
    pub(crate) attempt: i32,
    pub(crate) at: Timestamp,
    pub(crate) how: How,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum How {
    /// It ran, or may have.
    Ran(Box<Ran>),
    /// Nothing of it ran: it does not count, and is tried again.
    Refused(Fault),
    /// Nothing of it ran, and nothing of it ever will.
    Impossible(Fault),
}

/// What a run left.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ran {
    pub(crate) outcome: JobOutcome,
    pub(crate) exit_code: Option<i32>,
    pub(crate) node: Option<String>,
    /// Digest of what it began with.
    pub(crate) base: Option<String>,
    /// Why it did not succeed.
    pub(crate) message: Option<String>,
    pub(crate) log: String,
    /// Digest of it with what it was over, where that was kept.
    pub(crate) kept: Option<String>,
    /// Name of the Flist of that.
    pub(crate) flist: Option<String>,
    pub(crate) cpu_us: u64,
    pub(crate) memory_peak_bytes: u64,
}

/// What is known when a job is looked at.
pub(crate) struct Look<'a> {
    pub(crate) spec: &'a JobSpec,
    /// What ended since it was last written.
    pub(crate) ended: &'a [Ended],
    /// Attempts that this process watches.
    pub(crate) live: &'a BTreeSet<i32>,
    pub(crate) now: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next {
    /// Runs of these indexes may begin.
    Begin(Vec<i32>),
    /// Nothing but to look again, at the latest after this time.
    Wait(Option<Duration>),
    /// It is not to run now.
    Suspended,
    /// It is over.
    Over,
}

/// Takes in what ended; the last refusal, if one came.
pub(crate) fn settle(status: &mut JobStatus, look: &Look<'_>) -> Option<How> {
    let mut refusal = None;
    let mut done = succeeded(status, look.spec);
    for ended in look.ended {
        let under_way = |run: &&mut JobRun| run.attempt == ended.attempt && run.outcome.is_none();
        let Some(run) = status.runs.iter_mut().find(under_way) else {
            continue; // It was cancelled meanwhile.
        };
        match &ended.how {
            How::Ran(ran) => {
                finish(run, ran, ended.at);
                let is_new = ran.outcome == JobOutcome::Succeeded && done.insert(run.index);
                status.failed += i32::from(ran.outcome != JobOutcome::Succeeded);
                status.succeeded += i32::from(is_new);
                show(status, ran);
            }
            refused => {
                refusal = Some(refused.clone());
                status.runs.retain(|run| run.attempt != ended.attempt);
            }
        }
    }
    lose(status, look);
    status.succeeded_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
    status.succeeded = done.count();
    trim(status);
    count(status, look.spec);
    refusal
}

/// Decides what is next; the status says it.
pub(crate) fn decide(status: &mut JobStatus, look: &Look<'_>) -> Next {
    if status.phase == Some(JobPhase::Finished) {
        return Next::Over;
    }
    if status.failed > look.spec.retries {
        let failed = |run: &&JobRun| run.outcome.is_some_and(|how| how != JobOutcome::Succeeded);
        let of = status
            .runs
            .iter()
            .filter(failed)
            .max_by_key(|run| run.attempt);
        let outcome = of.and_then(|run| run.outcome).unwrap_or(JobOutcome::Failed);
        over(status, outcome, look);
        return Next::Over;
    }
    if status.succeeded >= look.spec.completions {
        over(status, JobOutcome::Succeeded, look);
        return Next::Over;
    }
    if look.spec.suspend {
        status.runs.retain(|run| run.outcome.is_some());
        status.phase = Some(JobPhase::Pending);
        count(status, look.spec);
        return Next::Suspended;
    }
    if status.phase.is_none_or(|phase| phase == JobPhase::Pending) {
        status.phase = Some(JobPhase::Admitted);
    }
    if let Some(pause) = pause(status, look.now) {
        return Next::Wait(Some(pause));
    }
    match wanted(status, look.spec) {
        indexes if indexes.is_empty() => Next::Wait(None),
        indexes => Next::Begin(indexes),
    }
}

/// Writes down that runs of these indexes begin; their attempts.
pub(crate) fn record(
    status: &mut JobStatus,
    spec: &JobSpec,
    indexes: &[i32],
    now: Timestamp,
) -> Vec<JobRun> {
    let mut begun = Vec::with_capacity(indexes.len());
    for &index in indexes {
        status.attempts += 1;
        begun.push(JobRun {
            attempt: status.attempts,
            index,
            started_at: Some(Time(now)),
            ..JobRun::default()
        });
    }
    status.started_at.get_or_insert(Time(now));
    status.phase = Some(JobPhase::Running);
    status.runs.extend(begun.iter().cloned());
    count(status, spec);
    begun
}

/// Ends a job whatever is under way.
pub(crate) fn over(status: &mut JobStatus, outcome: JobOutcome, look: &Look<'_>) {
    for run in status.runs.iter_mut().filter(|run| run.outcome.is_none()) {
        run.outcome = Some(JobOutcome::Cancelled);
        run.finished_at = Some(Time(look.now));
    }
    status.phase = Some(JobPhase::Finished);
    status.outcome = Some(outcome);
    status.finished_at = Some(Time(look.now));
    let began = status.started_at.as_ref().map_or(look.now, |time| time.0);
    let seconds = look
        .now
        .as_second()
        .saturating_sub(began.as_second())
        .max(0);
    status.duration = Some(span(seconds));
    trim(status);
    count(status, look.spec);
}

/// Indexes that may begin, the lowest first.
fn wanted(status: &JobStatus, spec: &JobSpec) -> Vec<i32> {
    let done = succeeded(status, spec);
    let active: BTreeSet<i32> = under_way(status).map(|run| run.index).collect();
    let room = usize::try_from(spec.parallelism)
        .unwrap_or(0)
        .saturating_sub(active.len());
    (0..spec.completions)
        .filter(|index| !done.contains(*index) && !active.contains(index))
        .take(room)
        .collect()
}

/// How long to wait after what failed.
fn pause(status: &JobStatus, now: Timestamp) -> Option<Duration> {
    let failures = u32::try_from(status.failed).unwrap_or(0).checked_sub(1)?;
    let failed = |run: &&JobRun| run.outcome.is_some_and(|how| how != JobOutcome::Succeeded);
    let times = status.runs.iter().filter(failed);
    let last = times
        .filter_map(|run| Some(run.finished_at.as_ref()?.0))
        .max()?;
    let full = RETRY_FIRST
        .saturating_mul(1 << failures.min(16))
        .min(RETRY_LAST);
    let passed = u64::try_from(now.as_second().saturating_sub(last.as_second())).unwrap_or(0);
    full.checked_sub(Duration::from_secs(passed))
        .filter(|rest| !rest.is_zero())
}

/// What is under way and watched by nobody: it was another process's.
fn lose(status: &mut JobStatus, look: &Look<'_>) {
    let is_lost = |run: &&mut JobRun| run.outcome.is_none() && !look.live.contains(&run.attempt);
    for run in status.runs.iter_mut().filter(is_lost) {
        run.outcome = Some(JobOutcome::Lost);
        run.finished_at = Some(Time(look.now));
        let message = "the operator was replaced while it ran: nobody knows how it ended";
        run.message = Some(message.to_owned());
        status.failed += 1;
    }
}

fn finish(run: &mut JobRun, ran: &Ran, at: Timestamp) {
    run.outcome = Some(ran.outcome);
    run.exit_code = ran.exit_code;
    run.node.clone_from(&ran.node);
    run.base.clone_from(&ran.base);
    run.flist.clone_from(&ran.flist);
    run.finished_at = Some(Time(at));
    if ran.outcome != JobOutcome::Succeeded {
        run.message = ran.message.as_deref().map(shortened);
        let log = last(&ran.log, RUN_LOG_BYTES_MAX).to_owned();
        run.log_tail = Some(log).filter(|log| !log.is_empty());
    }
}

/// What the job as a whole shows of the run that ended last.
fn show(status: &mut JobStatus, ran: &Ran) {
    status.exit_code = ran.exit_code;
    status.node.clone_from(&ran.node);
    status.log_tail = Some(ran.log.clone()).filter(|log| !log.is_empty());
    if ran.flist.is_some() {
        status.diff.clone_from(&ran.flist);
    }
    let (cpu, memory) = (ran.cpu_us, ran.memory_peak_bytes);
    let mut usage = BTreeMap::new();
    if cpu > 0 {
        let text = format!("{}.{:03}", cpu / 1_000_000, cpu / 1000 % 1000);
        usage.insert("cpuSeconds".to_owned(), text);
    }
    if memory > 0 {
        usage.insert("memoryPeak".to_owned(), memory.to_string());
    }
    status.usage = usage;
}

/// Keeps the last of what ended.
fn trim(status: &mut JobStatus) {
    let ended = status
        .runs
        .iter()
        .filter(|run| run.outcome.is_some())
        .count();
    let mut more = ended.saturating_sub(ENDED_MAX);
    status.runs.retain(|run| {
        let goes = more > 0 && run.outcome.is_some();
        more -= usize::from(goes);
        !goes
    });
}

fn count(status: &mut JobStatus, spec: &JobSpec) {
    status.active = i32::try_from(under_way(status).count()).unwrap_or(i32::MAX);
    status.summary = Some(format!("{}/{}", status.succeeded, spec.completions));
}

fn under_way(status: &JobStatus) -> impl Iterator<Item = &JobRun> {
    status.runs.iter().filter(|run| run.outcome.is_none())
}

fn succeeded(status: &JobStatus, spec: &JobSpec) -> Indexes {
    let text = status.succeeded_indexes.as_deref().unwrap_or_default();
    Indexes::parse(text, spec.completions)
}

pub(crate) fn shortened(text: &str) -> String {
    if text.len() <= MESSAGE_BYTES_MAX {
        return text.to_owned();
    }
    let end = (0..=MESSAGE_BYTES_MAX).rfind(|&at| text.is_char_boundary(at));
    format!("{}…", &text[..end.unwrap_or(0)])
}

/// `1h2m3s`, without leading zeros.
fn span(seconds: i64) -> String {
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests;
