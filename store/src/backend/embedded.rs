//! Packs inside a local file, as in a `.afslyr` layer: a read-only store over one open file.
//!
//! The file may be replaced or truncated by others at any time; ranges are checked against its length as
//! it is opened, and every chunk read is verified above, so the worst is an error.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lamina_flist::{PackId, PackRecord};

use crate::api::{Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError, io_kind};
use crate::key::{ObjectKey, ObjectKind};

/// The packs in one file.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    file: Arc<File>,
    name: String,
    packs: Arc<HashMap<PackId, (u64, u64)>>, // offset in the file, length
}

impl EmbeddedStore {
    /// Serves those `packs` that are embedded; `base` is where the embedded packs section starts in the
    /// file, `name` is shown in errors.
    ///
    /// # Errors
    /// The file cannot be looked at, or a pack reaches past its end.
    pub fn new(
        file: File,
        name: &str,
        base: u64,
        packs: impl IntoIterator<Item = PackRecord>,
    ) -> io::Result<Self> {
        let file_len = file.metadata()?.len();
        let mut table = HashMap::new();
        for pack in packs {
            let Some(offset) = pack.embedded_at else {
                continue;
            };
            let start = base.checked_add(offset);
            let fits = start
                .and_then(|s| s.checked_add(pack.len))
                .is_some_and(|end| end <= file_len);
            let Some(start) = start.filter(|_| fits) else {
                let text = format!("embedded pack {} reaches past the end of the file", pack.id);
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            };
            table.insert(pack.id, (start, pack.len));
        }
        Ok(Self {
            file: Arc::new(file),
            name: format!("file {name}"),
            packs: Arc::new(table),
        })
    }

    fn find(&self, key: &ObjectKey, operation: &'static str) -> Result<(u64, u64)> {
        let found = match key {
            ObjectKey::Pack(id) => self.packs.get(id).copied(),
            _ => None,
        };
        found.ok_or_else(|| StoreError::new(ErrorKind::NotFound, operation, &self.name).key(key))
    }

    async fn read(&self, key: ObjectKey, start: u64, len: u64) -> Result<Bytes> {
        let file = Arc::clone(&self.file);
        let work = move || {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, start)
                .map(|()| Bytes::from(bytes))
        };
        let done = tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|join| Err(io::Error::other(join)));
        done.map_err(|e| {
            StoreError::new(io_kind(&e), "read", &self.name)
                .key(&key)
                .source(e)
        })
    }

    fn read_only<T>(&self, operation: &'static str) -> Result<T> {
        Err(
            StoreError::new(ErrorKind::Unsupported, operation, &self.name)
                .detail("it is read-only"),
        )
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn writable(&self) -> bool {
        false
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let (start, len) = self.find(key, "read")?;
        if len > len_max {
            let error = StoreError::new(ErrorKind::Corrupt, "read", &self.name).key(key);
            return Err(error.detail(format!("{len} bytes, at most {len_max} expected")));
        }
        self.read(*key, start, len).await
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(&self.name, pack, &range)?;
        let key = pack.key();
        let (start, len) = self.find(&key, "read")?;
        if len != pack.len {
            let error = StoreError::new(ErrorKind::Corrupt, "read", &self.name).key(&key);
            return Err(error.detail(format!("{len} bytes instead of {}", pack.len)));
        }
        self.read(key, start + range.start, range.end - range.start)
            .await
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        Ok(self.find(key, "look up")?.1)
    }

    async fn put(&self, _: &ObjectKey, _: Bytes) -> Result<()> {
        self.read_only("write")
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        let packs = self.packs.iter().filter(|_| kind == ObjectKind::Pack);
        Ok(packs
            .map(|(id, (_, len))| Listed {
                key: ObjectKey::Pack(*id),
                len: Some(*len),
                modified: None,
            })
            .collect())
    }

    async fn delete(&self, _: &ObjectKey) -> Result<()> {
        self.read_only("delete")
    }
}
