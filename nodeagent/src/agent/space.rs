//! The cache's bound: what may come in, what has to go.
//!
//! Always holds: the bytes on disk plus the bytes reserved for what is being fetched stay below the
//! bound, or new data is refused. What goes, in this order, until there is room:
//!
//! 1. whole items nobody leases (blobs and copies of flists that no live mount uses), by age of last
//!    use; once they have not been used for longer than the expiry they go anyway;
//! 2. cold entries of blobs in use ([`clock`]), except of those the kernel reads by itself and except
//!    what a reader waits for.
//!
//! The same goes when the disk is full before the bound is reached ([`disk_full`]).
//!
//! The books are a figure kept up by adding and corrected by looking at the disk whenever room is
//! made. Nothing blocks under their lock: looking and removing happen on threads that may block, one
//! such thread at a time.

mod books;
mod clock;
mod disk;
mod disk_full;
mod limits;
mod no_room;

#[cfg(test)]
mod tests;

pub(crate) use books::{Lease, Reservation};
pub(crate) use clock::{Cold, Press};
pub(crate) use disk::Item;
pub(crate) use no_room::NoRoom;

use crate::agent::fetch::Urgency;
use books::Books;
use clock::Clock;
use disk::{Disk, OnDisk};
use limits::Limits;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;

/// Part of the free space a cache takes when nobody says how much: design, section 6.
const DEFAULT_SHARE: (u64, u64) = (60, 100);
/// Bound of the default: one terabyte, as above.
const DEFAULT_MAX: u64 = 1_000_000_000_000;
/// Cold data is evicted for more than is needed at once, so that a full cache is not gone through for
/// every entry: this part of the bound, and at most so many bytes.
const SLACK_PART: u64 = 64;
const SLACK_MAX: u64 = 64 << 20;
/// Reading ahead may take this part of the bound at once: more would push out what is being read.
const FOLLOW_PART: u64 = 8;
/// How long a reader waits for room while everything that could go is waited for by others. Below
/// the deadline of its read, so that the reason is told.
const ROOM_PATIENCE: Duration = Duration::from_secs(20);
/// After so long, what other readers hold goes, too, and again each time this has passed: each of them
/// may hold a part of what it needs while it waits for the rest.
const HARD_EVERY: Duration = Duration::from_millis(300);
/// A reader is refused after so many looks in a row found nothing that could ever go: one may have fallen
/// between the landing of somebody's data and the hand's coming by.
const NEVERS: u32 = 3;
/// Between two looks: what was kept for a reader is free soon after it read.
const ROOM_RETRY: Duration = Duration::from_millis(20);

/// The cache's books.
#[derive(Debug)]
pub(crate) struct Space {
    cache: PathBuf,
    disk: Disk,
    clock: Clock,
    books: Mutex<Books>,
    /// An item that was being removed is gone.
    removed: Condvar,
    /// Held by whoever looks at the disk and removes.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// A reservation ended.
    given_back: Notify,
    /// How often something was freed because the disk was full.
    frees: AtomicU64,
}

/// What making room came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Made,
    /// Not now, but others hold what will be free.
    Later,
    Never,
}

impl Space {
    /// Opens the books of a cache, counting what is there, with the limits it was given last.
    pub(crate) fn open(cache: &Path) -> io::Result<Self> {
        let disk = Disk::open(cache)?;
        let used = disk.scan()?.iter().map(|found| found.bytes).sum();
        let limits = Limits::load(cache);
        let books = Books {
            used,
            arrived: 0,
            reserved: 0,
            max: match limits.max {
                Some(max) => max,
                None => default_max(cache, used)?,
            },
            limits,
            leases: HashMap::new(),
            doomed: HashSet::new(),
        };
        Ok(Self {
            cache: cache.to_owned(),
            disk,
            clock: Clock::default(),
            books: Mutex::new(books),
            removed: Condvar::new(),
            turn: Arc::default(),
            given_back: Notify::new(),
            frees: AtomicU64::new(0),
        })
    }

    /// Sets the bound and the expiry, where given, for this agent and its successors, and makes the
    /// cache obey them. Blocks.
    pub(crate) fn configure(&self, max: Option<u64>, expire: Option<Duration>) -> io::Result<()> {
        let _turn = self.turn.blocking_lock();
        let (before, now) = {
            let mut books = self.books();
            let before = books.limits;
            books.limits.max = max.or(before.max);
            books.limits.expire = expire.or(before.expire);
            books.max = max.unwrap_or(books.max);
            (before, books.limits)
        };
        if before != now {
            now.store(&self.cache)?;
        }
        if max.is_some() || expire.is_some() {
            self.expire()?;
            self.make_room(0, Some(Press::Gently))?;
        }
        Ok(())
    }

    /// Bytes on disk, the bound, and the expiry.
    pub(crate) fn report(&self) -> (u64, u64, Option<Duration>) {
        let books = self.books();
        (books.used, books.max, books.limits.expire)
    }

    /// Keeps `bytes` free for data about to arrive, evicting what may go. A reader on demand waits
    /// for what others hold for a moment; data that nobody waits for does not push out data of
    /// mounts, except a little ahead of a reader.
    pub(crate) async fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        urgency: Urgency,
    ) -> Result<Reservation, NoRoom> {
        let deadline = Instant::now() + ROOM_PATIENCE;
        let may = self.may_push_out(bytes, urgency);
        let mut hard_at = Instant::now() + HARD_EVERY;
        let mut nevers = 0;
        loop {
            let given_back = self.given_back.notified();
            if let Some(reserved) = self.try_reserve(bytes) {
                return Ok(reserved);
            }
            self.check_fits(bytes)?;
            let hard = Instant::now() >= hard_at;
            let press = may.map(|press| if hard { Press::Hard } else { press });
            if hard {
                hard_at = Instant::now() + HARD_EVERY;
            }
            let (reserved, room) = self.reserve_evicting(bytes, press).await;
            if let Some(reserved) = reserved {
                return Ok(reserved);
            }
            nevers = if room == Room::Never { nevers + 1 } else { 0 };
            let waits = urgency == Urgency::Demand && nevers < NEVERS;
            if !waits {
                return Err(self.full());
            }
            if Instant::now() >= deadline {
                return Err(self.taken());
            }
            let _ = tokio::time::timeout(ROOM_RETRY, given_back).await;
        }
    }

    /// As [`Space::reserve`] for whoever may block and does not wait for readers.
    pub(crate) fn reserve_blocking(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoRoom> {
        if let Some(reserved) = self.try_reserve(bytes) {
            return Ok(reserved);
        }
        self.check_fits(bytes)?;
        let _turn = self.turn.blocking_lock();
        if let Err(error) = self.make_room(bytes, Some(Press::Gently)) {
            tracing::warn!(%error, "evict from the cache");
        }
        self.try_reserve(bytes).ok_or_else(|| self.full())
    }

    /// Refuses what would not fit into the empty cache.
    pub(crate) fn check_fits(&self, bytes: u64) -> Result<(), NoRoom> {
        let max = self.books().max;
        let needed = bytes;
        (needed <= max)
            .then_some(())
            .ok_or(NoRoom::TooSmall { needed, max })
    }

    fn full(&self) -> NoRoom {
        let max = self.books().max;
        NoRoom::Full { max }
    }

    /// The refusal of who waited for room for as long as it may.
    pub(crate) fn taken(&self) -> NoRoom {
        let max = self.books().max;
        NoRoom::Taken { max }
    }

    /// How hard data of mounts is pressed at first, if at all.
    fn may_push_out(&self, bytes: u64, urgency: Urgency) -> Option<Press> {
        let may = match urgency {
            Urgency::Demand => true,
            Urgency::Follow => bytes <= self.books().max / FOLLOW_PART,
            Urgency::Ahead | Urgency::Asked | Urgency::Others => false,
        };
        may.then_some(Press::Gently)
    }

    fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut books = self.books();
        if !books.fits(bytes) {
            return None;
        }
        books.reserved += bytes;
        let space = Arc::clone(self);
        Some(Reservation { space, bytes })
    }

    /// Makes room where blocking is allowed, after whoever does so now: that may have been enough.
    async fn reserve_evicting(
        self: &Arc<Self>,
        bytes: u64,
        cold: Option<Press>,
    ) -> (Option<Reservation>, Room) {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let space = Arc::clone(self);
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Some(reserved) = space.try_reserve(bytes) {
                return (Some(reserved), Room::Made);
            }
            let room = space.make_room(bytes, cold).unwrap_or_else(|error| {
                tracing::warn!(%error, "evict from the cache");
                Room::Never
            });
            (space.try_reserve(bytes), room)
        });
        made.await.unwrap_or((None, Room::Never))
    }

    /// Protects an item; take the lease before opening its files. Blocks while the item is being
    /// removed.
    pub(crate) fn lease(self: &Arc<Self>, item: Item) -> Lease {
        let mut books = self.books();
        while books.doomed.contains(&item) {
            books = self
                .removed
                .wait(books)
                .expect("no panic while keeping books");
        }
        *books.leases.entry(item).or_insert(0) += 1;
        let space = Arc::clone(self);
        Lease { space, item }
    }

    /// Lets cold entries of a blob in use go when there is no room.
    pub(crate) fn watch(&self, blob: &Arc<dyn Cold>) {
        self.clock.add(blob);
    }

    /// Drops unleased data unused for longer than the expiry. To be called now and then. Blocks.
    pub(crate) fn expire_now(&self) -> io::Result<()> {
        let _turn = self.turn.blocking_lock();
        self.expire()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic while keeping books")
    }

    fn expire(&self) -> io::Result<()> {
        let Some(expire) = self.books().limits.expire else {
            return Ok(());
        };
        let now = SystemTime::now();
        for found in self.look()? {
            if now.duration_since(found.last_used).unwrap_or_default() > expire {
                self.evict(&found);
            }
        }
        Ok(())
    }

    /// Looks at the disk, and corrects the books by it. What arrives meanwhile may count twice, until
    /// the next look.
    fn look(&self) -> io::Result<Vec<OnDisk>> {
        self.books().arrived = 0;
        let found = self.disk.scan()?;
        let mut books = self.books();
        books.used = found.iter().map(|found| found.bytes).sum::<u64>() + books.arrived;
        Ok(found)
    }

    fn make_room(&self, bytes: u64, cold: Option<Press>) -> io::Result<Room> {
        let mut found = self.look()?;
        found.sort_by_key(|found| found.last_used);
        for item in found {
            if self.books().fits(bytes) {
                return Ok(Room::Made);
            }
            self.evict(&item);
        }
        let (wanted, reserved) = {
            let books = self.books();
            if books.fits(bytes) {
                return Ok(Room::Made);
            }
            let slack = (books.max / SLACK_PART).min(SLACK_MAX);
            let over = books.used + books.reserved + bytes - books.max;
            (over + slack, books.reserved)
        };
        let Some(press) = cold else {
            return Ok(Room::Never);
        };
        let evicted = self.clock.evict(wanted, press);
        let (entries, freed) = (evicted.entries, evicted.freed);
        tracing::debug!(entries, bytes = freed, "evicted cold data of mounts");
        let mut books = self.books();
        books.used = books.used.saturating_sub(freed);
        Ok(match books.fits(bytes) {
            true => Room::Made,
            false if evicted.kept > 0 || reserved > 0 => Room::Later,
            false => Room::Never,
        })
    }

    /// Removes an item, unless somebody leases it; gives the bytes freed. One that cannot be removed
    /// stays; others may do.
    fn evict(&self, found: &OnDisk) -> u64 {
        {
            let mut books = self.books();
            if books.leases.contains_key(&found.item) {
                return 0;
            }
            books.doomed.insert(found.item);
        }
        let removed = self.disk.remove(&found.item);
        let mut books = self.books();
        books.doomed.remove(&found.item);
        self.removed.notify_all();
        if let Err(error) = removed {
            drop(books);
            tracing::warn!(item = %found.item, %error, "remove from the cache");
            return 0;
        }
        books.used = books.used.saturating_sub(found.bytes);
        drop(books);
        tracing::info!(item = %found.item, bytes = found.bytes, "evicted from the cache");
        found.bytes
    }
}

fn default_max(cache: &Path, used: u64) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(cache)?;
    let free = stat
        .f_bavail
        .saturating_mul(stat.f_frsize)
        .saturating_add(used);
    Ok((free / DEFAULT_SHARE.1 * DEFAULT_SHARE.0).min(DEFAULT_MAX))
}
