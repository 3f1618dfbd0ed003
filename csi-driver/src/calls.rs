//! Calls under way: one at a time for a volume, a bounded number at once, and to their end even if the
//! caller is gone or the work panics.

use std::{
    collections::HashSet,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Semaphore, time::timeout};
use tonic::Status;

use crate::deadline::Deadline;

/// Calls worked on at once; the others wait within their deadline.
const AT_ONCE: usize = 64;

/// The calls under way.
#[derive(Debug)]
pub struct Calls {
    held: Mutex<HashSet<String>>,
    room: Semaphore,
}

impl Default for Calls {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            room: Semaphore::new(AT_ONCE),
        }
    }
}

impl Calls {
    /// Does `work` with the locks of `keys`, in a task of its own that keeps them until it has ended.
    ///
    /// # Errors
    ///
    /// ABORTED if one of the keys is held or no room came free in time, INTERNAL if the work panicked, else
    /// what the work returns.
    pub async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        keys: Vec<String>,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let held = self.hold(keys)?;
        let calls = Arc::clone(self);
        let task = tokio::spawn(async move {
            let _held = held;
            let room = timeout(deadline.rest(), calls.room.acquire()).await;
            let _room = room.map_err(|_| {
                Status::aborted("too many calls at once on this node; this one is tried again")
            })?;
            work.await
        });
        task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call failed by a mistake in lamina-csi");
            Err(Status::internal(
                "the call failed by a mistake in lamina-csi; see the log of its pod",
            ))
        })
    }

    fn hold(self: &Arc<Self>, keys: Vec<String>) -> Result<Held, Status> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.iter().find(|key| held.contains(*key)) {
            let busy = format!("an earlier call for volume {key} is still being worked on");
            return Err(Status::aborted(busy));
        }
        held.extend(keys.iter().cloned());
        Ok(Held {
            calls: Arc::clone(self),
            keys,
        })
    }
}

struct Held {
    calls: Arc<Calls>,
    keys: Vec<String>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self
            .calls
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use tokio::sync::oneshot;
    use tonic::Code;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    #[tokio::test]
    async fn a_second_call_for_a_volume_is_aborted_until_the_first_ends() {
        let calls = Arc::new(Calls::default());
        let (end, ended) = oneshot::channel::<()>();
        let work = async move { ended.await.map_err(|_| Status::unknown("")) };
        let mut first = Box::pin(calls.run(vec!["v".into()], soon(), work));
        assert!(futures::poll!(&mut first).is_pending());
        drop(first); // the caller goes away; the work does not
        let second = calls.run(vec!["v".into()], soon(), async { Ok(()) }).await;
        assert_eq!(second.unwrap_err().code(), Code::Aborted);
        calls
            .run(vec!["w".into()], soon(), async { Ok(()) })
            .await
            .unwrap();
        end.send(()).unwrap();
        while calls.held.lock().unwrap().contains("v") {
            tokio::task::yield_now().await;
        }
        calls
            .run(vec!["v".into()], soon(), async { Ok(()) })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_and_frees_the_volume() {
        let calls = Arc::new(Calls::default());
        let work = async { panic!("on purpose") };
        let failed: Result<(), _> = calls.run(vec!["v".into()], soon(), work).await;
        assert_eq!(failed.unwrap_err().code(), Code::Internal);
        calls
            .run(vec!["v".into()], soon(), async { Ok(()) })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn calls_beyond_the_bound_are_aborted_in_time() {
        let calls = Arc::new(Calls::default());
        let _all = calls.room.acquire_many(AT_ONCE as u32).await.unwrap();
        let deadline = Deadline::after(Duration::from_millis(200));
        let work = pending::<Result<(), Status>>();
        let late = calls.run(vec!["v".into()], deadline, work).await;
        assert_eq!(late.unwrap_err().code(), Code::Aborted);
    }
}
