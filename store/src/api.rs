//! The trait every store and every wrapper implements. Small on purpose: objects never change, but for
//! pointers, of which the last written counts, so there is nothing to lock or compare.

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use lamina_flist::{PackId, PackRecord, Sha256Digest};

use crate::error::Result;
use crate::key::{ObjectKey, ObjectKind};

/// A pack to read from, with what is known about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackRef {
    /// Name.
    pub id: PackId,
    /// Length in bytes; ranges past it are refused without asking the store.
    pub len: u64,
    /// Digest of the bytes, if known: lets an OCI store read without a look-up.
    pub sha256: Option<Sha256Digest>,
}

impl PackRef {
    /// The pack's object key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::Pack(self.id)
    }
}

impl From<&PackRecord> for PackRef {
    fn from(pack: &PackRecord) -> Self {
        Self {
            id: pack.id,
            len: pack.len,
            sha256: Some(pack.sha256),
        }
    }
}

/// One object found by [`Store::list`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub key: ObjectKey,
    /// Length in bytes, where the store's listing tells.
    pub len: Option<u64>,
    /// When it was written, where the store's listing tells.
    pub modified: Option<SystemTime>,
}

/// A place that holds objects.
///
/// Every call returns within a bounded time; a wrapper may shorten it. Implementations never return fewer
/// or more bytes than asked for: that is [`crate::ErrorKind::Corrupt`].
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// The store's URL without credentials, for errors and reports.
    fn name(&self) -> &str;

    /// Whether `put` and `delete` can ever succeed.
    fn writable(&self) -> bool;

    /// A whole object. Longer than `len_max` is `Corrupt`, and never read into memory.
    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes>;

    /// Exactly the bytes `range` of a pack; a range that is empty or past its end is `Invalid`.
    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes>;

    /// Length of an object, or `NotFound`.
    async fn head(&self, key: &ObjectKey) -> Result<u64>;

    /// Writes an object; it is durable, and visible only as a whole. Writing it again is fine; one of a
    /// mutable kind ([`ObjectKind::is_mutable`]) is replaced.
    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()>;

    /// Every object of a kind, in no order. Foreign objects are skipped.
    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>>;

    /// Whether anything shows that objects are kept here, of a store that cannot be listed: not whether any is. One
    /// that can be listed shows it by its list.
    async fn is_there(&self) -> Result<bool> {
        Ok(true)
    }

    /// Removes an object; one that is not there is fine.
    async fn delete(&self, key: &ObjectKey) -> Result<()>;
}

/// Objects a single listing may return: bounds memory against an endless listing.
pub(crate) const LIST_MAX: usize = 16 << 20;

/// Checks a range before any store is asked.
pub(crate) fn check_range(store: &str, pack: &PackRef, range: &Range<u64>) -> Result<()> {
    if range.start < range.end && range.end <= pack.len {
        return Ok(());
    }
    let error = crate::StoreError::new(crate::ErrorKind::Invalid, "read", store);
    Err(error.key(&pack.key()).detail(format!(
        "bytes {}..{} of a pack of {} bytes",
        range.start, range.end, pack.len
    )))
}
