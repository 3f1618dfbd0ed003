//! A disk that is full before the cache reaches its bound: others write to it, too.
//!
//! Always holds: a write that met the full disk is tried again only after something was freed since; it
//! gives up when nothing is left that may go, or when readers held all of it for too long.

use super::{HARD_EVERY, NoRoom, Press, ROOM_PATIENCE, ROOM_RETRY, SLACK_MAX, SLACK_PART, Space};
use crate::agent::fetch::Urgency;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// One write's way through a full disk. To be made before the write is tried.
#[derive(Debug)]
pub(crate) struct DiskRoom {
    space: Arc<Space>,
    urgency: Urgency,
    /// How often something had been freed before the last try.
    seen: u64,
    /// When what readers hold goes, too, and when the write gives up.
    hard_at: Option<Instant>,
    deadline: Option<Instant>,
}

/// What looking for something to free came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    Some,
    /// Readers hold what could go.
    Later,
    Nothing,
}

impl DiskRoom {
    /// Returns when the write that needs `bytes` is worth another try, or with the reason why it is not.
    pub(crate) async fn make(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let now = Instant::now();
        let deadline = *self.deadline.get_or_insert(now + ROOM_PATIENCE);
        let hard_at = *self.hard_at.get_or_insert(now + HARD_EVERY);
        loop {
            let press = match self.urgency {
                Urgency::Ahead | Urgency::Asked | Urgency::Others => None,
                Urgency::Demand if Instant::now() >= hard_at => Some(Press::Hard),
                _ => Some(Press::Gently),
            };
            let freed = self.free(bytes, press).await;
            self.seen = self.space.frees.load(Ordering::Acquire);
            let waits = self.urgency == Urgency::Demand && Instant::now() < deadline;
            match freed {
                Freed::Some if Instant::now() < deadline => return Ok(()),
                Freed::Later if waits => tokio::time::sleep(ROOM_RETRY).await,
                _ => return Err(self.space.disk_full()),
            }
        }
    }

    /// After whoever frees now: that may have been enough.
    async fn free(&self, bytes: u64, press: Option<Press>) -> Freed {
        let turn = Arc::clone(&self.space.turn).lock_owned().await;
        if self.space.frees.load(Ordering::Acquire) != self.seen {
            return Freed::Some;
        }
        let space = Arc::clone(&self.space);
        let freed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            space.free_disk(bytes, press).unwrap_or_else(|error| {
                tracing::warn!(%error, "make room on a full disk");
                Freed::Nothing
            })
        });
        freed.await.unwrap_or(Freed::Nothing)
    }
}

impl Space {
    /// For a write that may meet a full disk.
    pub(crate) fn disk_room(self: &Arc<Self>, urgency: Urgency) -> DiskRoom {
        DiskRoom {
            space: Arc::clone(self),
            urgency,
            seen: self.frees.load(Ordering::Acquire),
            hard_at: None,
            deadline: None,
        }
    }

    /// As [`DiskRoom::make`] for whoever may block and does not wait for readers: says whether to try
    /// again.
    pub(crate) fn free_disk_blocking(&self, bytes: u64) -> bool {
        let _turn = self.turn.blocking_lock();
        let freed = self.free_disk(bytes, Some(Press::Gently));
        matches!(freed, Ok(Freed::Some))
    }

    /// The refusal when nothing more can be freed.
    pub(crate) fn disk_full(&self) -> NoRoom {
        let (used, max, _) = self.report();
        NoRoom::DiskFull {
            cache: self.cache.clone(),
            used,
            max,
        }
    }

    /// Frees about `bytes` of disk and some more, in the order of [`Space::make_room`].
    pub(super) fn free_disk(&self, bytes: u64, cold: Option<Press>) -> io::Result<Freed> {
        let mut found = self.look()?;
        found.sort_by_key(|found| found.last_used);
        let wanted = bytes + (self.books().used / SLACK_PART).min(SLACK_MAX);
        let mut freed = 0;
        for item in found {
            if freed >= wanted {
                break;
            }
            freed += self.evict(&item);
        }
        let mut kept = 0;
        if let Some(press) = cold
            && freed < wanted
        {
            let evicted = self.clock.evict(wanted - freed, press);
            let mut books = self.books();
            books.used = books.used.saturating_sub(evicted.freed);
            freed += evicted.freed;
            kept = evicted.kept;
        }
        if freed > 0 {
            self.note_freed(freed);
        }
        Ok(match (freed, kept) {
            (1.., _) => Freed::Some,
            (0, 1..) => Freed::Later,
            (0, 0) => Freed::Nothing,
        })
    }

    /// The first time is worth telling: somebody else fills the disk.
    fn note_freed(&self, bytes: u64) {
        let cache = self.cache.display();
        if self.frees.fetch_add(1, Ordering::Release) == 0 {
            tracing::warn!(%cache, bytes, "the disk is full; evicted from the cache");
        } else {
            tracing::debug!(%cache, bytes, "the disk is full; evicted from the cache");
        }
    }
}
