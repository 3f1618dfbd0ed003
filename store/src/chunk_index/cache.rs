//! Index objects kept in a local folder, one file per id, written whole (temporary file and rename).
//!
//! A file is believed only if its bytes still hash to its name; anything else is fetched again. The cache
//! failing is never an error: it only costs a fetch.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lamina_flist::IndexId;

#[derive(Debug, Clone)]
pub(super) struct IndexCache(Option<PathBuf>);

impl IndexCache {
    pub(super) fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(Path::to_owned))
    }

    fn path(&self, id: &IndexId) -> Option<PathBuf> {
        Some(self.0.as_ref()?.join(format!("{id}.idx")))
    }

    pub(super) fn get(&self, id: &IndexId) -> Option<Bytes> {
        let path = self.path(id)?;
        let meta = std::fs::symlink_metadata(&path).ok()?;
        if !meta.is_file() || meta.len() > crate::index::INDEX_LEN_MAX {
            return None;
        }
        let bytes = std::fs::read(path).ok()?;
        (IndexId::of(&bytes) == *id).then(|| bytes.into())
    }

    pub(super) fn put(&self, id: &IndexId, bytes: &[u8]) {
        let Some(path) = self.path(id) else { return };
        let tmp = path.with_extension(format!("{:016x}.tmp", crate::retry::random()));
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| {
                std::fs::File::options()
                    .write(true)
                    .create_new(true)
                    .open(&tmp)
            })
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| std::fs::rename(&tmp, &path));
        if let Err(error) = written {
            let _ = std::fs::remove_file(&tmp);
            tracing::debug!(%error, path = %path.display(), "index cache not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_cache_file_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = IndexCache::new(Some(folder.path()));
        let id = IndexId::of(b"index");
        assert_eq!(cache.get(&id), None);
        cache.put(&id, b"index");
        assert_eq!(cache.get(&id).unwrap(), "index");
        std::fs::write(folder.path().join(format!("{id}.idx")), b"other").unwrap();
        assert_eq!(cache.get(&id), None);
        cache.put(&id, b"index");
        assert_eq!(cache.get(&id).unwrap(), "index");
    }
}
