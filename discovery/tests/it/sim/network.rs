//! Time and chance of the simulated cluster: events in their order, delays, what fails how.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use lamina_discovery::Random;
use lamina_discovery::choose::Outcome;

/// A node, by number.
pub(crate) type NodeNo = usize;
/// A layer, by number.
pub(crate) type LayerNo = usize;

/// What happens.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A node looks whether a heartbeat to a replica is due.
    Beat(NodeNo, usize),
    /// A node goes on with a read.
    Try(NodeNo, LayerNo),
    /// A request to a peer ends for the one who asked.
    Ended(NodeNo, LayerNo, NodeNo, Outcome),
    /// A transfer ends for the one who serves.
    Served(NodeNo),
    /// A home has what it pulled.
    Pulled(NodeNo, LayerNo),
    /// A node is gone.
    Crash(NodeNo),
    /// A replica loses its memory.
    Restart(usize),
    /// Every second.
    Tick,
}

/// Events to come.
#[derive(Default)]
pub(crate) struct Agenda {
    events: BinaryHeap<Reverse<(Duration, u64, Boxed)>>,
    count: u64,
}

/// An event that does not take part in the order.
struct Boxed(Event);

impl PartialEq for Boxed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Boxed {}

impl PartialOrd for Boxed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Boxed {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl Agenda {
    pub(crate) fn at(&mut self, when: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, Boxed(event))));
    }

    pub(crate) fn next(&mut self) -> Option<(Duration, Event)> {
        let Reverse((when, _, event)) = self.events.pop()?;
        Some((when, event.0))
    }
}

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As it should.
    Good,
    /// It serves wrong bytes.
    Wrong,
    /// It takes requests and never answers.
    Silent,
}

/// One way.
pub(crate) fn delay(random: &mut Random) -> Duration {
    Duration::from_micros(200) + random.up_to(Duration::from_millis(2))
}

/// How often something happened in the fullest second.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    second: u64,
    count: usize,
    pub(crate) most: usize,
}

impl Peak {
    pub(crate) fn count(&mut self, now: Duration) {
        if self.second != now.as_secs() {
            self.second = now.as_secs();
            self.count = 0;
        }
        self.count += 1;
        self.most = self.most.max(self.count);
    }
}
