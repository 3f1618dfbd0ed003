//! The node's library of flists: from "this image" to a checked flist on this node's disk.
//!
//! ```text
//! reference ──resolve (registry, as the caller)──> manifest ──known here?──> flist
//!                                                     │ no: once, for all who ask
//!                                                     ├──pointer in the stores──> fetch, check
//!                                                     ├──in a cluster: records of its layers──> stack
//!                                                     └──else convert, publish flist and pointer
//! ```
//! What always holds: nobody gets an image the registry does not show them; credentials are never stored;
//! a flist handed out was checked as a whole, digests and structure; a kill at any point leaves a library
//! that opens and goes on.

mod card;
mod commit;
mod disk;
mod flight;
mod forget;
mod gather;
mod look;
mod make;
mod notes;
mod queue;
mod resolve;
mod shelf;
mod stores;
mod wanted;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lamina_flist::{FlistDigest, Sha256Digest};
use lamina_image::ImageRef;
use lamina_proto::lamina::v1::{FlistInfo, Source};
use lamina_store::UrlTrust;
use tokio::sync::RwLock;

use card::Card;
use flight::{Flights, on_thread, on_thread_within};
use queue::Queue;
use resolve::resolve;
use shelf::Shelf;
use stores::Stores;
use wanted::{Archive, Image, Pull, Wanted, WantedFlist};

pub use crate::layers::{EnsureError, EnsureErrorKind};
use crate::layers::{Layerstore, TurnLimits, Turns};
pub use commit::CommitPlaces;
pub use look::{Holdings, look};
pub(super) use wanted::named;

/// Registries asked at once, and one host of them: each question parks a thread (see `flight`), and waits no longer
/// than one takes.
const ASKING: TurnLimits = TurnLimits {
    all: 64,
    of_host: 16,
    wait_max: ASK_MAX,
};
/// How long a registry may take to say what a reference stands for, all tries together.
const ASK_MAX: Duration = Duration::from_secs(60);

/// Where a library is and what it may cost.
#[derive(Clone)]
pub struct LibraryConfig {
    /// Its directory; made if missing, used by one process at a time.
    pub dir: PathBuf,
    /// Stores used where a request names none.
    pub stores: Vec<String>,
    /// Registries (`host[:port]`) spoken to in plain http although they are not this machine.
    pub insecure_registries: Vec<String>,
    /// The node's layers, where it is part of a cluster: images are made of their records.
    pub layers: Option<Layerstore>,
    /// What it may cost.
    pub limits: LibraryLimits,
}

impl fmt::Debug for LibraryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LibraryConfig");
        shown.field("dir", &self.dir).field("limits", &self.limits);
        shown.finish_non_exhaustive()
    }
}

/// Bounds of a library.
#[derive(Debug, Clone)]
pub struct LibraryLimits {
    /// Flists kept; the least recently used goes first, one in use never.
    pub flists_max: usize,
    /// Bytes of flists kept.
    pub bytes_max: u64,
    /// Bytes of records of converted layers.
    pub records_bytes_max: u64,
    /// Conversions at once.
    pub conversions_max: usize,
    /// Conversions waiting for their turn; one more is refused.
    pub queue_max: usize,
    /// What one image may cost.
    pub image: lamina_image::Limits,
}

impl Default for LibraryLimits {
    fn default() -> Self {
        Self {
            flists_max: 1000,
            bytes_max: 4 << 30,
            records_bytes_max: 1 << 30,
            conversions_max: 2,
            queue_max: 64,
            image: lamina_image::Limits::default(),
        }
    }
}

/// What is being done for a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asking a registry or the stores what there is.
    Resolve,
    /// Waiting for other conversions, then converting; bytes are stored bytes of layers.
    Convert,
    /// Reading a flist from a store.
    Fetch,
}

impl Phase {
    /// Its name in `EnsureProgress`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Convert => "convert",
            Self::Fetch => "fetch",
        }
    }
}

/// A flist on this node. While it or a clone lives, the library keeps the file.
#[derive(Clone)]
pub struct Have {
    /// The flist's file.
    pub flist: PathBuf,
    /// What it is. `bytes_local` and `volumes` are the caller's to fill.
    pub info: FlistInfo,
    /// Nothing had to be fetched or converted for it.
    pub was_here: bool,
    /// Stores to read its data from, credentials included: not for logs.
    pub stores: Vec<String>,
    _lease: Arc<shelf::Lease>,
}

impl Have {
    /// The image it was made of, by digest; `None` for what is made of something else.
    pub(super) fn image(&self) -> Option<String> {
        let manifest: Sha256Digest = self.info.manifest.parse().ok()?;
        let reference: ImageRef = self.info.reference.parse().ok()?;
        Some(reference.pinned(manifest).to_string())
    }
}

// Store URLs may hold passwords.
impl fmt::Debug for Have {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Have");
        shown.field("flist", &self.flist).field("info", &self.info);
        shown.finish_non_exhaustive()
    }
}

/// The library. Work goes on in threads of the runtime that `ensure` is called in; end that one with
/// `shutdown_background`, or it waits for what is being converted.
pub struct Library {
    inner: Arc<Inner>,
}

struct Inner {
    config: LibraryConfig,
    shelf: Shelf,
    flights: Arc<Flights>,
    queue: Queue,
    asking: Turns,
    /// Held for reading while something is written to stores, for writing while packs are deleted there.
    collecting: RwLock<()>,
}

impl Library {
    /// Opens the library, clearing away what a killed process left.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or a store of the configuration makes no
    /// sense.
    pub fn open(config: LibraryConfig) -> Result<Arc<Self>, EnsureError> {
        Stores::open(&config.stores, UrlTrust::User)?;
        let shelf = Shelf::open(&config.dir, &config.limits)?;
        let queue = Queue::new(config.limits.conversions_max, config.limits.queue_max);
        let inner = Inner {
            config,
            shelf,
            flights: Arc::default(),
            queue,
            asking: Turns::new(ASKING),
            collecting: RwLock::new(()),
        };
        Ok(Arc::new(Self {
            inner: Arc::new(inner),
        }))
    }

    /// Makes the source's flist available here. What it begins goes on when the caller is gone; the next
    /// equal call finds it. `stores` empty: the node's own; results are published there. `progress` is
    /// called on the caller's task and must return at once.
    ///
    /// # Errors
    /// By kind, see [`EnsureErrorKind`].
    pub async fn ensure(
        &self,
        source: Source,
        stores: &[String],
        progress: impl Fn(Phase, u64, u64) + Send + Sync + 'static,
    ) -> Result<Have, EnsureError> {
        let wanted = Wanted::parse(source)?;
        let stores = self.inner.stores(stores)?;
        progress(Phase::Resolve, 0, 0);
        match wanted {
            Wanted::Image(image) => self.inner.image(&image, &stores, &progress).await,
            Wanted::Archive(archive) => self.inner.archive(&archive, &stores, &progress).await,
            Wanted::Flist(flist) => self.inner.flist(flist, &stores, &progress).await,
        }
    }

    /// Calls off all work and refuses more, or takes it again.
    pub fn close(&self, closed: bool) {
        self.inner.flights.close(closed);
    }

    /// Returns once a closed library's work has ended.
    pub async fn settled(&self) {
        self.inner.flights.landed().await;
    }

    /// Every flist here, by reference.
    pub fn list(&self) -> Vec<FlistInfo> {
        self.inner.shelf.cards().iter().map(Card::info).collect()
    }

    /// Forgets a flist; `delete_stored`: also deletes it from `stores` (empty: the node's own) with the packs
    /// no other flist there or here needs. Gives the bytes freed. One that is not here is no failure.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody holds it ([`Have`]) or, with `delete_stored`, while something is
    /// converted here; `Aborted` while another call forgets it; else a store's.
    pub async fn forget(
        &self,
        digest: FlistDigest,
        delete_stored: bool,
        stores: &[String],
    ) -> Result<u64, EnsureError> {
        let (inner, stores) = (Arc::clone(&self.inner), stores.to_vec());
        on_thread(move || async move { inner.forget(digest, delete_stored, &stores).await }).await
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = &self.inner.config.dir;
        f.debug_struct("Library")
            .field("dir", dir)
            .finish_non_exhaustive()
    }
}

type Tell<'a> = &'a (dyn Fn(Phase, u64, u64) + Send + Sync);

impl Inner {
    fn stores(&self, given: &[String]) -> Result<Stores, EnsureError> {
        let were_named = !given.is_empty();
        let urls = match were_named {
            true => given,
            false => &self.config.stores,
        };
        let mut stores = Stores::open(urls, UrlTrust::User)?;
        stores.were_named = were_named;
        Ok(stores)
    }

    async fn image(
        self: &Arc<Self>,
        image: &Image,
        stores: &Stores,
        progress: Tell<'_>,
    ) -> Result<Have, EnsureError> {
        let manifest = self.manifest(image).await?;
        if let Some(have) = self.find(&manifest, image, stores)? {
            return Ok(have);
        }
        if image.pull == Pull::Never {
            let what = format!(
                "{} ({}) was resolved before, but its flist is not on this node any more, and pullPolicy \
                 Never forbids to make it: use IfNotPresent",
                image.reference, image.platform
            );
            return Err(EnsureError::new(EnsureErrorKind::NotFound, what));
        }
        let key = format!("image {manifest} {} {}", image.platform, stores.name());
        loop {
            let (inner, image, stores) = (Arc::clone(self), image.clone(), stores.clone());
            let work = move |teller| inner.make_image(manifest, image, stores, teller);
            let landed = self.flights.join(key.clone(), progress, work).await;
            let refused = |error: &EnsureError| error.kind().is_of_the_caller();
            if !(landed.joined && landed.result.as_ref().is_err_and(refused)) {
                return landed.result;
            }
        }
    }

    /// The manifest that an image stands for, for this caller.
    async fn manifest(self: &Arc<Self>, image: &Image) -> Result<Sha256Digest, EnsureError> {
        let _turn = self.asking.at(image.reference.registry()).await?;
        let what = format!("ask the registry for {}", image.reference);
        let (inner, image) = (Arc::clone(self), image.clone());
        let work = move || async move { resolve(&inner.config, &inner.shelf, &image).await };
        on_thread_within(ASK_MAX, || what, work).await
    }

    async fn archive(
        self: &Arc<Self>,
        archive: &Archive,
        stores: &Stores,
        progress: Tell<'_>,
    ) -> Result<Have, EnsureError> {
        if let Some(have) = self.find_archive(archive, stores)? {
            return Ok(have);
        }
        let sha256 = archive.sha256.map_or_else(String::new, |s| s.to_string());
        let key = format!("archive {sha256} {} {}", stores.name(), archive.url);
        let (inner, archive, stores) = (Arc::clone(self), archive.clone(), stores.clone());
        let work = move |teller| inner.make_archive(archive, stores, teller);
        self.flights.join(key, progress, work).await.result
    }

    async fn flist(
        self: &Arc<Self>,
        wanted: WantedFlist,
        own: &Stores,
        progress: Tell<'_>,
    ) -> Result<Have, EnsureError> {
        let digest = wanted.digest;
        let stores = if wanted.stores.is_empty() {
            own.clone()
        } else if let Some(specs) = own.named(&wanted.stores) {
            // Objects say where a flist is without the password, which this node has.
            Stores::of(specs, UrlTrust::User)?
        } else {
            // Named by whoever wrote the source: read from, never written to, and no file of the node opened.
            Stores::open(&wanted.stores, UrlTrust::Flist)?
        };
        if let Some(held) = self.shelf.get(&digest)? {
            return Ok(wanted.name(make::have(held, &stores, None)));
        }
        let key = format!("flist {digest} {}", stores.name());
        let inner = Arc::clone(self);
        let work = move |teller| inner.take(digest, stores, teller);
        let absent = match self.flights.join(key, progress, work).await.result {
            Err(error) if make::is_absent(&error) => error,
            result => return result.map(|have| wanted.name(have)),
        };
        let have = match (&wanted.image, &wanted.archive) {
            (Some(image), _) => self.image(image, own, progress).await?,
            (None, Some(archive)) => self.archive(archive, own, progress).await?,
            (None, None) => return Err(absent),
        };
        if have.info.digest != digest.to_string() {
            let what = format!(
                "no store has the flist {digest} any more, and what it was made from is another one today, {}: name \
                 that one (a Flist object: make a new one), or publish the old one to a store again",
                have.info.digest
            );
            // Nothing is damaged: what was asked for is gone.
            return Err(EnsureError::new(EnsureErrorKind::NotFound, what));
        }
        Ok(have)
    }
}

#[cfg(test)]
mod tests;
