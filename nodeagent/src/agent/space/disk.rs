//! What the cache holds on disk: blobs and copies of flists, their sizes and ages, and their removal.
//!
//! ```text
//! <cache>/blobs/<blob id>/         one item
//! <cache>/flists/<digest>.fl       one item with its .seal
//! ```

use lamina_flist::{BlobId, FlistDigest};
use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

/// Something that is evicted as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Item {
    /// A blob's directory.
    Blob(BlobId),
    /// The node's copy of a flist.
    Flist(FlistDigest),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(id) => write!(f, "blob {id}"),
            Self::Flist(digest) => write!(f, "copy of flist {digest}"),
        }
    }
}

/// An item as it was found.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) item: Item,
    pub(super) bytes: u64,
    pub(super) last_used: SystemTime,
}

/// The two directories.
#[derive(Debug)]
pub(super) struct Disk {
    blobs: PathBuf,
    flists: PathBuf,
}

/// Begins the name of a blob that is being removed.
const EVICTED: &str = ".evicted-";

impl Disk {
    /// Makes the directories and removes what a killed predecessor left half done.
    pub(super) fn open(cache: &Path) -> io::Result<Self> {
        let (blobs, flists) = (cache.join("blobs"), cache.join("flists"));
        for dir in [&blobs, &flists] {
            std::fs::create_dir_all(dir)?;
        }
        remove_named(&blobs, |name| name.starts_with(EVICTED))?;
        remove_named(&flists, |name| {
            let is_partial = || {
                Path::new(name)
                    .extension()
                    .is_some_and(|last| last == "tmp")
            };
            name.ends_with(".seal.new") || name.starts_with('.') && is_partial()
        })?;
        Ok(Self { blobs, flists })
    }

    /// Every item; what is not named like one is not ours and stays.
    pub(super) fn scan(&self) -> io::Result<Vec<OnDisk>> {
        let mut found = self.scan_blobs()?;
        found.extend(self.scan_flists()?);
        Ok(found)
    }

    fn scan_blobs(&self) -> io::Result<Vec<OnDisk>> {
        let mut found = Vec::new();
        for (name, path) in list(&self.blobs)? {
            let Ok(id) = BlobId::from_str(&name) else {
                continue;
            };
            let mut item = OnDisk::new(Item::Blob(id));
            match list(&path) {
                // No blob of ours for all its name.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
                other => other?
                    .iter()
                    .try_for_each(|(_, file)| item.add(std::fs::symlink_metadata(file)))?,
            }
            found.push(item);
        }
        Ok(found)
    }

    fn scan_flists(&self) -> io::Result<Vec<OnDisk>> {
        let mut found: HashMap<FlistDigest, OnDisk> = HashMap::new();
        for (name, path) in list(&self.flists)? {
            let stem = name.strip_suffix(".fl").or(name.strip_suffix(".seal"));
            let Some(digest) = stem.and_then(|stem| FlistDigest::from_str(stem).ok()) else {
                continue;
            };
            let item = found
                .entry(digest)
                .or_insert_with(|| OnDisk::new(Item::Flist(digest)));
            item.add(std::fs::symlink_metadata(path))?;
        }
        Ok(found.into_values().collect())
    }

    /// Removes an item, in an order in which a crash in between leaves nothing that is trusted.
    pub(super) fn remove(&self, item: &Item) -> io::Result<()> {
        match item {
            Item::Blob(id) => {
                let doomed = self.blobs.join(format!("{EVICTED}{id}"));
                // What an earlier removal left: nothing can be moved onto it.
                gone_is_fine(std::fs::remove_dir_all(&doomed))?;
                gone_is_fine(std::fs::rename(self.blobs.join(id.to_string()), &doomed))?;
                gone_is_fine(std::fs::remove_dir_all(&doomed))
            }
            Item::Flist(digest) => ["seal", "fl"].iter().try_for_each(|kind| {
                gone_is_fine(std::fs::remove_file(
                    self.flists.join(format!("{digest}.{kind}")),
                ))
            }),
        }
    }
}

impl OnDisk {
    fn new(item: Item) -> Self {
        Self {
            item,
            bytes: 0,
            last_used: SystemTime::UNIX_EPOCH,
        }
    }

    /// Counts one file: what it takes on disk, and when it last changed.
    fn add(&mut self, meta: io::Result<Metadata>) -> io::Result<()> {
        let meta = match meta {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        self.bytes += meta.blocks() * 512;
        self.last_used = self.last_used.max(meta.modified()?);
        Ok(())
    }
}

/// Names and paths in a directory. One that is gone is empty: somebody emptied the cache while nothing
/// was mounted, and it is made again with the next blob.
fn list(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let named = entries.filter_map(|entry| match entry {
        Ok(entry) => {
            let name = entry.file_name().into_string().ok()?;
            Some(Ok((name, entry.path())))
        }
        Err(error) => Some(Err(error)),
    });
    named.collect()
}

fn remove_named(dir: &Path, doomed: impl Fn(&str) -> bool) -> io::Result<()> {
    for (name, path) in list(dir)? {
        if !doomed(&name) {
            continue;
        }
        match std::fs::symlink_metadata(&path)?.is_dir() {
            true => std::fs::remove_dir_all(path)?,
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
