//! The runs that this process watches: each a stream to the proxy, which ends its run when it is dropped.
//!
//! What ended stays here until it is written into the job's status. Nothing is kept on disk: an attempt that a status has
//! under way and that is not here was another process's.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use lamina_crds::{JobOutcome, JobRun};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::plan::{Ended, How, Ran};
use crate::fault::Fault;
use crate::retry::{Attempts, What};

/// Runs at once, over all jobs: each is a stream and the end of a log in memory.
const RUNS_MAX: usize = 1000;

/// Every run that this process watches.
pub(crate) struct Runs {
    jobs: Arc<Mutex<HashMap<String, Watched>>>,
    room: Arc<Semaphore>,
    news: Arc<Notify>,
    refusals: Attempts,
}

/// Of one job.
#[derive(Default)]
struct Watched {
    live: HashMap<i32, AbortHandle>,
    ended: Vec<Ended>,
    held_until: Option<Instant>,
    /// The version of the object that was looked at last, and until when that is enough.
    looked: Option<(String, Instant)>,
}

/// What is known of one job's runs.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Attempts under way, and those that ended and are not written yet.
    pub(crate) live: BTreeSet<i32>,
    pub(crate) ended: Vec<Ended>,
    /// Nothing is begun before this time has passed.
    pub(crate) held: Option<Duration>,
}

impl Default for Runs {
    fn default() -> Self {
        Self {
            jobs: Arc::default(),
            room: Arc::new(Semaphore::new(RUNS_MAX)),
            news: Arc::default(),
            refusals: Attempts::default(),
        }
    }
}

impl Runs {
    /// Told when a run ended.
    pub(crate) fn news(&self) -> Arc<Notify> {
        Arc::clone(&self.news)
    }

    /// How long a job need not be looked at: it was, as this version of the object, and none of its runs ended since.
    pub(crate) fn nothing_new(&self, uid: &str, version: &str) -> Option<Duration> {
        let jobs = locked(&self.jobs);
        let watched = jobs.get(uid).filter(|watched| watched.ended.is_empty())?;
        let (seen, until) = watched.looked.as_ref()?;
        let rest = until.saturating_duration_since(Instant::now());
        (seen == version && !rest.is_zero()).then_some(rest)
    }

    /// Something that a job depends on changed: it is looked at again at once.
    pub(crate) fn look_again(&self, uid: &str) {
        if let Some(watched) = locked(&self.jobs).get_mut(uid) {
            watched.looked = None;
            self.news.notify_one();
        }
    }

    /// This version was looked at; that is enough for a while.
    pub(crate) fn looked(&self, uid: &str, version: &str, pause: Duration) {
        let mut jobs = locked(&self.jobs);
        let watched = jobs.entry(uid.to_owned()).or_default();
        watched.looked = Some((version.to_owned(), Instant::now() + pause));
    }

    pub(crate) fn look(&self, uid: &str) -> Seen {
        let jobs = locked(&self.jobs);
        let Some(watched) = jobs.get(uid) else {
            return Seen::default();
        };
        let ended = watched.ended.iter().map(|ended| ended.attempt);
        Seen {
            live: watched.live.keys().copied().chain(ended).collect(),
            ended: watched.ended.clone(),
            held: watched.held_until.and_then(|until| {
                let rest = until.saturating_duration_since(Instant::now());
                Some(rest).filter(|rest| !rest.is_zero())
            }),
        }
    }

    /// Room for this many runs, or for as many as there is room for.
    pub(crate) fn room(&self, wanted: usize) -> Vec<OwnedSemaphorePermit> {
        let permits = (0..wanted).map_while(|_| Arc::clone(&self.room).try_acquire_owned().ok());
        permits.collect()
    }

    /// Watches a run to its end, which is then told.
    pub(crate) fn watch(
        &self,
        uid: &str,
        attempt: i32,
        permit: OwnedSemaphorePermit,
        work: impl Future<Output = How> + Send + 'static,
    ) {
        let mut watch = Watch {
            jobs: Arc::clone(&self.jobs),
            uid: uid.to_owned(),
            attempt,
            how: lost(),
            _permit: permit,
        };
        let news = Arc::clone(&self.news);
        // Held while it is spawned, so that it cannot end before it is known.
        let mut jobs = locked(&self.jobs);
        let task = tokio::spawn(async move {
            watch.how = work.await;
            drop(watch);
            news.notify_one();
        });
        let watched = jobs.entry(uid.to_owned()).or_default();
        watched.live.insert(attempt, task.abort_handle());
    }

    /// Nothing of these was begun, and nobody knows whether they are in the status.
    pub(crate) fn refuse(&self, uid: &str, begun: &[JobRun], fault: &Fault) {
        let mut jobs = locked(&self.jobs);
        let ended = &mut jobs.entry(uid.to_owned()).or_default().ended;
        for run in begun {
            if ended.iter().all(|one| one.attempt != run.attempt) {
                ended.push(Ended {
                    attempt: run.attempt,
                    at: Timestamp::now(),
                    how: How::Refused(fault.clone()),
                });
            }
        }
    }

    /// These are in the status now.
    pub(crate) fn written(&self, uid: &str, ended: &[Ended]) {
        if let Some(watched) = locked(&self.jobs).get_mut(uid) {
            let is_written = |one: &Ended| ended.iter().any(|known| known.attempt == one.attempt);
            watched.ended.retain(|one| !is_written(one));
        }
    }

    /// Ends what is under way of a job.
    pub(crate) fn end(&self, uid: &str) {
        if let Some(watched) = locked(&self.jobs).get_mut(uid) {
            end(watched);
        }
    }

    /// Ends a job's runs and forgets it.
    pub(crate) fn forget(&self, uid: &str) {
        if let Some(mut watched) = locked(&self.jobs).remove(uid) {
            end(&mut watched);
        }
        self.refusals.forget(uid);
    }

    /// Begins nothing of a job for a while, which grows with each time.
    pub(crate) fn hold(&self, uid: &str) -> Duration {
        let pause = self.refusals.failed(uid, What::default());
        let mut jobs = locked(&self.jobs);
        jobs.entry(uid.to_owned()).or_default().held_until = Some(Instant::now() + pause);
        pause
    }

    /// The next pause is short again.
    pub(crate) fn accepted(&self, uid: &str) {
        self.refusals.forget(uid);
    }

    /// Ends every run when it is dropped: who does not lead any more must not run anything.
    pub(crate) fn while_leading(&self) -> impl Drop + use<> {
        Leading(Arc::clone(&self.jobs))
    }
}

/// One run; told of as lost unless it says how it ended.
struct Watch {
    jobs: Arc<Mutex<HashMap<String, Watched>>>,
    uid: String,
    attempt: i32,
    how: How,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut jobs = locked(&self.jobs);
        let Some(watched) = jobs.get_mut(&self.uid) else {
            return;
        };
        // Who ended it does not want to hear of it.
        if watched.live.remove(&self.attempt).is_some() {
            watched.ended.push(Ended {
                attempt: self.attempt,
                at: Timestamp::now(),
                how: std::mem::replace(&mut self.how, lost()),
            });
        }
    }
}

struct Leading(Arc<Mutex<HashMap<String, Watched>>>);

impl Drop for Leading {
    fn drop(&mut self) {
        for watched in locked(&self.0).values_mut() {
            end(watched);
        }
    }
}

fn end(watched: &mut Watched) {
    for (_, task) in watched.live.drain() {
        task.abort();
    }
}

fn lost() -> How {
    How::Ran(Box::new(Ran::lost("the operator stopped watching it")))
}

impl Ran {
    /// A run of which nobody knows how it ended.
    pub(crate) fn lost(why: impl Into<String>) -> Self {
        Self {
            outcome: JobOutcome::Lost,
            exit_code: None,
            node: None,
            base: None,
            message: Some(why.into()),
            log: String::new(),
            kept: None,
            flist: None,
            cpu_us: 0,
            memory_peak_bytes: 0,
        }
    }
}

fn locked(jobs: &Mutex<HashMap<String, Watched>>) -> MutexGuard<'_, HashMap<String, Watched>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(runs: &Runs, attempt: i32, work: impl Future<Output = How> + Send + 'static) {
        let permit = runs.room(1).pop().unwrap();
        runs.watch("u", attempt, permit, work);
    }

    #[tokio::test]
    async fn what_ended_stays_until_it_is_written() {
        let runs = Runs::default();
        watch(&runs, 1, async { lost() });
        watch(&runs, 2, std::future::pending());
        runs.news().notified().await;
        for _ in 0..2 {
            let seen = runs.look("u");
            assert_eq!(seen.live, BTreeSet::from([1, 2]));
            assert_eq!(seen.ended.len(), 1);
        }
        runs.written("u", &runs.look("u").ended);
        let seen = runs.look("u");
        assert_eq!((seen.live, seen.ended.len()), (BTreeSet::from([2]), 0));
    }

    #[tokio::test]
    async fn a_run_that_breaks_is_told_of_and_one_that_was_ended_is_not() {
        let runs = Runs::default();
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        watch(&runs, 1, async move {
            let _dropped = dropped;
            std::future::pending().await
        });
        runs.end("u");
        assert!(is_dropped.await.is_err(), "its stream is gone");
        assert!(runs.look("u").ended.is_empty());
        watch(&runs, 2, async { panic!("broken") });
        while runs.look("u").ended.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(runs.room(RUNS_MAX + 1).len(), RUNS_MAX, "all room is free");
    }

    #[tokio::test]
    async fn who_does_not_lead_any_more_runs_nothing() {
        let runs = Runs::default();
        let leading = runs.while_leading();
        let (dropped, is_dropped) = tokio::sync::oneshot::channel::<()>();
        watch(&runs, 1, async move {
            let _dropped = dropped;
            std::future::pending().await
        });
        drop(leading);
        assert!(is_dropped.await.is_err());
    }
}
