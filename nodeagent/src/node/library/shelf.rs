//! The library's directory: flists by digest, and which questions they answer.
//!
//! ```text
//! <digest>.fl  <digest>.json   a checked flist, and what is said about it
//! refs/        what a reference stood for when it was last asked for
//! manifests/   which flist a manifest became, by platform and stores
//! archives/    which flist an archive became
//! records/     layers converted before (lamina_image)      index/  indexes of stores
//! tmp/         being written      lock  held by the process that uses it
//! ```
//! Every file appears whole. What refers to a flist that is gone is as good as not there. A flist somebody
//! holds a [`Lease`] on stays; of the others, those used longest ago go when there are too many. Nobody gets one, or
//! adds it, while it is [`Going`].

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use lamina_flist::{Flist, FlistDigest};
use lamina_store::open_flist;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::LibraryLimits;
use super::card::Card;
use super::disk;
use crate::layers::{EnsureError, EnsureErrorKind, disk_failure};

/// References, manifests and archives remembered, each.
const NOTES_MAX: usize = 20_000;
const SUBDIRS: [&str; 6] = ["refs", "manifests", "archives", "records", "index", "tmp"];

/// Keeps a flist's file.
#[derive(Debug)]
pub(super) struct Lease;

/// A flist in hand.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) card: Card,
    pub(super) lease: Arc<Lease>,
}

#[derive(Debug)]
struct Entry {
    card: Card,
    bytes: u64,
    used: SystemTime,
    lease: Weak<Lease>,
}

impl Entry {
    fn hold(&mut self) -> Arc<Lease> {
        self.used = SystemTime::now();
        self.lease.upgrade().unwrap_or_else(|| {
            let lease = Arc::new(Lease);
            self.lease = Arc::downgrade(&lease);
            lease
        })
    }
}

/// A flist that nobody holds and that is being forgotten, until this is dropped.
#[derive(Debug)]
pub(super) struct Going<'a> {
    shelf: &'a Shelf,
    digest: FlistDigest,
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.shelf.going().remove(&self.digest);
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: PathBuf,
    limits: LibraryLimits,
    entries: Mutex<HashMap<FlistDigest, Entry>>,
    /// Changed with `entries` locked.
    going: Mutex<HashSet<FlistDigest>>,
    _lock: File,
}

impl Shelf {
    /// Takes the directory and clears away what a killed process left.
    pub(super) fn open(dir: &Path, limits: &LibraryLimits) -> Result<Self, EnsureError> {
        let failed = |error| EnsureError::disk(format!("use the library {}", dir.display()), error);
        for sub in SUBDIRS {
            disk::make_dir(&dir.join(sub)).map_err(failed)?;
        }
        let lock = lock(dir)?;
        disk::clear(&dir.join("tmp"), |_| true).map_err(failed)?;
        disk::clear(&dir.join("records"), |name| name.starts_with('.')).map_err(failed)?;
        let shelf = Self {
            dir: dir.to_owned(),
            limits: limits.clone(),
            entries: Mutex::new(HashMap::new()),
            going: Mutex::default(),
            _lock: lock,
        };
        shelf.read_entries().map_err(failed)?;
        shelf.tidy().map_err(failed)?;
        Ok(shelf)
    }

    /// A directory of the library's own.
    pub(super) fn sub(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A flist that is here.
    ///
    /// # Errors
    /// `Aborted` while it is being forgotten; else the disk, or a limit of this process: the flist stays.
    pub(super) fn get(&self, digest: &FlistDigest) -> Result<Option<Held>, EnsureError> {
        let path = self.path(digest);
        let mut entries = self.lock();
        self.check_stays(digest)?;
        let Some(entry) = entries.get_mut(digest) else {
            return Ok(None);
        };
        // The header's digest, not the sections': whoever mounts it checks all of it.
        let opened = open_flist(&path);
        if let Some(failed) = opened.as_ref().err().and_then(|e| disk_failure(e)) {
            let what = format!("read {}", path.display());
            return Err(EnsureError::disk(what, failed));
        }
        if !opened.is_ok_and(|flist| flist.digest() == *digest) {
            tracing::warn!(path = %path.display(), "forgetting a damaged flist");
            entries.remove(digest);
            return Ok(None);
        }
        disk::touch(&path);
        Ok(Some(Held {
            path,
            card: entry.card.clone(),
            lease: entry.hold(),
        }))
    }

    /// Adds a flist that was checked. `reference`: what it was asked for as, if not what it says itself.
    ///
    /// # Errors
    /// `Aborted` while it is being forgotten, or when it was meanwhile; else the disk's.
    pub(super) fn put(&self, flist: &Flist, mut card: Card) -> Result<Held, EnsureError> {
        let digest = flist.digest();
        let path = self.path(&digest);
        card.digest = digest.to_string();
        self.check_stays(&digest)?;
        let failed = |error| EnsureError::disk(format!("write {}", path.display()), error);
        let (tmp, bytes) = (self.sub("tmp"), flist.as_bytes());
        let text = serde_json::to_vec(&card).expect("strings and numbers become JSON");
        disk::write(&tmp, &path.with_extension("json"), &text).map_err(failed)?;
        disk::write(&tmp, &path, bytes).map_err(failed)?;
        let lease = {
            let mut entries = self.lock();
            self.check_stays(&digest)?;
            if !path.try_exists().map_err(failed)? {
                return Err(is_going(&digest));
            }
            let entry = entries.entry(digest).or_insert_with(|| Entry {
                card: card.clone(),
                bytes: bytes.len() as u64,
                used: SystemTime::now(),
                lease: Weak::new(),
            });
            entry.card = card.clone();
            entry.hold()
        };
        self.tidy().map_err(failed)?;
        Ok(Held { path, card, lease })
    }

    /// Remembers what a flist was asked for as.
    pub(super) fn name(&self, digest: &FlistDigest, reference: &str) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(digest) else {
            return;
        };
        if entry.card.reference == reference {
            return;
        }
        reference.clone_into(&mut entry.card.reference);
        let text = serde_json::to_vec(&entry.card).expect("strings and numbers become JSON");
        let path = self.path(digest).with_extension("json");
        if let Err(error) = disk::write(&self.sub("tmp"), &path, &text) {
            tracing::warn!(path = %path.display(), %error, "note a flist's reference");
        }
    }

    /// Every flist here.
    pub(super) fn cards(&self) -> Vec<Card> {
        let mut cards: Vec<Card> = self.lock().values().map(|e| e.card.clone()).collect();
        cards.sort_by(|a, b| (&a.reference, &a.digest).cmp(&(&b.reference, &b.digest)));
        cards
    }

    /// Digests of all flists here.
    pub(super) fn digests(&self) -> Vec<FlistDigest> {
        self.lock().keys().copied().collect()
    }

    /// Begins to forget a flist, here or not.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody holds it, `Aborted` while another call forgets it.
    pub(super) fn begin_forgetting(&self, digest: FlistDigest) -> Result<Going<'_>, EnsureError> {
        let entries = self.lock();
        let entry = entries.get(&digest);
        if entry.is_some_and(|entry| entry.lease.strong_count() > 0) {
            let what = format!("forget {digest}: it is in use on this node");
            return Err(EnsureError::new(EnsureErrorKind::FailedPrecondition, what));
        }
        match self.going().insert(digest) {
            true => Ok(Going {
                shelf: self,
                digest,
            }),
            false => Err(is_going(&digest)),
        }
    }

    /// A flist that is being forgotten, if it is here and sound.
    pub(super) fn last_look(&self, going: &Going<'_>) -> Option<Flist> {
        let flist = open_flist(self.path(&going.digest)).ok();
        flist.filter(|flist| flist.digest() == going.digest)
    }

    /// Removes a flist that is being forgotten; gives its bytes.
    pub(super) fn remove(&self, going: &Going<'_>) -> Result<u64, EnsureError> {
        let mut entries = self.lock();
        let path = self.path(&going.digest);
        self.unlink(&going.digest)
            .map_err(|error| EnsureError::disk(format!("remove {}", path.display()), error))?;
        Ok(entries.remove(&going.digest).map_or(0, |entry| entry.bytes))
    }

    fn check_stays(&self, digest: &FlistDigest) -> Result<(), EnsureError> {
        match self.going().contains(digest) {
            true => Err(is_going(digest)),
            false => Ok(()),
        }
    }

    fn going(&self) -> MutexGuard<'_, HashSet<FlistDigest>> {
        self.going.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A note of an earlier question; one that cannot be read is as good as none.
    pub(super) fn note<T: DeserializeOwned>(&self, sub: &str, name: &str) -> Option<T> {
        let path = self.sub(sub).join(format!("{name}.json"));
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Notes the answer to a question.
    pub(super) fn write_note<T: Serialize>(
        &self,
        sub: &str,
        name: &str,
        note: &T,
    ) -> Result<(), EnsureError> {
        let path = self.sub(sub).join(format!("{name}.json"));
        let text = serde_json::to_vec(note).expect("notes become JSON");
        disk::write(&self.sub("tmp"), &path, &text)
            .map_err(|error| EnsureError::disk(format!("write {}", path.display()), error))
    }

    /// Where a flist is, if it is here.
    pub(super) fn path(&self, digest: &FlistDigest) -> PathBuf {
        self.dir.join(format!("{digest}.fl"))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FlistDigest, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unlink(&self, digest: &FlistDigest) -> io::Result<()> {
        let path = self.path(digest);
        disk::remove(&path)?;
        disk::remove(&path.with_extension("json"))
    }

    /// What is here. A flist without its card was being written or removed.
    fn read_entries(&self) -> io::Result<()> {
        let mut entries = self.lock();
        for found in std::fs::read_dir(&self.dir)? {
            let path = found?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let extension = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            let Some(digest) = stem.and_then(|stem| stem.parse::<FlistDigest>().ok()) else {
                continue;
            };
            let card = path.with_extension("json");
            let known = std::fs::read(&card).ok();
            let known = known.and_then(|text| serde_json::from_slice(&text).ok());
            let meta = std::fs::metadata(path.with_extension("fl")).ok();
            match (known, meta) {
                (Some(card), Some(meta)) if extension == "fl" => {
                    let entry = Entry {
                        card,
                        bytes: meta.len(),
                        used: meta.modified()?,
                        lease: Weak::new(),
                    };
                    entries.insert(digest, entry);
                }
                (Some(_), Some(_)) => {}
                _ => self.unlink(&digest)?,
            }
        }
        Ok(())
    }

    /// Keeps the library within its bounds.
    fn tidy(&self) -> io::Result<()> {
        let mut entries = self.lock();
        let mut free: Vec<_> = entries.iter().map(|(id, e)| (e.used, *id)).collect();
        free.sort();
        for (_, digest) in free {
            let bytes: u64 = entries.values().map(|entry| entry.bytes).sum();
            if entries.len() <= self.limits.flists_max && bytes <= self.limits.bytes_max {
                break;
            }
            if entries[&digest].lease.strong_count() == 0 {
                self.unlink(&digest)?;
                entries.remove(&digest);
            }
        }
        drop(entries);
        for sub in ["refs", "manifests", "archives"] {
            disk::prune(&self.sub(sub), NOTES_MAX, u64::MAX)?;
        }
        for sub in ["records", "index"] {
            disk::prune(&self.sub(sub), usize::MAX, self.limits.records_bytes_max)?;
        }
        Ok(())
    }
}

fn is_going(digest: &FlistDigest) -> EnsureError {
    let what = format!("the flist {digest} is being forgotten on this node: call again later");
    EnsureError::new(EnsureErrorKind::Aborted, what)
}

/// One process at a time.
fn lock(dir: &Path) -> Result<File, EnsureError> {
    let path = dir.join("lock");
    let failed = |error| EnsureError::disk(format!("lock {}", path.display()), error);
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let what = format!("the library {} is used by another process", dir.display());
            Err(EnsureError::new(EnsureErrorKind::FailedPrecondition, what))
        }
        Err(error) => Err(failed(error.into())),
    }
}
