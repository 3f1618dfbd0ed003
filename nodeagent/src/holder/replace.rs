//! Running the children by other programs, while mounts are in use.
//!
//! What always holds: one child at a time is away, the next only after the successor of the one before it
//! said that it works; a successor that ends before it worked, or takes too long, gives way to the program
//! that was there before, and with it those that were replaced before it: all children are of one program, and
//! the replacement is over. Descriptors stay in the holder all the while.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::protocol::{Programs, Reply};
use super::supervise::{ChildSpec, Supervised, Trial};

/// How long a successor may take until it works: it waits for its predecessor's lock and finds live mounts
/// again.
const TRIAL_DEADLINE: Duration = Duration::from_secs(30);

/// A replacement that is under way, and how the last one went.
#[derive(Debug, Default)]
pub(super) struct Replacement {
    /// The child whose successor is not known to work yet, until when it must, and what it was run by.
    trying: Option<(String, Instant, Vec<OsString>)>,
    waiting: VecDeque<ChildSpec>,
    /// Children whose successors work, and what they were run by.
    replaced: Vec<(String, Vec<OsString>)>,
    given_up: Option<String>,
}

impl Replacement {
    /// Begins one.
    pub(super) fn begin(&mut self, wanted: Vec<ChildSpec>, children: &[Supervised]) -> Reply {
        if self.is_under_way() {
            return Reply::Refused("another replacement is under way".into());
        }
        let is_known = |spec: &ChildSpec| children.iter().any(|c| c.name() == spec.name);
        if let Some(stranger) = wanted.iter().find(|spec| !is_known(spec)) {
            return Reply::Refused(format!("there is no child {}", stranger.name));
        }
        if wanted.iter().any(|spec| spec.argv.is_empty()) {
            return Reply::Refused("a child without a program".into());
        }
        self.given_up = None;
        self.replaced.clear();
        self.waiting = wanted.into();
        Reply::Done
    }

    /// Goes on as far as possible. `failed` is a child whose successor ended before it worked.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        failed: Option<&str>,
        children: &mut [Supervised],
    ) {
        if let Some((name, until, _)) = &self.trying {
            let Some(child) = children.iter_mut().find(|child| child.name() == name) else {
                return;
            };
            if failed == Some(name) || (now >= *until && child.trial() == Trial::Open) {
                let why = format!("{name} did not work when run by the new program");
                tracing::error!(why, "replacement given up");
                child.give_up_trial();
                for (name, before) in self.replaced.drain(..) {
                    if let Some(child) = children.iter_mut().find(|c| c.name() == name) {
                        tracing::info!(child = name, "run by the former program again");
                        child.run_by(before);
                    }
                }
                *self = Self {
                    given_up: Some(why),
                    ..Self::default()
                };
                return;
            }
            if child.trial() == Trial::Open {
                return;
            }
            if let Some((name, _, before)) = self.trying.take() {
                self.replaced.push((name, before));
            }
        }
        if let Some(next) = self.waiting.pop_front() {
            let Some(child) = children.iter_mut().find(|c| c.name() == next.name) else {
                return;
            };
            tracing::info!(child = next.name, "replaced");
            let before = child.spec().argv.clone();
            child.replace(next.argv);
            self.trying = Some((next.name, now + TRIAL_DEADLINE, before));
        }
    }

    /// When to look again although nothing happened.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.trying.as_ref().map(|(_, until, _)| *until)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.trying.is_some() || !self.waiting.is_empty()
    }

    pub(super) fn programs(&self, children: &[Supervised]) -> Programs {
        Programs {
            children: children.iter().map(|child| child.spec().clone()).collect(),
            replacing: self.is_under_way(),
            given_up: self.given_up.clone(),
        }
    }
}
