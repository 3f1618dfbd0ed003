//! The bound for all lanes, with a fair share for each.
//!
//! Always holds: a lane that has nothing, or would not have more than the bound divided by the lanes that
//! have or want something, gets what it asks for at once. Beyond that it waits until all lanes together
//! stay within the bound. So lanes that hang keep what they took while they were few, and nobody waits
//! for it. What is in flight exceeds the bound by the shares of those who came later: by the bound times
//! the logarithm of their number at most, as the share shrinks with it, and by single batches.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The bound.
#[derive(Debug)]
pub(super) struct Total {
    max: u32,
    state: Mutex<State>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct State {
    taken: u32,
    /// Lanes that have or want something.
    lanes: u32,
}

/// What one lane has of it.
#[derive(Debug)]
pub(super) struct Share {
    total: Arc<Total>,
    /// Changed under the lock of `total` only, as is the next.
    taken: AtomicU32,
    users: AtomicU32,
}

/// A part of the bound, wanted or had; given back on drop.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    share: &'a Share,
    amount: u32,
}

impl Total {
    pub(super) fn new(max: u32) -> Self {
        Self {
            max,
            state: Mutex::default(),
            given_back: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    pub(super) fn of(total: &Arc<Total>) -> Self {
        Self {
            total: Arc::clone(total),
            taken: AtomicU32::new(0),
            users: AtomicU32::new(0),
        }
    }

    /// Waits for a part of the bound.
    pub(super) async fn take(&self, amount: u32) -> Taken<'_> {
        let mut taken = self.want();
        loop {
            let mut given_back = std::pin::pin!(self.total.given_back.notified());
            // What is given back from here on is noticed.
            given_back.as_mut().enable();
            if self.try_take(amount) {
                taken.amount = amount;
                return taken;
            }
            given_back.await;
        }
    }

    fn want(&self) -> Taken<'_> {
        let mut state = self.total.state();
        if self.users.fetch_add(1, Ordering::Relaxed) == 0 {
            state.lanes += 1;
        }
        Taken {
            share: self,
            amount: 0,
        }
    }

    fn try_take(&self, amount: u32) -> bool {
        let mut state = self.total.state();
        let has = self.taken.load(Ordering::Relaxed);
        let fair = has == 0 || has + amount <= self.total.max / state.lanes;
        if !fair && state.taken + amount > self.total.max {
            return false;
        }
        state.taken += amount;
        self.taken.fetch_add(amount, Ordering::Relaxed);
        true
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let (share, total) = (self.share, &self.share.total);
        let mut state = total.state();
        state.taken -= self.amount;
        share.taken.fetch_sub(self.amount, Ordering::Relaxed);
        if share.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            state.lanes -= 1;
        }
        drop(state);
        total.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn beyond_its_share_a_lane_waits_for_the_bound() {
        let total = Arc::new(Total::new(100));
        let [a, b] = [Share::of(&total), Share::of(&total)];
        let most = a.take(90).now_or_never().unwrap();
        assert!(a.take(20).now_or_never().is_none(), "alone, too");
        let fair = b.take(50).now_or_never().expect("its share");
        assert!(b.take(1).now_or_never().is_none());
        drop(most);
        let beyond = b.take(40).now_or_never().expect("within the bound");
        drop((fair, beyond));
        let state = total.state();
        assert_eq!((state.taken, state.lanes), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_is_told_what_is_given_back() {
        let total = Arc::new(Total::new(10));
        let share = Share::of(&total);
        let held = share.take(10).await;
        let mut waiting = std::pin::pin!(share.take(5));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(held);
        drop(waiting.await);
        assert_eq!(total.state().taken, 0);
    }
}
