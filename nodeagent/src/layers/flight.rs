//! One piece of work for however many ask for it.
//!
//! The first caller starts it as a task of its own, so it goes on when callers leave; the others wait for the same
//! result. It is taken off the list before its result is told: who comes later finds the result on disk, or starts
//! anew.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{EnsureError, EnsureErrorKind};

type Status<T> = watch::Receiver<Option<Result<T, EnsureError>>>;

/// All work of one kind under way.
pub(super) struct Flights<T> {
    running: Mutex<HashMap<String, Status<T>>>,
    closed: watch::Sender<bool>,
}

/// What came of a call.
pub(super) struct Landed<T> {
    /// Whether another caller had begun it.
    pub(super) joined: bool,
    pub(super) result: Result<T, EnsureError>,
}

impl<T> Landed<T> {
    fn was_refused_to_another(&self) -> bool {
        let refused = |error: &EnsureError| error.kind().is_of_the_caller();
        self.joined && self.result.as_ref().is_err_and(refused)
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            closed: watch::Sender::new(false),
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Status<T>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the work called `key`, beginning it if nobody has.
    pub(super) async fn join<F>(
        self: &Arc<Self>,
        key: String,
        work: impl FnOnce() -> F,
    ) -> Landed<T>
    where
        F: Future<Output = Result<T, EnsureError>> + Send + 'static,
    {
        let (mut status, joined) = self.begin(key, work);
        loop {
            let now = status.borrow_and_update().clone();
            if let Some(result) = now {
                return Landed { joined, result };
            }
            if status.changed().await.is_err() {
                let result = Err(ended());
                return Landed { joined, result };
            }
        }
    }

    /// The same, but what was refused to whoever began it is tried again by those who joined.
    pub(super) async fn each<F>(
        self: &Arc<Self>,
        key: &str,
        work: impl Fn() -> F,
    ) -> Result<T, EnsureError>
    where
        F: Future<Output = Result<T, EnsureError>> + Send + 'static,
    {
        loop {
            let landed = self.join(key.to_owned(), &work).await;
            if !landed.was_refused_to_another() {
                return landed.result;
            }
        }
    }

    fn begin<F>(self: &Arc<Self>, key: String, work: impl FnOnce() -> F) -> (Status<T>, bool)
    where
        F: Future<Output = Result<T, EnsureError>> + Send + 'static,
    {
        let mut running = self.lock();
        if let Some(status) = running.get(&key) {
            return (status.clone(), true);
        }
        let (sender, status) = watch::channel(None);
        running.insert(key.clone(), status.clone());
        drop(running);
        let landing = Landing {
            flights: Arc::clone(self),
            key,
            sender,
        };
        let (mut closed, work) = (self.closed.subscribe(), work());
        tokio::spawn(async move {
            let result = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => Err(called_off()),
                result = work => result,
            };
            landing.land(result);
        });
        (status, false)
    }
}

/// What they are told of work that panicked.
pub(crate) fn ended() -> EnsureError {
    let what = "the work ended without a result: call again";
    EnsureError::new(EnsureErrorKind::Aborted, what)
}

/// What the callers of work are told that was called off.
pub(crate) fn called_off() -> EnsureError {
    let what = "the work was called off: Lamina is being taken off this node";
    EnsureError::new(EnsureErrorKind::Aborted, what)
}

/// Does `work` on a thread of its own: what talks to registries cannot move between threads.
pub(crate) async fn on_thread<T, F>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, EnsureError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EnsureError>>,
{
    let handle = Handle::current();
    let done = tokio::task::spawn_blocking(move || handle.block_on(work())).await;
    done.unwrap_or_else(|error| Err(ended().because(error)))
}

/// The same, but the work ends after `time_max`, whatever it waits for: `what` was not done then.
pub(crate) async fn on_thread_within<T, F>(
    time_max: Duration,
    what: impl FnOnce() -> String + Send + 'static,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, EnsureError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EnsureError>>,
{
    on_thread(move || async move {
        let done = tokio::time::timeout(time_max, work()).await;
        done.unwrap_or_else(|_| {
            let what = format!("{}: no end of it within {time_max:?}", what());
            Err(EnsureError::new(EnsureErrorKind::DeadlineExceeded, what))
        })
    })
    .await
}

/// Does blocking `work` on a thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EnsureError> + Send + 'static,
) -> Result<T, EnsureError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(ended().because(error)))
}

/// Takes the work off the list however it ends.
struct Landing<T> {
    flights: Arc<Flights<T>>,
    key: String,
    sender: watch::Sender<Option<Result<T, EnsureError>>>,
}

impl<T> Landing<T> {
    fn land(self, result: Result<T, EnsureError>) {
        let sender = self.sender.clone();
        drop(self);
        sender.send_replace(Some(result));
    }
}

impl<T> Drop for Landing<T> {
    fn drop(&mut self) {
        let running = self.flights.running.lock();
        let mut running = running.unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.key);
    }
}
