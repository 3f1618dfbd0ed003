//! Turns at what waits for registries: few at once, and of one host only a part of them.
//!
//! Always: whoever waits for one host's turn keeps no other host's callers waiting, and nobody waits longer than is
//! allowed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::flight::called_off;
use super::{EnsureError, EnsureErrorKind};

/// How many turns there are, and how long they are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TurnLimits {
    /// At once.
    pub(crate) all: usize,
    /// At once for one host.
    pub(crate) of_host: usize,
    /// The longest wait.
    pub(crate) wait_max: Duration,
}

/// The turns.
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    of_hosts: Mutex<HashMap<String, Weak<Semaphore>>>,
    limits: TurnLimits,
}

/// A turn; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _of_host: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Turns {
    pub(crate) fn new(limits: TurnLimits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.all)),
            of_hosts: Mutex::default(),
            limits,
        }
    }

    /// Waits for a turn at a registry, `host[:port]`.
    ///
    /// # Errors
    /// `ResourceExhausted` when none came in time.
    pub(crate) async fn at(&self, registry: &str) -> Result<Turn, EnsureError> {
        let both = async {
            // The host's first: who waits for it holds nothing that others wait for.
            let of_host = self.of_host(registry).acquire_owned().await?;
            let of_all = Arc::clone(&self.all).acquire_owned().await?;
            Ok::<_, AcquireError>(Turn {
                _of_host: of_host,
                _of_all: of_all,
            })
        };
        let turn = tokio::time::timeout(self.limits.wait_max, both).await;
        let turn = turn.map_err(|_| {
            let what = format!("wait for a turn at {registry}: too much is read from registries already; call again later");
            EnsureError::new(EnsureErrorKind::ResourceExhausted, what)
        })?;
        turn.map_err(|_| called_off())
    }

    fn of_host(&self, registry: &str) -> Arc<Semaphore> {
        // Ports are free: whoever has a host has all of them.
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let of_hosts = self.of_hosts.lock();
        let mut of_hosts = of_hosts.unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = of_hosts.get(host).and_then(Weak::upgrade) {
            return turns;
        }
        of_hosts.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(self.limits.of_host));
        of_hosts.insert(host.to_owned(), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(wait_max: Duration) -> Turns {
        Turns::new(TurnLimits {
            all: 3,
            of_host: 2,
            wait_max,
        })
    }

    #[tokio::test]
    async fn one_host_never_has_all_turns_by_whatever_port() {
        let turns = turns(Duration::from_secs(3600));
        let first = turns.at("slow").await.unwrap();
        let second = turns.at("slow:1").await.unwrap();
        let mut third = std::pin::pin!(turns.at("slow:2"));
        assert!(futures::poll!(&mut third).is_pending());
        let other = turns.at("other").await.unwrap();
        let mut fourth = std::pin::pin!(turns.at("more"));
        assert!(futures::poll!(&mut fourth).is_pending(), "there are three");
        drop(first);
        drop(fourth.await.unwrap());
        drop(third.await.unwrap());
        drop((second, other));
        assert_eq!(turns.all.available_permits(), 3);
        drop(turns.at("another").await.unwrap());
        assert_eq!(
            turns.of_hosts.lock().unwrap().len(),
            1,
            "who is gone is forgotten"
        );
    }

    #[tokio::test]
    async fn a_wait_for_a_turn_ends() {
        let turns = turns(Duration::ZERO);
        let held = [turns.at("slow").await, turns.at("slow").await];
        let refused = turns.at("slow").await.unwrap_err();
        assert_eq!(refused.kind(), EnsureErrorKind::ResourceExhausted);
        drop(held);
        turns.at("slow").await.unwrap();
    }
}
