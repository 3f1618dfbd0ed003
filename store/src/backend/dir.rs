//! `dir://`: objects as files in a local folder.
//!
//! ```text
//! <root>/packs/ab/<hex>   index/<hex>.idx   flists/<hex>.fl   images/<hex>.json   tmp/<being written>
//! ```
//! A file is visible under its name only when it is complete and synced (temporary file, fsync, rename,
//! fsync of the folder). Below the root no symbolic link is ever followed and only regular files are
//! read, so a folder somebody else can write to cannot point us elsewhere or make us hang on a FIFO.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};

use crate::api::{LIST_MAX, Listed, PackRef, Store, check_range};
use crate::error::{ErrorKind, Result, StoreError, io_kind};
use crate::key::{ObjectKey, ObjectKind};
use crate::url::StoreUrl;

/// Temporary files older than this belong to a writer that is gone.
const STALE_TMP: Duration = Duration::from_hours(24);

/// A folder of objects.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: PathBuf,
    name: String,
}

impl DirStore {
    /// The store in `root`, which is made by the first write.
    pub fn new(root: impl AsRef<Path>) -> Self {
        let url = StoreUrl::dir(root.as_ref());
        Self {
            name: url.to_string(),
            root: root.as_ref().to_owned(),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        key: Option<ObjectKey>,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let root = self.root.clone();
        let done = tokio::task::spawn_blocking(move || {
            work(&root).map_err(|e| match is_other(&root) {
                // Not damage: somebody named a file as a store.
                true => (ErrorKind::Invalid, e),
                false => (io_kind(&e), e),
            })
        });
        let done = done
            .await
            .unwrap_or_else(|join| Err((ErrorKind::Unavailable, io::Error::other(join))));
        done.map_err(|(kind, e)| {
            let error = StoreError::new(kind, operation, &self.name).source(e);
            match key {
                Some(key) => error.key(&key),
                None => error,
            }
        })
    }

    fn corrupt(&self, key: &ObjectKey, detail: String) -> StoreError {
        StoreError::new(ErrorKind::Corrupt, "read", &self.name)
            .key(key)
            .detail(detail)
    }
}

#[async_trait]
impl Store for DirStore {
    fn name(&self) -> &str {
        &self.name
    }

    fn writable(&self) -> bool {
        true
    }

    async fn get(&self, key: &ObjectKey, len_max: u64) -> Result<Bytes> {
        let path = key.path();
        let read = self
            .run("read", Some(*key), move |root| {
                read_whole(root, &path, len_max)
            })
            .await?;
        read.map_err(|len| self.corrupt(key, format!("{len} bytes, at most {len_max} expected")))
    }

    async fn get_range(&self, pack: &PackRef, range: Range<u64>) -> Result<Bytes> {
        check_range(&self.name, pack, &range)?;
        let (key, len) = (pack.key(), pack.len);
        let path = key.path();
        let read = self
            .run("read", Some(key), move |root| {
                let (file, found) = open_object(root, &path)?;
                if found != len {
                    return Ok(Err(found));
                }
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(Ok(bytes.into()))
            })
            .await?;
        read.map_err(|found| self.corrupt(&key, format!("{found} bytes instead of {len}")))
    }

    async fn head(&self, key: &ObjectKey) -> Result<u64> {
        let path = key.path();
        self.run("look up", Some(*key), move |root| {
            Ok(open_object(root, &path)?.1)
        })
        .await
    }

    async fn put(&self, key: &ObjectKey, bytes: Bytes) -> Result<()> {
        let (path, replace) = (key.path(), key.kind().is_mutable());
        self.run("write", Some(*key), move |root| {
            write_object(root, &path, &bytes, replace)
        })
        .await
    }

    async fn list(&self, kind: ObjectKind) -> Result<Vec<Listed>> {
        self.run("list", None, move |root| list(root, kind)).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        let path = key.path();
        self.run("delete", Some(*key), move |root| {
            let (folder, file) = split(&path);
            let gone = |e: rustix::io::Errno| {
                if e == rustix::io::Errno::NOENT {
                    Ok(())
                } else {
                    Err(e)
                }
            };
            let done = match open_folder(root, folder) {
                Ok(folder) => fs::unlinkat(&folder, file, AtFlags::empty()),
                Err(e) => Err(e),
            };
            Ok(done.or_else(gone)?)
        })
        .await
    }
}

/// Whether there is something at `root` that is no folder.
fn is_other(root: &Path) -> bool {
    std::fs::metadata(root).is_ok_and(|meta| !meta.is_dir())
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').expect("object paths have a folder")
}

/// Opens `folder` below the root step by step, following no link.
fn open_folder(root: &Path, folder: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = fs::open(root, flags, Mode::empty())?;
    for part in folder.split('/') {
        at = fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

/// The same, making what is missing and syncing the folder it was made in.
fn make_folder(root: &Path, folder: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    std::fs::create_dir_all(root)?;
    let mut at = fs::open(root, flags, Mode::empty())?;
    for part in folder.split('/') {
        match fs::mkdirat(&at, part, Mode::from_raw_mode(0o755)) {
            Ok(()) => fs::fsync(&at)?,
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        at = fs::openat(&at, part, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(at)
}

/// A regular file and its length.
fn open_object(root: &Path, path: &str) -> io::Result<(File, u64)> {
    let (folder, file) = split(path);
    let folder = open_folder(root, folder)?;
    // NONBLOCK: a FIFO put in our place must not make the open wait.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = fs::openat(&folder, file, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(rustix::io::Errno::NXIO.into());
    }
    Ok((fd.into(), stat.st_size.cast_unsigned()))
}

fn read_whole(root: &Path, path: &str, len_max: u64) -> io::Result<Result<Bytes, u64>> {
    let (file, len) = open_object(root, path)?;
    if len > len_max {
        return Ok(Err(len));
    }
    let mut bytes = Vec::with_capacity(len as usize);
    file.take(len_max).read_to_end(&mut bytes)?;
    Ok(Ok(bytes.into()))
}

fn write_object(root: &Path, path: &str, bytes: &[u8], replace: bool) -> io::Result<()> {
    if !replace && open_object(root, path).is_ok_and(|(_, len)| len == bytes.len() as u64) {
        return Ok(()); // named by its content: it is there
    }
    let (folder, file) = split(path);
    let tmp = make_folder(root, "tmp")?;
    let folder = make_folder(root, folder)?;
    let name = format!(
        "{file}.{}.{:016x}",
        std::process::id(),
        crate::retry::random()
    );
    let written = write_tmp(&tmp, &name, bytes)
        .and_then(|()| Ok(fs::renameat(&tmp, &name, &folder, file)?))
        .and_then(|()| Ok(fs::fsync(&folder)?));
    if written.is_err() {
        let _ = fs::unlinkat(&tmp, &name, AtFlags::empty());
    }
    written
}

fn write_tmp(tmp: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(tmp, name, flags, Mode::from_raw_mode(0o644))?);
    file.write_all(bytes)?;
    file.sync_all()
}

fn list(root: &Path, kind: ObjectKind) -> io::Result<Vec<Listed>> {
    remove_stale_tmp(root);
    let mut found = Vec::new();
    let top = kind.folder();
    if kind != ObjectKind::Pack {
        list_folder(root, top, &mut found)?;
        return Ok(found);
    }
    for fan in read_dir(&root.join(top))? {
        let fan = fan?;
        if let (true, Some(name)) = (fan.file_type()?.is_dir(), fan.file_name().to_str()) {
            list_folder(root, &format!("{top}/{name}"), &mut found)?;
        }
    }
    Ok(found)
}

fn list_folder(root: &Path, folder: &str, found: &mut Vec<Listed>) -> io::Result<()> {
    for entry in read_dir(&root.join(folder))? {
        let entry = entry?;
        let Some(key) = entry
            .file_name()
            .to_str()
            .and_then(|f| ObjectKey::from_path(&format!("{folder}/{f}")))
        else {
            continue;
        };
        let meta = match entry.metadata() {
            Ok(meta) if meta.is_file() => meta,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => continue, // not a file, or deleted while we looked
        };
        if found.len() == LIST_MAX {
            return Err(io::Error::other("too many objects"));
        }
        found.push(Listed {
            key,
            len: Some(meta.len()),
            modified: meta.modified().ok(),
        });
    }
    Ok(())
}

/// A folder that does not exist has no entries.
fn read_dir(path: &Path) -> io::Result<Box<dyn Iterator<Item = io::Result<std::fs::DirEntry>>>> {
    match std::fs::read_dir(path) {
        Ok(entries) => Ok(Box::new(entries)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Box::new(std::iter::empty())),
        Err(e) => Err(e),
    }
}

/// What crashed writers left. Best effort: somebody else may be doing the same.
fn remove_stale_tmp(root: &Path) {
    let Some(limit) = SystemTime::now().checked_sub(STALE_TMP) else {
        return;
    };
    for entry in std::fs::read_dir(root.join("tmp"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let stale = entry
            .metadata()
            .is_ok_and(|m| m.is_file() && m.modified().is_ok_and(|t| t < limit));
        if stale {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use lamina_flist::PackId;

    use super::*;

    fn pack(bytes: &'static [u8]) -> (ObjectKey, PackRef) {
        let id = PackId::of(bytes);
        (
            ObjectKey::Pack(id),
            PackRef {
                id,
                len: bytes.len() as u64,
                sha256: None,
            },
        )
    }

    #[tokio::test]
    async fn a_file_in_place_of_the_store_is_a_mistake_and_no_damage() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let store = DirStore::new(&path);
        let (key, _) = pack(b"bytes");
        let kinds = [
            store.head(&key).await.unwrap_err().kind(),
            store.put(&key, Bytes::new()).await.unwrap_err().kind(),
            store.list(ObjectKind::Pack).await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::Invalid; 3]);
    }

    #[tokio::test]
    async fn symlinks_fifos_and_folders_in_place_of_a_pack_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let secret = root.path().join("secret");
        std::fs::write(&secret, b"secret").unwrap();
        let store = DirStore::new(root.path().join("store"));
        let (key, pack) = pack(b"secret");
        store
            .put(&key, Bytes::from_static(b"secret"))
            .await
            .unwrap();
        let path = root.path().join("store").join(key.path());

        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert_eq!(
            store.get(&key, 100).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(
            store.get_range(&pack, 0..6).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );

        std::fs::remove_file(&path).unwrap();
        fs::mknodat(
            fs::CWD,
            &path,
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert_eq!(
            store.get(&key, 100).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );

        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(
            store.get(&key, 100).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        std::fs::remove_dir(&path).unwrap();

        let fan = path.parent().unwrap();
        std::fs::remove_dir(fan).unwrap();
        std::os::unix::fs::symlink(root.path(), fan).unwrap();
        assert_eq!(
            store
                .put(&key, Bytes::from_static(b"secret"))
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(std::fs::read(&secret).unwrap(), b"secret");
    }

    #[tokio::test]
    async fn a_truncated_pack_is_corrupt_to_readers_and_replaced_by_a_writer() {
        let root = tempfile::tempdir().unwrap();
        let store = DirStore::new(root.path());
        let (key, pack) = pack(b"0123456789");
        store
            .put(&key, Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
        std::fs::write(root.path().join(key.path()), b"01234").unwrap();
        assert_eq!(
            store.get_range(&pack, 0..3).await.unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        store
            .put(&key, Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
        assert_eq!(store.get_range(&pack, 2..5).await.unwrap(), "234");
    }

    #[tokio::test]
    async fn nothing_temporary_stays_behind() {
        let root = tempfile::tempdir().unwrap();
        let store = DirStore::new(root.path());
        let (key, _) = pack(b"x");
        store.put(&key, Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(
            std::fs::read_dir(root.path().join("tmp")).unwrap().count(),
            0
        );
        let old = root.path().join("tmp/old");
        std::fs::write(&old, b"").unwrap();
        let file = File::options().write(true).open(&old).unwrap();
        file.set_modified(SystemTime::now() - 2 * STALE_TMP)
            .unwrap();
        std::fs::write(root.path().join("tmp/new"), b"").unwrap();
        store.list(ObjectKind::Index).await.unwrap();
        assert!(!old.exists());
        assert!(root.path().join("tmp/new").exists());
    }
}
