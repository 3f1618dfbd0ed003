//! What an image is: asked at its registry, remembered for a while.
//!
//! Always: the registry is asked once however many ask at the same time; who wants it fresh gets an answer that was
//! asked for after his call; memory, requests at once and the time of each are bounded. Private images are resolved
//! only as far as discovery itself has credentials, which by default it has not: nodes resolve those with their own.

mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lamina_proto::discovery::v1::ResolveImageResponse;
use prost::Message as _;
use tokio::sync::Semaphore;
use tonic::Code;

use crate::clock::Clock;
use crate::image_key::{ImageKey, NamedImage};
pub use upstream::{RegistryUpstream, Upstream};

/// Bounds and times.
#[derive(Debug, Clone)]
pub struct ResolveConfig {
    /// How long an answer is good.
    pub ttl: Duration,
    /// How long one for a pinned digest is good: it cannot change, but images are withdrawn.
    pub ttl_pinned: Duration,
    /// How long a failure is good: long enough for one request instead of thousands.
    pub ttl_failed: Duration,
    /// Answers remembered.
    pub answers_max: usize,
    /// Larger ones are not remembered.
    pub answer_bytes_max: usize,
    /// Requests at once, to all registries.
    pub requests_max: usize,
    /// For one of them, with its repetitions.
    pub deadline: Duration,
}

impl Default for ResolveConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(300),
            ttl_pinned: Duration::from_secs(6 * 3600),
            ttl_failed: Duration::from_secs(5),
            answers_max: 2_048,
            answer_bytes_max: 128 << 10,
            requests_max: 32,
            deadline: Duration::from_secs(60),
        }
    }
}

/// Why an image is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ResolveError {
    /// What the caller can do about it.
    pub code: Code,
    message: String,
}

impl ResolveError {
    /// A failure with what was tried.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Whether the registry may answer another time.
    fn is_passing(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded)
    }
}

type Answer = Result<Arc<ResolveImageResponse>, ResolveError>;

/// An answer and when it was asked for.
#[derive(Debug, Clone)]
struct Known {
    began: Duration,
    good_until: Duration,
    answer: Answer,
    /// What the registry said before it failed.
    last_good: Option<Arc<ResolveImageResponse>>,
}

impl Known {
    /// The answer: in an outage of the registry what was known before, unless it must be fresh.
    fn told(&self, fresh: bool) -> Answer {
        match (&self.answer, &self.last_good) {
            (Err(error), Some(good)) if error.is_passing() && !fresh => Ok(Arc::clone(good)),
            (answer, _) => answer.clone(),
        }
    }
}

/// One image: who holds the gate asks for all.
#[derive(Debug, Default)]
struct Cell {
    gate: tokio::sync::Mutex<()>,
    known: Mutex<Option<Known>>,
}

impl Cell {
    fn known(&self) -> Option<Known> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    fn set(&self, known: Option<Known>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// From memory.
    Memory,
    /// From the registry, for this caller or another one.
    Registry,
}

/// Resolves images.
pub struct Resolver {
    config: ResolveConfig,
    clock: Clock,
    upstream: Box<dyn Upstream>,
    cells: Mutex<HashMap<ImageKey, Arc<Cell>>>,
    requests: Semaphore,
}

impl Resolver {
    /// One that remembers nothing yet.
    pub fn new(upstream: impl Upstream, config: ResolveConfig, clock: Clock) -> Self {
        Self {
            requests: Semaphore::new(config.requests_max),
            config,
            clock,
            upstream: Box::new(upstream),
            cells: Mutex::default(),
        }
    }

    /// What an image is; `fresh`: asked at the registry no sooner than now.
    ///
    /// The answer is an error when the registry refuses or does not answer.
    pub async fn resolve(&self, image: &NamedImage, fresh: bool) -> (Answer, From) {
        let asked = self.clock.now().since;
        let cell = self.cell(&image.key());
        let usable = |known: &Known, now: Duration| match fresh {
            true => known.began >= asked,
            false => known.good_until > now,
        };
        if let Some(known) = cell.known().filter(|known| usable(known, asked)) {
            return (known.told(fresh), From::Memory);
        }
        let _turn = cell.gate.lock().await;
        let before = cell.known();
        let now = self.clock.now().since;
        if let Some(known) = before.as_ref().filter(|known| usable(known, now)) {
            // Asked for by somebody else while we waited for our turn.
            return (known.told(fresh), From::Registry);
        }
        let (began, answer) = self.ask(image).await;
        let last_good = match &answer {
            Ok(told) => Some(Arc::clone(told)),
            Err(_) => before.and_then(|before| before.last_good),
        };
        let known = Known {
            began,
            good_until: self.clock.now().since + self.good_for(image, &answer),
            answer,
            last_good,
        };
        let told = known.told(fresh);
        cell.set(self.is_small(&known).then_some(known));
        (told, From::Registry)
    }

    /// Images that are remembered.
    pub fn len(&self) -> usize {
        self.cells().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn ask(&self, image: &NamedImage) -> (Duration, Answer) {
        let late = || {
            let why = format!("the registry does not answer for {}", image.reference);
            ResolveError::new(Code::DeadlineExceeded, why)
        };
        let asking = async {
            let _turn = self.requests.acquire().await;
            let began = self.clock.now().since;
            let answer = self.upstream.ask(image).await;
            (began, answer.map(Arc::new))
        };
        let asked = tokio::time::timeout(self.config.deadline, asking).await;
        asked.unwrap_or_else(|_| (self.clock.now().since, Err(late())))
    }

    fn good_for(&self, image: &NamedImage, answer: &Answer) -> Duration {
        match answer {
            Err(_) => self.config.ttl_failed,
            Ok(_) if image.reference.digest().is_some() => self.config.ttl_pinned,
            Ok(_) => self.config.ttl,
        }
    }

    fn is_small(&self, known: &Known) -> bool {
        let small =
            |told: &Arc<ResolveImageResponse>| told.encoded_len() <= self.config.answer_bytes_max;
        known.last_good.as_ref().is_none_or(small)
    }

    fn cells(&self) -> std::sync::MutexGuard<'_, HashMap<ImageKey, Arc<Cell>>> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, key: &ImageKey) -> Arc<Cell> {
        let mut cells = self.cells();
        if let Some(cell) = cells.get(key) {
            return Arc::clone(cell);
        }
        if cells.len() >= self.config.answers_max {
            self.make_room(&mut cells);
        }
        let cell = Arc::<Cell>::default();
        cells.insert(key.clone(), Arc::clone(&cell));
        cell
    }

    /// Forgets what is no longer good, or else the oldest; what somebody waits for stays.
    fn make_room(&self, cells: &mut HashMap<ImageKey, Arc<Cell>>) {
        let now = self.clock.now().since;
        let good_until = |cell: &Cell| {
            cell.known()
                .map_or(Duration::ZERO, |known| known.good_until)
        };
        cells.retain(|_, cell| Arc::strong_count(cell) > 1 || good_until(cell) > now);
        if cells.len() < self.config.answers_max {
            return;
        }
        let idle = cells
            .iter()
            .filter(|(_, cell)| Arc::strong_count(cell) == 1);
        let oldest = idle.min_by_key(|(_, cell)| good_until(cell));
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            cells.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
