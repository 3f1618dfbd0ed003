//! Figures of what other nodes were asked for, by how it ended.
//!
//! The agent counts from zero when it is started; sums here never fall while `lamina node` runs.

use std::sync::{Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use crate::api::PeerCounts;

/// How a request may end, and how many did.
type Of = (&'static str, fn(&PeerCounts) -> u64);
const OUTCOMES: [Of; 5] = [
    ("good", |counts| counts.good),
    ("busy", |counts| counts.busy),
    ("failed", |counts| counts.failed),
    ("wrong", |counts| counts.wrong),
    ("dropped", |counts| counts.dropped),
];

/// What is counted of requests to other nodes.
pub(super) struct PeerMetrics {
    requests: IntCounterVec,
    hedges: IntCounter,
    seen: Mutex<PeerCounts>,
}

impl PeerMetrics {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let about = Opts::new(
            "lamina_peer_requests_total",
            "Requests to other nodes for data, by how they ended",
        );
        let requests = IntCounterVec::new(about, &["outcome"])?;
        for (outcome, _) in OUTCOMES {
            // There from the start: an increase from nothing is none.
            requests.with_label_values(&[outcome]);
        }
        let hedges = IntCounter::new(
            "lamina_peer_hedges_total",
            "Of the requests to other nodes, those begun beside another one that was slow",
        )?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(hedges.clone()))?;
        Ok(Self {
            requests,
            hedges,
            seen: Mutex::default(),
        })
    }

    /// Adds what happened since the last look.
    pub(super) fn count(&self, now: &PeerCounts) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Less of anything than before: another agent.
        let counts = OUTCOMES.map(|(_, of)| of);
        let is_same = counts.iter().all(|of| of(now) >= of(&seen)) && now.hedges >= seen.hedges;
        let before = if is_same {
            *seen
        } else {
            PeerCounts::default()
        };
        for (outcome, of) in OUTCOMES {
            let counter = self.requests.with_label_values(&[outcome]);
            counter.inc_by(of(now) - of(&before));
        }
        self.hedges.inc_by(now.hedges - before.hedges);
        *seen = *now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    #[test]
    fn requests_are_counted_by_their_ends_and_sums_never_fall() {
        let registry = Registry::new();
        let metrics = PeerMetrics::new(&registry).unwrap();
        let has = |lines: [&str; 3]| {
            let text = TextEncoder::new();
            let text = text.encode_to_string(&registry.gather()).unwrap();
            for line in lines {
                assert!(text.lines().any(|found| found == line), "{line}: {text}");
            }
        };
        has([
            "lamina_peer_requests_total{outcome=\"wrong\"} 0",
            "lamina_peer_requests_total{outcome=\"dropped\"} 0",
            "lamina_peer_hedges_total 0",
        ]);
        let mut counts = PeerCounts {
            good: 5,
            busy: 4,
            failed: 3,
            wrong: 2,
            dropped: 1,
            hedges: 6,
        };
        metrics.count(&counts);
        metrics.count(&counts);
        counts.wrong += 1;
        metrics.count(&counts);
        has([
            "lamina_peer_requests_total{outcome=\"good\"} 5",
            "lamina_peer_requests_total{outcome=\"wrong\"} 3",
            "lamina_peer_hedges_total 6",
        ]);
        // Another agent, which has asked more of some than the one before.
        metrics.count(&PeerCounts {
            good: 7,
            failed: 1,
            ..PeerCounts::default()
        });
        has([
            "lamina_peer_requests_total{outcome=\"good\"} 12",
            "lamina_peer_requests_total{outcome=\"failed\"} 4",
            "lamina_peer_requests_total{outcome=\"wrong\"} 3",
        ]);
    }
}
