//! News of room, for runs that wait.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Notify;

/// How many runs hear of the same room, one after the other: so that a large one in front does not keep it from the smaller ones
/// behind, and a thousand that wait do not all look for one place.
const HEARERS_MAX: u32 = 64;

/// Wakes those that wait for room, the longest first.
#[derive(Debug, Default)]
pub(crate) struct Freed {
    news: Notify,
    hearers: AtomicU32,
}

impl Freed {
    /// There may be room where there was none.
    pub(crate) fn tell(&self) {
        self.hearers.store(HEARERS_MAX, Ordering::Relaxed);
        self.news.notify_one();
    }

    fn pass_on(&self) {
        let one_less = |left: u32| left.checked_sub(1);
        let passed = self
            .hearers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if passed.is_ok() {
            self.news.notify_one();
        }
    }

    /// Returns when there may be room.
    pub(crate) async fn told(&self) -> Heard<'_> {
        self.news.notified().await;
        Heard(self)
    }
}

/// Held while one that was told looks. Then the next one may, too, also if this one was called off meanwhile: there may
/// be more than it took, or room that is enough for a smaller one.
#[derive(Debug)]
pub(crate) struct Heard<'a>(&'a Freed);

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of those that wait hear of room.
    async fn hear(freed: &Freed) -> u32 {
        let mut heard = 0;
        loop {
            tokio::select! {
                biased;
                _heard = freed.told() => heard += 1,
                () = std::future::ready(()) => return heard,
            }
        }
    }

    #[tokio::test]
    async fn room_is_heard_of_by_more_than_one_and_not_by_all() {
        let freed = Freed::default();
        assert_eq!(hear(&freed).await, 0);
        freed.tell();
        assert_eq!(hear(&freed).await, 1 + HEARERS_MAX);
        assert_eq!(hear(&freed).await, 0);
    }
}
