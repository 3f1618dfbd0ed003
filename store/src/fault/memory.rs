//! A store in memory: the plainest implementation, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::api::{Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError};
use crate::key::{ObjectKey, ObjectKind};

const NAME: &str = "memory";

/// Objects in a map.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<BTreeMap<ObjectKey, Bytes>>);

impl MemoryStore {
    /// With these objects in it.
    pub fn with(objects: impl IntoIterator<Item = (ObjectKey, Bytes)>) -> Self {
        Self(Mutex::new(objects.into_iter().collect()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Bytes>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &ObjectKey, operation: &'static str) -> Result<Bytes> {
        let found = self.lock().get(key).cloned();
        found.ok_or_else(|| StoreError::new(ErrorKind::NotFound, operation, NAME).key(key))
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &str {
        NAME
    }

    fn writable(&self) -> bool {
        true
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let bytes = self.find(key, "read")?;
        if bytes.len() as u64 > len_max {
            return Err(StoreError::new(ErrorKind::Corrupt, "read", NAME).key(key));
        }
        Ok(bytes)
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(NAME, pack, &range)?;
        let bytes = self.find(&pack.key(), "read")?;
        if bytes.len() as u64 != pack.len {
            return Err(StoreError::new(ErrorKind::Corrupt, "read", NAME).key(&pack.key()));
        }
        Ok(bytes.slice(range.start as usize..range.end as usize))
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        Ok(self.find(key, "look up")?.len() as u64)
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        self.lock().insert(*key, bytes);
        Ok(())
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        let listed = |(key, bytes): (&ObjectKey, &Bytes)| Listed {
            key: *key,
            len: Some(bytes.len() as u64),
            modified: None,
        };
        Ok(self
            .lock()
            .iter()
            .filter(|(key, _)| key.kind() == kind)
            .map(listed)
            .collect())
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.lock().remove(key);
        Ok(())
    }
}
