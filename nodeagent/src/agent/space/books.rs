//! What the books say, and what keeps a line in them: reservations and leases, until they are dropped.

use super::Space;
use super::disk::Item;
use super::limits::Limits;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What the cache holds and may hold.
#[derive(Debug)]
pub(super) struct Books {
    /// Bytes on disk.
    pub(super) used: u64,
    /// Of them, what arrived since the disk was last looked at.
    pub(super) arrived: u64,
    /// Bytes kept free for what is on its way.
    pub(super) reserved: u64,
    /// The bound.
    pub(super) max: u64,
    pub(super) limits: Limits,
    /// How often each item is leased.
    pub(super) leases: HashMap<Item, usize>,
    /// Being removed: not to be leased before they are gone.
    pub(super) doomed: HashSet<Item>,
}

impl Books {
    /// Whether so many bytes more stay below the bound.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.used
            .saturating_add(self.reserved)
            .saturating_add(bytes)
            <= self.max
    }
}

/// Room kept for data under way. What lands moves from here to the bytes used; the rest is given
/// back on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(super) space: Arc<Space>,
    pub(super) bytes: u64,
}

/// Protection of an item from eviction, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) space: Arc<Space>,
    pub(super) item: Item,
}

impl Reservation {
    /// Bytes that may still come.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts bytes that arrived on disk.
    pub(crate) fn land(&mut self, bytes: u64) {
        let mut books = self.space.books();
        books.used += bytes;
        books.arrived += bytes;
        let covered = bytes.min(self.bytes);
        books.reserved -= covered;
        self.bytes -= covered;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.books().reserved -= self.bytes;
        self.space.given_back.notify_waiters();
    }
}

impl Lease {
    /// The cache the item is in.
    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut books = self.space.books();
        if let Some(count) = books.leases.get_mut(&self.item) {
            *count -= 1;
            if *count == 0 {
                books.leases.remove(&self.item);
            }
        }
    }
}
