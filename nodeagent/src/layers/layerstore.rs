//! Layers onto the shelf: from another node, by way of the node that pulls for all, or from the registry.
//!
//! ```text
//! ensure ──resolve (as the caller)──> image ──each layer──> here? ──> held
//!                                                   │ no: one task per layer, however many ask
//!                                      bring ───────┤ who holds it? copy, check
//!                                                   │ nobody: its home pulls it for all, then copy
//!                                      pull  ───────┘ else, or as its home: registry, convert, check
//! ```
//! Always: a layer is pulled once at a time; room is reserved first; what others wait for goes on when callers leave.
//! A pull for others never asks others: two nodes that take each other for the home both read the registry, and
//! neither waits for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use lamina_discovery::client::Client;
use lamina_flist::Sha256Digest;
use lamina_image::SourceImage;
use lamina_image::convert::{ConvertOptions, Room, convert_layer};
use lamina_image::progress::Silent;

use super::cluster::{Cluster, Homes, Sought};
use super::copy::{self, Expected};
use super::flight::Flights;
use super::home::Home;
use super::notes::ImageNotes;
use super::record::RecordAt;
use super::shelf::{HeldLayer, IMAGES, LayerShelf};
use super::turns::{TurnLimits, Turns};
use super::upload::Uploads;
use super::wanted::{Resolver, WantedImage};
use super::{EnsureError, EnsureErrorKind, LayersConfig, report};

/// Layers of one call that are waited for at once.
const LAYERS_AT_ONCE: usize = 8;
/// How long a pull waits for those before it: half of what a caller on another node waits for the whole.
const PULL_WAIT_MAX: Duration = Duration::from_secs(1800);
/// Layers in one image.
pub(super) const LAYERS_MAX: usize = 4096;

/// Where a layer may come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From wherever it is had soonest.
    Anywhere,
    /// From the registry alone.
    Registry,
}

/// A layer that was asked for.
#[derive(Debug, Clone)]
pub struct EnsuredLayer {
    /// Which of the image, from 0.
    pub index: usize,
    /// Where it is.
    pub held: HeldLayer,
    /// It was here before.
    pub cached: bool,
}

/// What a call found, or brought here.
pub struct Ensured {
    /// The image.
    pub image: Arc<SourceImage>,
    /// Of it, the layers asked for, lowest first.
    pub layers: Vec<EnsuredLayer>,
}

/// What was done since the process began.
#[derive(Debug, Default)]
pub struct LayerCounts {
    /// Layers pulled from registries.
    pub pulled: AtomicU64,
    /// Layers copied from other nodes.
    pub copied: AtomicU64,
    /// Records read from other nodes.
    pub records: AtomicU64,
}

/// The layerstore; clones are the same.
#[derive(Clone)]
pub struct Layerstore {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shelf: LayerShelf,
    pub(super) cluster: Option<Arc<Cluster>>,
    pub(super) resolver: Resolver,
    pub(super) uploads: Uploads,
    pub(super) counts: LayerCounts,
    pub(super) records: Arc<Flights<RecordAt>>,
    notes: ImageNotes,
    pulls: Arc<Flights<HeldLayer>>,
    brings: Arc<Flights<HeldLayer>>,
    pulling: Turns,
}

impl Layerstore {
    /// Opens the shelf, and tells discovery what is on it from now on. Runs on the runtime it is called in.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(config: LayersConfig, cluster: Option<Cluster>) -> Result<Self, EnsureError> {
        let shelf = LayerShelf::open(&config.dir, config.bytes_max)?;
        let secret = super::random_bytes()?;
        let inner = Arc::new(Inner {
            cluster: cluster.map(Arc::new),
            resolver: Resolver::new(config.insecure_registries, config.limits, secret),
            uploads: Uploads::new(config.uploads_max),
            counts: LayerCounts::default(),
            records: Arc::default(),
            notes: ImageNotes::new(shelf.sub(IMAGES)),
            pulls: Arc::default(),
            brings: Arc::default(),
            pulling: Turns::new(TurnLimits {
                all: config.pulls_max.max(1),
                // A registry that trickles leaves the other half to the others.
                of_host: config.pulls_max.div_ceil(2).max(1),
                wait_max: PULL_WAIT_MAX,
            }),
            shelf,
        });
        inner.clear_records()?;
        report::start(&inner);
        Ok(Self { inner })
    }

    /// The way to discovery, in a cluster.
    pub fn discovery(&self) -> Option<Arc<Client>> {
        let cluster = self.inner.cluster.as_ref();
        cluster.map(|cluster| cluster.discovery())
    }

    /// The layers here.
    pub fn shelf(&self) -> &LayerShelf {
        &self.inner.shelf
    }

    /// What was done.
    pub fn counts(&self) -> &LayerCounts {
        &self.inner.counts
    }

    /// Registries spoken to in plain http.
    pub(super) fn insecure(&self) -> &[String] {
        self.inner.resolver.insecure()
    }

    /// Calls off all work and refuses more, or takes it again.
    pub fn close(&self, closed: bool) {
        self.inner.resolver.close(closed);
        self.inner.records.close(closed);
        self.inner.brings.close(closed);
        self.inner.pulls.close(closed);
    }

    /// Returns once a closed layerstore's work has ended.
    pub async fn settled(&self) {
        self.inner.records.landed().await;
        self.inner.brings.landed().await;
        self.inner.pulls.landed().await;
    }

    /// What the registry says an image is, to this caller.
    ///
    /// # Errors
    /// What the registry answers.
    pub async fn resolve(&self, wanted: &WantedImage) -> Result<Arc<SourceImage>, EnsureError> {
        let image = self.inner.resolver.resolve(wanted).await?;
        if image.layers.len() > LAYERS_MAX {
            let what = format!("{}: more than {LAYERS_MAX} layers", image.reference);
            return Err(EnsureError::new(EnsureErrorKind::InvalidArgument, what));
        }
        Ok(image)
    }

    /// Has layers of an image here, all of them or those given. What it begins goes on when the caller is gone.
    ///
    /// # Errors
    /// By kind: `PermissionDenied` when the registry does not show the caller this image, `NotFound` for a layer that
    /// is none of it, `ResourceExhausted` when they do not fit now, or never.
    pub async fn ensure(
        &self,
        wanted: &WantedImage,
        layers: Option<&[Sha256Digest]>,
        origin: Origin,
    ) -> Result<Ensured, EnsureError> {
        let image = self.resolve(wanted).await?;
        let chosen = choose(&image, layers)?;
        self.check_fits(&image, &chosen)?;
        let mut bringing = futures::stream::iter(chosen)
            .map(|index| self.layer(&image, index, wanted, origin))
            .buffer_unordered(LAYERS_AT_ONCE);
        let mut found = Vec::new();
        while let Some(layer) = bringing.next().await {
            found.push(layer?);
        }
        drop(bringing);
        found.sort_unstable_by_key(|layer| layer.index);
        self.note(wanted, &image);
        Ok(Ensured {
            image,
            layers: found,
        })
    }

    /// Of an image, how many layers there are, and how many are here.
    ///
    /// # Errors
    /// As [`Layerstore::ensure`].
    pub async fn look(
        &self,
        wanted: &WantedImage,
    ) -> Result<(Arc<SourceImage>, usize), EnsureError> {
        let image = self.resolve(wanted).await?;
        let here = |digest: &Sha256Digest| self.inner.shelf.size(digest).is_some();
        let count = digests(&image).filter(here).count();
        Ok((image, count))
    }

    async fn layer(
        &self,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
        origin: Origin,
    ) -> Result<EnsuredLayer, EnsureError> {
        let digest = digest_of(image, index);
        if let Some(held) = self.inner.shelf.hold(&digest) {
            let cached = true;
            return Ok(EnsuredLayer {
                index,
                held,
                cached,
            });
        }
        let held = match (origin, &self.inner.cluster) {
            (Origin::Anywhere, Some(_)) => self.inner.brought(image, index, wanted).await?,
            _ => self.inner.pulled(image, index, wanted).await?,
        };
        let cached = false;
        Ok(EnsuredLayer {
            index,
            held,
            cached,
        })
    }

    /// Before anything is downloaded: what is larger than all of the room never fits.
    fn check_fits(&self, image: &SourceImage, chosen: &[usize]) -> Result<(), EnsureError> {
        let missing = |index: &&usize| {
            let digest = digest_of(image, **index);
            self.inner.shelf.size(&digest).is_none()
        };
        if !chosen.iter().any(|index| missing(&index)) {
            return Ok(());
        }
        let bytes: u64 = chosen.iter().map(|index| image.layers[*index].size).sum();
        let (_, max) = self.inner.shelf.bytes();
        if bytes <= max {
            return Ok(());
        }
        let what = format!(
            "{}: its {} layers of {bytes} bytes can never fit: the layerstore's limit is {max} (see --layers-size)",
            image.reference,
            chosen.len()
        );
        Err(EnsureError::new(EnsureErrorKind::ResourceExhausted, what))
    }

    /// Remembers an image that is whole here.
    fn note(&self, wanted: &WantedImage, image: &SourceImage) {
        let layers: Vec<Sha256Digest> = digests(image).collect();
        let here = |digest: &Sha256Digest| self.inner.shelf.size(digest).is_some();
        if !layers.iter().all(here) {
            return;
        }
        let key = wanted.named.key();
        match self.inner.notes.put(&key, layers) {
            Ok(()) => self.inner.shelf.announce(),
            Err(error) => tracing::warn!(%key, %error, "note what an image is made of"),
        }
    }
}

impl Inner {
    /// Images of which every layer is here.
    pub(super) fn whole_images(&self) -> Vec<String> {
        self.notes.whole(|layer| self.shelf.size(layer).is_some())
    }

    /// Waits for a layer from anywhere.
    async fn brought(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<HeldLayer, EnsureError> {
        let key = digest_of(image, index).to_string();
        let bring = || {
            let (inner, image, wanted) = (Arc::clone(self), Arc::clone(image), wanted.clone());
            async move { inner.bring(&image, index, &wanted).await }
        };
        self.brings.each(&key, bring).await
    }

    /// Waits for a layer from the registry.
    pub(super) async fn pulled(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<HeldLayer, EnsureError> {
        let key = digest_of(image, index).to_string();
        let pull = || {
            let (inner, image, wanted) = (Arc::clone(self), Arc::clone(image), wanted.clone());
            async move { inner.pull(&image, index, &wanted).await }
        };
        self.pulls.each(&key, pull).await
    }

    async fn bring(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<HeldLayer, EnsureError> {
        let digest = digest_of(image, index);
        if let Some(held) = self.shelf.hold(&digest) {
            return Ok(held);
        }
        if let Some(cluster) = &self.cluster {
            let home = Home::new(image, index, wanted);
            let sought = sought(image, index, self.homes(wanted));
            let expected = Expected::of(image.layers[index].size, self.resolver.limits());
            let ask = |channel| copy::layer(&self.shelf, digest, expected, channel);
            let pull = |channel| home.pull(channel);
            let found = cluster.seek(&sought, ask, pull).await;
            if let Some(copied) = found {
                let count = u64::from(copied.is_ok());
                self.counts.copied.fetch_add(count, Ordering::Relaxed);
                return copied;
            }
        }
        self.pulled(image, index, wanted).await
    }

    /// Who can pull a layer for this caller, and may hear who asks.
    pub(super) fn homes(&self, wanted: &WantedImage) -> Homes {
        let is_private = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.is_private());
        let may_hear = is_private || wanted.is_anonymous();
        match wanted.is_shared(self.resolver.insecure()) && may_hear {
            true => Homes::All,
            false => Homes::Nobody,
        }
    }

    async fn pull(
        self: &Arc<Self>,
        image: &Arc<SourceImage>,
        index: usize,
        wanted: &WantedImage,
    ) -> Result<HeldLayer, EnsureError> {
        let registry = wanted.named.reference.registry();
        let _turn = self.pulling.at(registry).await?;
        let layer = &image.layers[index];
        let digest = digest_of(image, index);
        if let Some(held) = self.shelf.hold(&digest) {
            return Ok(held);
        }
        let what = || format!("pull the layer {digest} of {}", wanted.named.reference);
        let room = self.shelf.reserve(layer.size);
        let room = Arc::new(room.map_err(|error| EnsureError::room(what(), error))?);
        let files = self.shelf.files(Arc::clone(&room) as Arc<dyn Room>);
        let options = ConvertOptions {
            limits: self.resolver.limits().clone(),
            ..ConvertOptions::default()
        };
        let done = convert_layer(image, index, &files, &options, Arc::new(Silent)).await;
        let done = done.map_err(|error| {
            self.shelf.clear(&digest);
            EnsureError::convert(what(), error)
        })?;
        self.counts.pulled.fetch_add(1, Ordering::Relaxed);
        let bytes = (done.bytes, done.record_bytes);
        Ok(self.shelf.land(&digest, bytes, &room))
    }
}

/// The digest of a registry's layer.
pub(super) fn digest_of(image: &SourceImage, index: usize) -> Sha256Digest {
    let layer = &image.layers[index];
    layer.digest.unwrap_or(layer.diff_id)
}

/// A layer of an image, to look for.
pub(super) fn sought(image: &SourceImage, index: usize, homes: Homes) -> Sought {
    let layer = digest_of(image, index);
    Sought {
        layer,
        beside: digests(image).filter(|other| *other != layer).collect(),
        homes,
    }
}

fn digests(image: &SourceImage) -> impl Iterator<Item = Sha256Digest> + '_ {
    (0..image.layers.len()).map(|index| digest_of(image, index))
}

/// Which layers are meant, each once; those of the image that `wanted` names, or all.
fn choose(image: &SourceImage, wanted: Option<&[Sha256Digest]>) -> Result<Vec<usize>, EnsureError> {
    let first_of = |digest: &Sha256Digest| digests(image).position(|known| known == *digest);
    let chosen: Result<Vec<usize>, EnsureError> = match wanted {
        None => Ok(digests(image)
            .filter_map(|digest| first_of(&digest))
            .collect()),
        Some(wanted) => wanted
            .iter()
            .map(|digest| {
                first_of(digest).ok_or_else(|| {
                    let what = format!("{} has no layer {digest}", image.reference);
                    EnsureError::new(EnsureErrorKind::NotFound, what)
                })
            })
            .collect(),
    };
    let mut chosen = chosen?;
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}
