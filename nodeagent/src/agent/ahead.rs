//! Fetching before anybody asks: a queue of steps, taken in waves.
//!
//! A wave is what the next few requests bring: steps in order of use, but within the wave in the order
//! of their packs, so that neighbours travel together. Waves grow while no reader waits; while one does
//! they are small, because what is in flight ahead delays a demand by its length.

use crate::agent::fetch::{BATCH_ENTRIES, FetchError, Fetcher, Urgency};
use crate::agent::sources::Source;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Plain bytes of the first wave and of every wave while a reader waits: some 100 KiB on the wire,
/// 4 ms at 200 Mbit/s.
const WAVE_BYTES_MIN: u64 = 256 << 10;
/// Plain bytes of a wave at most: larger ones save few requests and delay what comes next.
const WAVE_BYTES_MAX: u64 = 4 << 20;
/// Waves under way: keeps a link with a long round trip busy.
const WAVES_MAX: usize = 4;
/// The same from nodes that read the same: smaller ones, and more, for one waits for the slowest of those that its parts
/// are from.
const WAVES_SHARED_MAX: usize = 12;
const WAVE_BYTES_SHARED_MAX: u64 = 2 << 20;
/// While a reader waits for one of them: those that are asked ahead are mostly others.
const WAVE_BYTES_SHARED_WAITED: u64 = 1 << 20;
/// What such a wave may have until it is known how long they take. Those that took longer than [`TOO_LONG`] were too large
/// for whoever sends them: what is on its way for seconds keeps others from being served.
const WAVE_BYTES_SHARED_FIRST: u64 = 512 << 10;
const TOO_LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(500);

/// A run of entries of one blob.
pub(crate) type Step = (Arc<Source>, Range<u32>);

/// Steps that wait for their turn.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    steps: VecDeque<Step>,
    draining: bool,
    /// Somebody waits for all of it: no guess.
    is_asked: bool,
}

impl Ahead {
    /// A queue of these steps, which somebody asked for and nobody takes yet.
    pub(crate) fn of(steps: Vec<Step>) -> Self {
        Self(Mutex::new(Queue {
            steps: steps.into(),
            draining: true,
            is_asked: true,
        }))
    }

    /// Puts steps behind those that wait, and sees to it that they are taken.
    pub(crate) fn later(self: &Arc<Self>, steps: Vec<Step>, fetcher: &Arc<Fetcher>) {
        self.add(steps, fetcher, VecDeque::extend);
    }

    /// Puts steps before those that wait: somebody is about to need them.
    pub(crate) fn sooner(self: &Arc<Self>, steps: Vec<Step>, fetcher: &Arc<Fetcher>) {
        self.add(steps, fetcher, |queue, steps| {
            for step in steps.into_iter().rev() {
                queue.push_front(step);
            }
        });
    }

    /// Puts steps in the place of those that wait: they say better what is needed.
    pub(crate) fn instead(self: &Arc<Self>, steps: Vec<Step>, fetcher: &Arc<Fetcher>) {
        self.add(steps, fetcher, |queue, steps| {
            queue.clear();
            queue.extend(steps);
        });
    }

    /// Forgets what waits.
    pub(crate) fn clear(&self) {
        self.lock().steps.clear();
    }

    /// Takes steps until none is left, several waves at a time. Ends with the first failure; what was
    /// under way then goes on, what waits stays.
    pub(crate) async fn drain(&self, fetcher: &Arc<Fetcher>) -> Result<(), FetchError> {
        let (mut size, mut bound) = (WAVE_BYTES_MIN, WAVE_BYTES_SHARED_FIRST);
        let mut flying = FuturesUnordered::new();
        loop {
            loop {
                let mut queue = self.lock();
                let (waves_max, size_max) = queue.limits(bound);
                if flying.len() >= waves_max {
                    break;
                }
                size = size.min(size_max);
                let urgency = queue.urgency();
                let wave = queue.take(size);
                drop(queue);
                let Some(wave) = wave else {
                    break;
                };
                size = (size * 2).min(WAVE_BYTES_MAX);
                flying.push(bring(fetcher, wave, urgency));
            }
            let Some(took) = flying.next().await else {
                return Ok(());
            };
            bound = match took? {
                took if took > TOO_LONG => (bound / 2).max(WAVE_BYTES_SHARED_FIRST),
                took if took < SHORT => (bound * 2).min(WAVE_BYTES_SHARED_MAX),
                _ => bound,
            };
        }
    }

    fn add(
        self: &Arc<Self>,
        steps: Vec<Step>,
        fetcher: &Arc<Fetcher>,
        place: impl FnOnce(&mut VecDeque<Step>, Vec<Step>),
    ) {
        let mut queue = self.lock();
        place(&mut queue.steps, steps);
        if queue.steps.is_empty() || std::mem::replace(&mut queue.draining, true) {
            return;
        }
        drop(queue);
        let (ahead, fetcher) = (Arc::clone(self), Arc::clone(fetcher));
        tokio::spawn(async move {
            while !ahead.is_done() {
                if let Err(error) = ahead.drain(&fetcher).await {
                    tracing::warn!(error = crate::chain(&error), "prefetch stopped");
                    ahead.clear();
                }
            }
        });
    }

    /// Whether nothing waits; whoever adds to an empty queue then starts taking anew.
    fn is_done(&self) -> bool {
        let mut queue = self.lock();
        queue.draining = !queue.steps.is_empty();
        !queue.draining
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Wave = Vec<(Arc<Source>, Vec<u32>)>;

impl Queue {
    fn urgency(&self) -> Urgency {
        match self.is_asked {
            true => Urgency::Asked,
            false => Urgency::Ahead,
        }
    }

    /// How many waves there may be, and how many bytes the next may have, by where it is from and whether a reader waits
    /// for that.
    fn limits(&self, bound: u64) -> (usize, u64) {
        let lane = self.steps.front().and_then(|(source, _)| source.lane());
        let Some(lane) = lane else {
            return (WAVES_MAX, WAVE_BYTES_MAX);
        };
        match (lane.is_shared(), lane.is_waited_for()) {
            (false, false) => (WAVES_MAX, WAVE_BYTES_MAX),
            (false, true) => (WAVES_MAX, WAVE_BYTES_MIN),
            (true, false) => (WAVES_SHARED_MAX, bound),
            (true, true) => (WAVES_SHARED_MAX, bound.min(WAVE_BYTES_SHARED_WAITED)),
        }
    }

    /// The next entries that are not local, up to `bytes` of them and at least one, and no more than one
    /// batch: more would queue before demands. `None` at the end.
    fn take(&mut self, bytes: u64) -> Option<Wave> {
        let (mut wave, mut taken, mut count) = (Wave::new(), 0, 0);
        let full = |taken, count| taken >= bytes || count >= BATCH_ENTRIES;
        while !full(taken, count)
            && let Some((source, mut entries)) = self.steps.pop_front()
        {
            let mut missing = Vec::new();
            for entry in entries.by_ref() {
                if source.has(entry) {
                    continue;
                }
                missing.push(entry);
                taken += source.entry_len(entry);
                count += 1;
                if full(taken, count) {
                    break;
                }
            }
            if !entries.is_empty() {
                self.steps.push_front((Arc::clone(&source), entries));
            }
            if missing.is_empty() {
                continue;
            }
            match wave.iter_mut().find(|(known, _)| known.id == source.id) {
                Some((_, known)) => known.extend(missing),
                None => wave.push((source, missing)),
            }
        }
        (!wave.is_empty()).then_some(wave)
    }
}

/// Says how long it took.
async fn bring(
    fetcher: &Arc<Fetcher>,
    wave: Wave,
    urgency: Urgency,
) -> Result<Duration, FetchError> {
    let began = Instant::now();
    let parts = wave
        .iter()
        .map(|(source, entries)| fetcher.ensure_ahead(source, entries, urgency));
    futures::future::try_join_all(parts).await?;
    Ok(began.elapsed())
}
