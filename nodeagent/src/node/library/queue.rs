//! Whose turn it is to convert: few at once, the others wait, and only so many wait.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::layers::{EnsureError, EnsureErrorKind};

/// The queue.
pub(super) struct Queue {
    turns: Semaphore,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Queue {
    /// `at_once` work, `waiting_max` wait.
    pub(super) fn new(at_once: usize, waiting_max: usize) -> Self {
        Self {
            turns: Semaphore::new(at_once.max(1)),
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    /// Waits for a turn, which lasts until what is returned is dropped.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, EnsureError> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(turn);
        }
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let what = format!(
                "{} conversions wait on this node already: call again later",
                self.waiting_max
            );
            return Err(EnsureError::new(EnsureErrorKind::ResourceExhausted, what));
        }
        let _waiting = Waiting(&self.waiting);
        let closed = |_| EnsureError::new(EnsureErrorKind::Aborted, "the node is stopping");
        self.turns.acquire().await.map_err(closed)
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_too_many_is_refused_and_the_next_gets_its_turn() {
        let queue = Queue::new(1, 1);
        let first = queue.turn().await.unwrap();
        let mut second = std::pin::pin!(queue.turn());
        assert!(futures::poll!(&mut second).is_pending());
        let refused = queue.turn().await.unwrap_err();
        assert_eq!(refused.kind(), EnsureErrorKind::ResourceExhausted);
        drop(first);
        drop(second.await.unwrap());
        assert_eq!(queue.waiting.load(Ordering::Relaxed), 0);
    }
}
