//! What was given to an afslet since it last told its status, so that a burst does not go where the first of it fitted.
//!
//! A run counts here from when it is sent until a status that was asked for after its acceptance came back; one that
//! ended after such a status is taken off until the next. Pure: moments are counted, not measured.

use std::collections::BTreeMap;

/// Processors and MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    pub(crate) cpu: u64,
    pub(crate) memory: u64,
}

impl Share {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
        }
    }

    pub(crate) fn at_most(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            memory: self.memory.min(other.memory),
        }
    }

    pub(crate) fn holds(self, other: Self) -> bool {
        self.cpu >= other.cpu && self.memory >= other.memory
    }
}

/// A run in a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry(u64);

/// When a status was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked(u64);

#[derive(Debug)]
struct Given {
    share: Share,
    accepted: Option<u64>,
    is_counted: bool,
}

/// What was given to one afslet.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    moment: u64,
    given: BTreeMap<Entry, Given>,
    /// Counted by the last status, and over since.
    over: Vec<(u64, Share)>,
}

impl Ledger {
    fn next(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn give(&mut self, share: Share) -> Entry {
        let entry = Entry(self.next());
        let given = Given {
            share,
            accepted: None,
            is_counted: false,
        };
        self.given.insert(entry, given);
        entry
    }

    pub(crate) fn accepted(&mut self, entry: Entry) {
        let moment = self.next();
        if let Some(given) = self.given.get_mut(&entry) {
            given.accepted = Some(moment);
        }
    }

    pub(crate) fn ended(&mut self, entry: Entry) {
        let moment = self.next();
        if let Some(given) = self.given.remove(&entry)
            && given.is_counted
        {
            self.over.push((moment, given.share));
        }
    }

    /// A status is asked for now.
    pub(crate) fn ask(&mut self) -> Asked {
        Asked(self.next())
    }

    /// It came back.
    pub(crate) fn told(&mut self, asked: Asked) {
        for given in self.given.values_mut() {
            given.is_counted = given.accepted.is_some_and(|accepted| accepted < asked.0);
        }
        self.over.retain(|(ended, _)| *ended > asked.0);
    }

    /// What is free of what the last status said was.
    pub(crate) fn free(&self, told: Share, limit: Share) -> Share {
        let sum =
            |shares: &mut dyn Iterator<Item = Share>| shares.fold(Share::default(), Share::plus);
        let over = sum(&mut self.over.iter().map(|(_, share)| *share));
        let unknown = self.given.values().filter(|given| !given.is_counted);
        let unknown = sum(&mut unknown.map(|given| given.share));
        told.plus(over).minus(unknown).at_most(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Share = Share {
        cpu: 8,
        memory: 800,
    };

    fn share(cpu: u64) -> Share {
        Share {
            cpu,
            memory: cpu * 100,
        }
    }

    #[test]
    fn a_run_counts_from_when_it_is_sent_and_not_twice() {
        let mut ledger = Ledger::default();
        let run = ledger.give(share(3));
        assert_eq!(ledger.free(LIMIT, LIMIT), share(5));
        // Asked for before it was accepted: may or may not have it.
        let early = ledger.ask();
        ledger.accepted(run);
        ledger.told(early);
        assert_eq!(ledger.free(LIMIT, LIMIT), share(5));
        let asked = ledger.ask();
        ledger.told(asked);
        assert_eq!(ledger.free(share(5), LIMIT), share(5));
        // Over, and the status does not know yet.
        ledger.ended(run);
        assert_eq!(ledger.free(share(5), LIMIT), share(8));
        let asked = ledger.ask();
        ledger.told(asked);
        assert_eq!(ledger.free(LIMIT, LIMIT), LIMIT);
        assert!(ledger.given.is_empty() && ledger.over.is_empty());
    }

    #[test]
    fn a_refused_run_leaves_nothing_and_sums_do_not_overflow() {
        let mut ledger = Ledger::default();
        let run = ledger.give(share(2));
        ledger.ended(run);
        assert_eq!(ledger.free(LIMIT, LIMIT), LIMIT);
        let most = Share {
            cpu: u64::MAX,
            memory: u64::MAX,
        };
        for _ in 0..3 {
            ledger.give(most);
        }
        assert_eq!(ledger.free(LIMIT, LIMIT), Share::default());
        assert_eq!(Ledger::default().free(most, LIMIT), LIMIT);
    }
}
