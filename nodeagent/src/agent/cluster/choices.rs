//! What is known of peers, shared by all reads: a [`Chooser`] with its clock and its chance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use lamina_discovery::choose::{Attempt, ChoiceConfig, Chooser, Offer, Outcome, Provider, Step};
use lamina_discovery::{NodeId, Random};

use super::pulse::Pulse;
use crate::api::PeerCounts;

/// The choices of this node, whoever it is.
pub(super) struct Choices {
    began: Instant,
    state: Mutex<State>,
}

struct State {
    chooser: Chooser,
    random: Random,
    /// Of those that somebody waits for.
    pulses: HashMap<NodeId, Weak<Pulse>>,
    counts: PeerCounts,
}

impl Default for Choices {
    fn default() -> Self {
        // Offers leave ourselves out, under whatever name.
        let nobody = NodeId::parse("-").expect("a name");
        Self {
            began: Instant::now(),
            state: Mutex::new(State {
                chooser: Chooser::new(nobody, ChoiceConfig::default()),
                random: Random::new(),
                pulses: HashMap::new(),
                counts: PeerCounts::default(),
            }),
        }
    }
}

impl Choices {
    pub(super) fn begin(&self) -> Attempt {
        Attempt::new(self.began.elapsed())
    }

    pub(super) fn next(&self, attempt: &mut Attempt, offer: &Offer) -> Step {
        self.with(|state, now| state.chooser.next(attempt, offer, now, &mut state.random))
    }

    pub(super) fn hedge(&self, attempt: &mut Attempt, providers: &[Provider]) -> Option<NodeId> {
        self.with(|state, now| {
            let random = &mut state.random;
            let second = state.chooser.hedge(attempt, providers, now, random);
            state.counts.hedges += u64::from(second.is_some());
            second
        })
    }

    pub(super) fn may_leave(&self) -> bool {
        self.with(|state, _| state.chooser.may_leave())
    }

    pub(super) fn hedge_after(&self) -> Duration {
        self.with(|state, _| state.chooser.hedge_after())
    }

    pub(super) fn started(&self, id: &NodeId) {
        self.with(|state, now| state.chooser.started(id, now));
    }

    pub(super) fn finished(&self, id: &NodeId, outcome: Outcome) {
        self.with(|state, now| {
            let counts = &mut state.counts;
            *match outcome {
                Outcome::Good(_) => &mut counts.good,
                Outcome::Busy => &mut counts.busy,
                Outcome::Failed => &mut counts.failed,
                Outcome::Wrong => &mut counts.wrong,
                Outcome::Dropped => &mut counts.dropped,
            } += 1;
            let random = &mut state.random;
            state.chooser.finished(id, outcome, now, random);
        });
    }

    /// Requests so far.
    pub(super) fn counts(&self) -> PeerCounts {
        self.with(|state, _| state.counts)
    }

    /// What comes from a node.
    pub(super) fn pulse(&self, id: &NodeId) -> Arc<Pulse> {
        self.with(|state, _| {
            let pulses = &mut state.pulses;
            if let Some(pulse) = pulses.get(id).and_then(Weak::upgrade) {
                return pulse;
            }
            pulses.retain(|_, pulse| pulse.strong_count() > 0);
            let pulse = Arc::new(Pulse::new());
            pulses.insert(id.clone(), Arc::downgrade(&pulse));
            pulse
        })
    }

    /// Peers that are not asked now.
    #[cfg(test)]
    pub(super) fn in_disgrace(&self) -> usize {
        self.with(|state, now| state.chooser.in_disgrace(now))
    }

    fn with<T>(&self, act: impl FnOnce(&mut State, Duration) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut state, self.began.elapsed())
    }
}
