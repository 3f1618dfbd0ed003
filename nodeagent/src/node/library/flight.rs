//! One piece of work for however many ask for it.
//!
//! The first caller starts it on a thread of its own, so it goes on when callers leave; the others watch. There are
//! only so many such threads: more work waits for one, but not for ever. It is taken off the list before its result is
//! told: who comes later finds the result on disk, or starts anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::{Have, Phase};
use crate::layers::{EnsureError, EnsureErrorKind, called_off, ended};
pub(super) use crate::layers::{on_thread, on_thread_within};

#[derive(Clone)]
enum Status {
    Running(Phase, u64, u64),
    Done(Box<Result<Have, EnsureError>>),
}

/// How the work tells where it is.
#[derive(Clone)]
pub(super) struct Teller(watch::Sender<Status>);

impl Teller {
    /// `done` of `total` bytes of a phase; 0: not known.
    pub(super) fn tell(&self, phase: Phase, done: u64, total: u64) {
        self.0.send_replace(Status::Running(phase, done, total));
    }
}

/// What came of a call.
pub(super) struct Landed {
    /// Whether another caller had begun it.
    pub(super) joined: bool,
    pub(super) result: Result<Have, EnsureError>,
}

type Running = HashMap<String, watch::Receiver<Status>>;

/// Work under way at once. Each parks a thread of the runtime's 512 while it waits for others to be free; were all of
/// them parked, none would ever be.
const AT_ONCE: usize = 64;
/// How long work waits to begin.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// All work under way.
pub(super) struct Flights {
    running: Mutex<Running>,
    closed: watch::Sender<bool>,
    threads: Arc<Semaphore>,
    wait_max: Duration,
}

impl Default for Flights {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            closed: watch::Sender::default(),
            threads: Arc::new(Semaphore::new(AT_ONCE)),
            wait_max: WAIT_MAX,
        }
    }
}

impl Flights {
    /// Calls off all work, and refuses more; or takes it again.
    pub(super) fn close(&self, closed: bool) {
        self.closed.send_replace(closed);
    }

    /// Returns once no work is under way.
    pub(super) async fn landed(&self) {
        while let Some(mut work) = { self.lock().values().next().cloned() } {
            // An error: its sender is gone, and so is it.
            while work.changed().await.is_ok() {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the work called `key`, beginning it if nobody has.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        key: String,
        progress: &(dyn Fn(Phase, u64, u64) + Send + Sync),
        work: impl FnOnce(Teller) -> F + Send + 'static,
    ) -> Landed
    where
        F: Future<Output = Result<Have, EnsureError>>,
    {
        let (mut status, joined) = match self.lock().entry(key.clone()) {
            Entry::Occupied(running) => (running.get().clone(), true),
            Entry::Vacant(place) => {
                let (sender, status) = watch::channel(Status::Running(Phase::Resolve, 0, 0));
                place.insert(status.clone());
                let teller = Teller(sender.clone());
                let landing = Landing {
                    flights: Arc::clone(self),
                    key,
                    sender,
                };
                tokio::spawn(self.fly(landing, move || work(teller)));
                (status, false)
            }
        };
        let result = loop {
            let now = status.borrow_and_update().clone();
            match now {
                Status::Running(phase, done, total) => progress(phase, done, total),
                Status::Done(result) => break *result,
            }
            if status.changed().await.is_err() {
                break Err(ended());
            }
        };
        let result = result.map(|have| Have {
            was_here: false,
            ..have
        });
        Landed { joined, result }
    }

    /// Does work on a thread once one may be had, unless it is called off.
    fn fly<F>(
        &self,
        landing: Landing,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static
    where
        F: Future<Output = Result<Have, EnsureError>>,
    {
        let (threads, wait_max) = (Arc::clone(&self.threads), self.wait_max);
        let (mut closed, mut closed_later) = (self.closed.subscribe(), self.closed.subscribe());
        async move {
            let thread = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return landing.land(Err(called_off())),
                thread = timeout(wait_max, threads.acquire_owned()) => thread,
            };
            let Ok(thread) = thread else {
                return landing.land(Err(busy()));
            };
            let work = move || async move {
                tokio::select! {
                    biased;
                    _ = closed_later.wait_for(|closed| *closed) => Err(called_off()),
                    result = work() => result,
                }
            };
            let handle = Handle::current();
            tokio::task::spawn_blocking(move || {
                let _thread = thread;
                landing.land(handle.block_on(work()));
            });
        }
    }
}

fn busy() -> EnsureError {
    let what = "too many flists are being made on this node: call again later";
    EnsureError::new(EnsureErrorKind::ResourceExhausted, what)
}

/// Takes the work off the list however it ends.
struct Landing {
    flights: Arc<Flights>,
    key: String,
    sender: watch::Sender<Status>,
}

impl Landing {
    fn land(self, result: Result<Have, EnsureError>) {
        let sender = self.sender.clone();
        drop(self);
        sender.send_replace(Status::Done(Box::new(result)));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 512 pieces of work held all threads, and each waited for another one.
    #[test]
    fn more_work_than_there_are_threads_still_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(3)
            .enable_all()
            .build()
            .unwrap();
        let flights = Arc::new(Flights {
            threads: Arc::new(Semaphore::new(2)),
            ..Flights::default()
        });
        let one = |number: usize| {
            let flights = Arc::clone(&flights);
            async move {
                let work = |_| async {
                    // As a conversion does.
                    let _ = tokio::task::spawn_blocking(|| {}).await;
                    Err(ended())
                };
                flights.join(number.to_string(), &|_, _, _| {}, work).await
            }
        };
        let all = runtime.block_on(async {
            let all = futures::future::join_all((0..20).map(one));
            timeout(Duration::from_secs(60), all).await
        });
        // Threads that wait for each other must not keep the test.
        runtime.shutdown_background();
        let ends: Vec<_> = all
            .as_ref()
            .unwrap()
            .iter()
            .map(|landed| landed.result.as_ref())
            .collect();
        let aborted = |end: &Result<&Have, &EnsureError>| {
            end.is_err_and(|error| error.kind() == EnsureErrorKind::Aborted)
        };
        assert!(ends.iter().all(aborted));
    }

    #[tokio::test]
    async fn work_that_finds_no_thread_in_time_is_refused_and_forgotten() {
        let flights = Arc::new(Flights {
            threads: Arc::new(Semaphore::new(0)),
            wait_max: Duration::ZERO,
            ..Flights::default()
        });
        let work = |_| async { Err(ended()) };
        let landed = flights.join("a".into(), &|_, _, _| {}, work).await;
        let refused = landed.result.unwrap_err();
        assert_eq!(refused.kind(), EnsureErrorKind::ResourceExhausted);
        flights.landed().await;
    }
}
