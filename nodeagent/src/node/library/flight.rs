//! One piece of work for however many ask for it.
//!
//! The first caller starts it on a thread of its own, so it goes on when callers leave; the others watch. It is
//! taken off the list before its result is told: who comes later finds the result on disk, or starts anew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Have, Phase};
pub(super) use crate::layers::on_thread;
use crate::layers::{EnsureError, called_off, ended};

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

/// All work under way.
#[derive(Default)]
pub(super) struct Flights {
    running: Mutex<Running>,
    closed: watch::Sender<bool>,
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
                let (handle, mut closed) = (Handle::current(), self.closed.subscribe());
                let work = move || async move {
                    tokio::select! {
                        biased;
                        _ = closed.wait_for(|closed| *closed) => Err(called_off()),
                        result = work(teller) => result,
                    }
                };
                tokio::task::spawn_blocking(move || landing.land(handle.block_on(work())));
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
