//! All afslets that are known, asked again and again how they are, and names again and again what they stand for.
//!
//! One that is no longer named is offered nothing more; its runs go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lamina_discovery::Random;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;

use crate::afslet::{Afslet, Channels, Known};
use crate::config::{Limits, Lookup};
use crate::dial::{AFSLET, DialError, Dialer};
use crate::freed::Freed;

/// Part of the time between two questions that chance decides, so that proxies do not ask together.
const JITTER: f64 = 0.2;
/// After an afslet was doubted, until it is asked: a burst of refusals is one question.
const DOUBT_PAUSE: Duration = Duration::from_millis(50);
/// How long a run waits at most until each afslet was asked once.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// All afslets.
pub(crate) struct Afslets {
    names: Vec<String>,
    lookup: Lookup,
    dialer: Dialer,
    limits: Limits,
    polls: Arc<Semaphore>,
    state: Mutex<State>,
    /// There may be room where there was none.
    pub(crate) freed: Arc<Freed>,
    /// Some afslet was asked for the first time, or names were looked up.
    settled: Notify,
}

#[derive(Default)]
struct State {
    is_looked: bool,
    found: BTreeMap<String, BTreeSet<SocketAddr>>,
    known: BTreeMap<SocketAddr, Polled>,
    errors: BTreeMap<String, String>,
}

struct Polled {
    afslet: Arc<Afslet>,
    polling: AbortHandle,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

impl Afslets {
    pub(crate) fn new(names: Vec<String>, lookup: Lookup, dialer: Dialer, limits: Limits) -> Self {
        Self {
            names,
            lookup,
            dialer,
            polls: Arc::new(Semaphore::new(limits.polls_max)),
            limits,
            state: Mutex::default(),
            freed: Arc::default(),
            settled: Notify::new(),
        }
    }

    /// Looks names up again and again; never ends.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut random = Random::new();
        loop {
            self.look().await;
            tokio::time::sleep(random.around(self.limits.lookup_every, JITTER)).await;
        }
    }

    /// Asks nobody any more.
    pub(crate) fn end(&self) {
        self.state().known.clear();
    }

    /// Looks every name up once.
    async fn look(self: &Arc<Self>) {
        let mut found = BTreeMap::new();
        let mut errors = BTreeMap::new();
        for name in &self.names {
            let looking = self.lookup.find(name);
            match tokio::time::timeout(self.limits.lookup_deadline, looking).await {
                Ok(Ok(addresses)) => {
                    found.insert(name.clone(), BTreeSet::from_iter(addresses));
                }
                Ok(Err(error)) => {
                    tracing::warn!(%name, %error, "look for afslets");
                    errors.insert(name.clone(), error.to_string());
                }
                Err(_) => {
                    tracing::warn!(%name, "looking for afslets takes too long");
                    errors.insert(name.clone(), "looking it up takes too long".to_owned());
                }
            }
        }
        let renewed = self.dialer.look();
        let mut state = self.state();
        // What cannot be looked up is as it was.
        state.found.extend(found);
        state.errors = errors;
        state.is_looked = true;
        self.take(&mut state, renewed);
        drop(state);
        self.settled.notify_waiters();
    }

    /// Begins with new addresses, and leaves those that are no longer named.
    fn take(self: &Arc<Self>, state: &mut State, renewed: bool) {
        let named: BTreeSet<SocketAddr> = state.found.values().flatten().copied().collect();
        state.known.retain(|at, _| named.contains(at));
        for at in named {
            if let Some(polled) = state.known.get(&at) {
                if renewed && let Ok(channels) = self.channels(at) {
                    polled.afslet.reconnect(channels);
                }
                continue;
            }
            if state.known.len() >= self.limits.afslets_max {
                let most = self.limits.afslets_max;
                tracing::warn!(%at, "there are more than {most} afslets: one is left out");
                continue;
            }
            match self.channels(at) {
                Ok(channels) => {
                    let afslet = Arc::new(Afslet::new(at, channels));
                    let polling = tokio::spawn(Arc::clone(self).poll(Arc::clone(&afslet)));
                    let polling = polling.abort_handle();
                    state.known.insert(at, Polled { afslet, polling });
                }
                Err(error) => {
                    tracing::warn!(%at, %error, "dial an afslet");
                    state.errors.insert(at.to_string(), error.to_string());
                }
            }
        }
    }

    fn channels(&self, at: SocketAddr) -> Result<Channels, DialError> {
        let at = at.to_string();
        Ok(Channels {
            runs: self.dialer.dial(&at, AFSLET)?,
            questions: self.dialer.dial(&at, AFSLET)?,
        })
    }

    /// Asks one how it is, again and again; never ends.
    async fn poll(self: Arc<Self>, afslet: Arc<Afslet>) {
        let mut random = Random::new();
        loop {
            {
                let turn = self.polls.acquire().await;
                if afslet.poll(self.limits.poll_deadline).await {
                    self.freed.tell();
                }
                drop(turn);
            }
            self.settled.notify_waiters();
            let pause = random.around(self.limits.poll_every, JITTER);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = afslet.doubted() => tokio::time::sleep(DOUBT_PAUSE.min(pause)).await,
            }
        }
    }

    /// Waits until each was asked once, so that the first runs are not refused for want of knowledge.
    pub(crate) async fn settled(&self) {
        let settling = async {
            loop {
                let settled = self.settled.notified();
                tokio::pin!(settled);
                settled.as_mut().enable();
                if self.is_settled() {
                    return;
                }
                settled.await;
            }
        };
        // Then with what is known.
        let _ = tokio::time::timeout(SETTLE_MAX, settling).await;
    }

    fn is_settled(&self) -> bool {
        let state = self.state();
        state.is_looked && state.known.values().all(|polled| polled.afslet.is_polled())
    }

    pub(crate) fn all(&self) -> Vec<Arc<Afslet>> {
        let state = self.state();
        let known = state.known.values();
        known.map(|polled| Arc::clone(&polled.afslet)).collect()
    }

    pub(crate) fn known(&self) -> Vec<Known> {
        self.all().iter().map(|afslet| afslet.known()).collect()
    }

    /// What names could not be looked up, and what addresses not be dialled.
    pub(crate) fn errors(&self) -> Vec<(String, String)> {
        self.state().errors.clone().into_iter().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
