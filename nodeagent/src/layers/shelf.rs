//! The layers of this node: a directory of self-contained layer files, within a bound.
//!
//! ```text
//! <sha256 of the layer as the registry has it>.afslyr   .rec    a layer, and its record
//! images/   which layers make which image          records/   records of layers whose data is elsewhere
//! lock      held by the process that uses it       any other file: was being written, cleared at start
//! ```
//! Always: what has a layer's name is whole; room is reserved before anything is written; a layer that is leased or
//! being read stays. What is found damaged is as good as not there; what merely cannot be read now stays.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lamina_flist::{Flist, Sha256Digest};
use lamina_image::convert::{LayerDir, Room};
use tokio::sync::watch;

use super::found::{self, Unusable};
use super::ledger::{Ledger, NoRoom, Reading};
use super::open::{OpenLayer, WholeLayers};
use super::reservation::Reservation;
use super::{EnsureError, EnsureErrorKind, disk};

/// Layers kept open for the next reader.
const OPEN_MAX: usize = 64;
/// A use is noted on disk so often.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// Subdirectories.
pub(super) const IMAGES: &str = "images";
pub(super) const RECORDS: &str = "records";

/// The layers of this node; clones are the same.
#[derive(Clone)]
pub struct LayerShelf {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    dir: PathBuf,
    ledger: Mutex<Ledger>,
    open: Mutex<HashMap<Sha256Digest, (u64, Opened)>>,
    changed: watch::Sender<u64>,
    evicted: AtomicU64,
    gone: AtomicU64,
    began: Instant,
    _lock: File,
}

#[derive(Clone)]
struct Opened {
    file: Arc<File>,
    flist: Arc<Flist>,
    packs_at: u64,
}

/// A layer that stays for as long as this or a clone lives.
#[derive(Debug, Clone)]
pub struct HeldLayer {
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its file.
    pub file: PathBuf,
    /// Bytes of it.
    pub bytes: u64,
    reading: Arc<Reading>,
}

/// What a prune did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
    /// Layers that went.
    pub evicted: usize,
}

impl LayerShelf {
    /// Opens the directory, clearing what a killed process left, and evicting what a smaller bound leaves no room
    /// for. `bytes_max`: `None` is 60 % of what the disk has for it, and 1 TB at most.
    ///
    /// # Errors
    /// The directory cannot be used, or another process uses it.
    pub fn open(dir: &Path, bytes_max: Option<u64>) -> Result<Self, EnsureError> {
        let what = || format!("use the layers in {}", dir.display());
        let failed = |error| EnsureError::disk(what(), error);
        for sub in [dir.to_owned(), dir.join(IMAGES), dir.join(RECORDS)] {
            disk::make_dir(&sub).map_err(failed)?;
        }
        let lock = disk::lock(dir)?;
        let found = found::layers(dir).map_err(failed)?;
        let used: u64 = found
            .iter()
            .map(|layer| layer.bytes + layer.record_bytes)
            .sum();
        let free = disk::free_bytes(dir).map_err(failed)?;
        let mut ledger = Ledger::new(bytes_max.unwrap_or_else(|| disk::default_max(free, used)));
        for layer in found {
            ledger.add(layer.digest, layer.bytes, layer.record_bytes);
        }
        let shelf = Self {
            inner: Arc::new(Inner {
                dir: dir.to_owned(),
                ledger: Mutex::new(ledger),
                open: Mutex::default(),
                changed: watch::Sender::new(0),
                evicted: AtomicU64::new(0),
                gone: AtomicU64::new(0),
                began: Instant::now(),
                _lock: lock,
            }),
        };
        let over = {
            let ledger = shelf.inner.ledger();
            ledger.used().saturating_sub(ledger.max())
        };
        shelf.evict(over);
        Ok(shelf)
    }

    /// Where layers are written; `room`: what they are written in.
    pub(super) fn files(&self, room: Arc<dyn Room>) -> LayerDir {
        LayerDir::new(&self.inner.dir, room)
    }

    /// The directory, or one in it.
    pub(super) fn sub(&self, name: &str) -> PathBuf {
        self.inner.dir.join(name)
    }

    /// Every layer here, with the bytes of its file, by digest.
    pub fn layers(&self) -> Vec<(Sha256Digest, u64)> {
        let mut layers: Vec<_> = self.inner.ledger().layers().collect();
        layers.sort_unstable();
        layers
    }

    /// Bytes used, and allowed.
    pub fn bytes(&self) -> (u64, u64) {
        let ledger = self.inner.ledger();
        (ledger.used(), ledger.max())
    }

    /// Layers evicted since the process began.
    pub fn evicted(&self) -> u64 {
        self.inner.evicted.load(Ordering::Relaxed)
    }

    /// Tells of every layer that comes or goes.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// Bytes of a layer's file, if it is here; no use of it.
    pub fn size(&self, layer: &Sha256Digest) -> Option<u64> {
        self.inner.ledger().get(layer).map(|held| held.file_bytes)
    }

    /// A layer that is here, kept for the caller.
    pub fn hold(&self, layer: &Sha256Digest) -> Option<HeldLayer> {
        let now = self.inner.now();
        let mut ledger = self.inner.ledger();
        let (held, reading) = ledger.hold(layer)?;
        let (bytes, file) = (held.file_bytes, self.inner.path(layer, "afslyr"));
        if held.noted.is_zero() || now.saturating_sub(held.noted) > NOTE_EVERY {
            held.noted = now;
            disk::touch(&file);
        }
        Some(HeldLayer {
            digest: *layer,
            file,
            bytes,
            reading,
        })
    }

    /// The record of a layer that is here, and what keeps it.
    ///
    /// # Errors
    /// The disk, or a limit of this process; the layer stays.
    pub fn record(&self, layer: &Sha256Digest) -> Result<Option<(File, HeldLayer)>, EnsureError> {
        let Some(held) = self.hold(layer) else {
            return Ok(None);
        };
        let path = self.inner.path(layer, "rec");
        let opened = File::open(&path).map_err(|error| Unusable::of(&path, error));
        let file = self.sound(layer, opened)?;
        Ok(file.map(|file| (file, held)))
    }

    /// Opens a layer; `None` when it is not here.
    ///
    /// # Errors
    /// The disk, or a limit of this process; the layer stays.
    pub(super) fn try_open(&self, layer: &Sha256Digest) -> Result<Option<OpenLayer>, EnsureError> {
        let Some(held) = self.hold(layer) else {
            return Ok(None);
        };
        let opened = self.inner.opened(layer);
        let opened = opened.map_or_else(|| self.inner.open_now(layer), Ok);
        let opened = self.sound(layer, opened)?;
        Ok(opened.map(|opened| {
            let lease: Arc<dyn Any + Send + Sync> = held.reading;
            OpenLayer::new(opened.file, opened.flist, opened.packs_at, lease)
        }))
    }

    /// Room for something of about `bytes`, which may grow.
    ///
    /// # Errors
    /// When there is none now, or never: the error says which.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, NoRoom> {
        Reservation::of(&self.inner, bytes)
    }

    /// Adds a layer that was written whole under its name, in the room that was reserved for it.
    pub(super) fn land(
        &self,
        layer: &Sha256Digest,
        bytes: (u64, u64),
        room: &Reservation,
    ) -> HeldLayer {
        self.inner.forget_open(layer);
        let reading = {
            let mut ledger = self.inner.ledger();
            ledger.add(*layer, bytes.0, bytes.1);
            // In the same breath: what came is not counted twice, and does not go before it was seen.
            room.give_back(&mut ledger);
            let (_, reading) = ledger.hold(layer).expect("it was added just now");
            reading
        };
        self.inner.tell();
        HeldLayer {
            digest: *layer,
            file: self.inner.path(layer, "afslyr"),
            bytes: bytes.0,
            reading,
        }
    }

    /// Removes what a failed try left of a layer that is not here.
    pub(super) fn clear(&self, layer: &Sha256Digest) {
        let trash = {
            let ledger = self.inner.ledger();
            match ledger.get(layer) {
                Some(_) => return,
                None => self.inner.take_away(&[*layer]),
            }
        };
        let nothing = Trash { layers: 0, ..trash };
        nothing.empty(&self.inner);
    }

    /// Has others told what is here.
    pub(super) fn announce(&self) {
        self.inner.tell();
    }

    /// Evicts until `percent` of the bytes that are here are gone, as far as may be.
    pub fn prune(&self, percent: f64) -> Pruned {
        let (before, _) = self.bytes();
        let evicted = self.evict(share(before, percent));
        let (after, _) = self.bytes();
        Pruned {
            before,
            after,
            evicted,
        }
    }

    /// Keeps layers until `ttl` is over.
    ///
    /// # Errors
    /// `NotFound`: one of them is not here; `ResourceExhausted`: there are too many leases.
    pub fn lease(
        &self,
        id: String,
        layers: HashSet<Sha256Digest>,
        ttl: Duration,
    ) -> Result<(), EnsureError> {
        let now = self.inner.now();
        let mut ledger = self.inner.ledger();
        if let Some(absent) = layers.iter().find(|layer| ledger.get(layer).is_none()) {
            let what = format!("the layer {absent} is not here");
            return Err(EnsureError::new(EnsureErrorKind::NotFound, what));
        }
        let taken = ledger.leases.acquire(id, layers, now + ttl, now);
        taken.map_err(|_| {
            let what = "too many leases are held on this node: release some, or wait for their end";
            EnsureError::new(EnsureErrorKind::ResourceExhausted, what)
        })
    }

    /// Lets a lease last for `ttl` from now; its layers, if there is such a lease.
    pub fn renew(&self, id: &str, ttl: Duration) -> Option<Vec<Sha256Digest>> {
        let now = self.inner.now();
        self.inner.ledger().leases.renew(id, now + ttl, now)
    }

    /// Ends a lease; whether there was one.
    pub fn release(&self, id: &str) -> bool {
        let now = self.inner.now();
        self.inner.ledger().leases.release(id, now)
    }

    /// Evicts at least `bytes`, as far as may be; how many layers.
    fn evict(&self, bytes: u64) -> usize {
        let now = self.inner.now();
        let trash = {
            let mut ledger = self.inner.ledger();
            let (victims, _) = ledger.oldest(bytes, now);
            for layer in &victims {
                ledger.remove(layer);
            }
            self.inner.take_away(&victims)
        };
        trash.empty(&self.inner)
    }

    /// What was read of a layer that is held; one that is found damaged is forgotten.
    fn sound<T>(
        &self,
        layer: &Sha256Digest,
        read: Result<T, Unusable>,
    ) -> Result<Option<T>, EnsureError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(why @ Unusable::Damaged(_)) => {
                self.damaged(layer, &why);
                Ok(None)
            }
            Err(why @ Unusable::Unread { .. }) => Err(why.into()),
        }
    }

    fn damaged(&self, layer: &Sha256Digest, why: &dyn std::error::Error) {
        let why = crate::chain(why);
        tracing::warn!(%layer, why, "forgetting a damaged layer");
        let trash = {
            let mut ledger = self.inner.ledger();
            ledger.remove(layer);
            self.inner.take_away(&[*layer])
        };
        trash.empty(&self.inner);
    }
}

impl WholeLayers for LayerShelf {
    fn open(&self, layer: &Sha256Digest) -> Option<OpenLayer> {
        match self.try_open(layer) {
            Ok(opened) => opened,
            Err(error) => {
                let why = crate::chain(&error);
                tracing::warn!(%layer, why, "open a layer");
                None
            }
        }
    }
}

impl Inner {
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn path(&self, layer: &Sha256Digest, extension: &str) -> PathBuf {
        let name = hex::encode(layer.as_bytes());
        self.dir.join(format!("{name}.{extension}"))
    }

    fn tell(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// Reserves, evicting what has to go.
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), NoRoom> {
        // A disk that does not say how full it is is not taken for full.
        let free = disk::free_bytes(&self.dir).unwrap_or(u64::MAX / 4);
        let trash = {
            let mut ledger = self.ledger();
            let victims = ledger.reserve(bytes, free, self.now())?;
            self.take_away(&victims)
        };
        trash.empty(self);
        Ok(())
    }

    /// Takes layers off their names, which others may use again; called with the ledger locked.
    fn take_away(&self, layers: &[Sha256Digest]) -> Trash {
        let mut paths = Vec::new();
        for layer in layers {
            self.forget_open(layer);
            // The layer first: one without its record is completed at the next start, the reverse is nothing.
            for extension in ["afslyr", "rec"] {
                let gone = self.gone.fetch_add(1, Ordering::Relaxed);
                let to = self.dir.join(format!(".gone-{gone}"));
                let from = self.path(layer, extension);
                match std::fs::rename(&from, &to) {
                    Ok(()) => paths.push(to),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::warn!(path = %from.display(), %error, "take a layer away");
                        paths.push(from);
                    }
                }
            }
        }
        Trash {
            layers: layers.len(),
            paths,
        }
    }

    fn opened(&self, layer: &Sha256Digest) -> Option<Opened> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = open.values().map(|(turn, _)| turn + 1).max().unwrap_or(0);
        let (used, opened) = open.get_mut(layer)?;
        *used = turn;
        Some(opened.clone())
    }

    fn forget_open(&self, layer: &Sha256Digest) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(layer);
    }

    fn open_now(&self, layer: &Sha256Digest) -> Result<Opened, Unusable> {
        let path = self.path(layer, "afslyr");
        let (flist, packs_at) = found::named(&path, layer)?;
        let is_checked = self.ledger().get(layer).is_some_and(|held| held.checked);
        if !is_checked {
            let checked = flist.verify_metadata();
            let checked = checked.and_then(|()| flist.check(&lamina_flist::Limits::default()));
            checked.map_err(|error| Unusable::of(&path, error))?;
        }
        let file = File::open(&path).map_err(|error| Unusable::of(&path, error))?;
        if let Some((held, _)) = self.ledger().hold(layer) {
            held.checked = true;
        }
        let opened = Opened {
            file: Arc::new(file),
            flist: Arc::new(flist),
            packs_at,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_MAX {
            let oldest = open.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(layer, _)| *layer) {
                open.remove(&oldest);
            }
        }
        let turn = open.values().map(|(turn, _)| turn + 1).max().unwrap_or(0);
        open.insert(*layer, (turn, opened.clone()));
        Ok(opened)
    }
}

/// A part of `bytes`, rounded up: 100 % is everything.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share of at most 100 %, and nobody counts bytes of a petabyte"
)]
fn share(bytes: u64, percent: f64) -> u64 {
    let share = bytes as f64 * percent.clamp(0.0, 100.0) / 100.0;
    (share.ceil() as u64).min(bytes)
}

/// Files without names, to be removed once nothing is locked.
#[must_use]
struct Trash {
    layers: usize,
    paths: Vec<PathBuf>,
}

impl Trash {
    fn empty(self, shelf: &Inner) -> usize {
        for path in &self.paths {
            if let Err(error) = disk::remove(path) {
                tracing::warn!(path = %path.display(), %error, "remove a layer");
            }
        }
        if self.layers > 0 {
            let count = self.layers as u64;
            shelf.evicted.fetch_add(count, Ordering::Relaxed);
            shelf.tell();
        }
        self.layers
    }
}
