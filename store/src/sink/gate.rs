//! Credits that bound the bytes in flight.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a queued chunk costs besides its bytes: keeps millions of one-byte chunks bounded too.
const OVERHEAD: usize = 512;

#[derive(Debug)]
struct State {
    free: usize,
    failed: bool,
}

/// Blocks takers while nothing is free.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    freed: Condvar,
}

impl Gate {
    pub(super) fn new(credits: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: credits,
                failed: false,
            }),
            freed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for credit; `false` once failed. Bounded: whoever holds credit gives it back, or fails.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let cost = bytes + OVERHEAD;
        let mut state = self.lock();
        while !state.failed && state.free < cost {
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !state.failed {
            state.free -= cost;
        }
        !state.failed
    }

    pub(super) fn give(&self, bytes: usize) {
        self.lock().free += bytes + OVERHEAD;
        self.freed.notify_all();
    }

    /// Lets everybody go on, to find out that it is over.
    pub(super) fn fail(&self) {
        self.lock().failed = true;
        self.freed.notify_all();
    }

    pub(super) fn failed(&self) -> bool {
        self.lock().failed
    }
}
