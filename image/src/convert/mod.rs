//! An image -> a flist: layers in parallel, streaming, never extracted.
//!
//! Each layer goes through its own pack sink with the same view of what the
//! stores hold, so its packs depend on the layer alone and the result is the
//! same at any parallelism. A layer that was converted before is taken from
//! its record, if the stores still hold its packs. Nothing of an image is
//! returned before every digest of it was checked.

mod archive;
mod combine;
mod commit;
mod layer;
mod layer_file;
mod layer_record;
mod record;
mod stream;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use lamina_flist::blob::PlaceError;
use lamina_flist::{
    BuildError, FlistBuilder, FlistDigest, FlistHead, FlistMeta, LayerOrigin, Provenance,
    Sha256Digest,
};
use lamina_store::{ChunkIndex, PackOptions, PackStats, SinkError, StoreError, StoreSet};
use tokio::runtime::Handle;

use crate::closure::Graph;
use crate::layer::{LayerError, LayerStats, PlacedLayer};
use crate::limits::Limits;
use crate::manifest::ImageConfig;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::registry::RegistryOptions;
use crate::source::{Source, SourceError, SourceImage};
use crate::stack::{StackError, stack_layers};
pub use archive::{Archive, ConvertedArchive, convert_archive};
use combine::Combined;
pub use commit::{CommitError, CommitOptions, Committed, commit};
pub use layer_file::{AllRoom, LayerDir, LayerFile, Room, convert_layer};
pub use layer_record::{Assembled, LayerRecord, assemble_image, layer_origin};
pub use record::{RecordError, UnsoundLayer};
pub use stream::StreamError;

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// Which of several platforms; `None` is this machine's.
    pub platform: Option<Platform>,
    /// How to talk to registries.
    pub registry: RegistryOptions,
    /// What an image may cost.
    pub limits: Limits,
    /// How to pack.
    pub pack: PackOptions,
    /// Layers converted at once; each holds less than 64 MiB.
    pub layers_in_flight: usize,
    /// Where records of converted layers are kept, so that an interrupted run
    /// goes on and shared layers are converted once.
    pub records: Option<PathBuf>,
    /// Also write every layer as `DIR/<diff id>.afslyr`, its packs embedded.
    pub layers_dir: Option<PathBuf>,
    /// The stores as the flist shall name them.
    pub store_urls: Vec<String>,
    /// Free tags of the flist.
    pub tags: std::collections::BTreeMap<String, String>,
    /// Record where the image came from. Without it, equal images from
    /// different places give equal flists.
    pub provenance: bool,
    /// In it, name the image as it was asked for. Without that, names that stand for the same image give equal flists.
    pub name_source: bool,
    /// Add hints (which file needs which others) and the command's profile.
    pub profile: bool,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            platform: None,
            registry: RegistryOptions::default(),
            limits: Limits::default(),
            pack: PackOptions::default(),
            layers_in_flight: 3,
            records: None,
            layers_dir: None,
            store_urls: Vec::new(),
            tags: std::collections::BTreeMap::new(),
            provenance: true,
            name_source: true,
            profile: true,
        }
    }
}

/// Where packs go, and what is there already.
#[derive(Clone)]
pub struct PackPlace {
    /// The stores; `None` only together with `layers_dir`.
    pub stores: Option<StoreSet>,
    /// Chunks that need not be written again.
    pub index: Arc<ChunkIndex>,
}

/// A converted image.
#[derive(Debug)]
pub struct Converted {
    /// The flist's bytes.
    pub flist: Vec<u8>,
    /// Its digest.
    pub digest: FlistDigest,
    /// Its layers, lowest first.
    pub layers: Vec<ConvertedLayer>,
    /// The image's config.
    pub config: ImageConfig,
    /// Digest of its manifest, where it has one.
    pub manifest_digest: Option<Sha256Digest>,
}

/// What became of one layer.
#[derive(Debug, Clone)]
pub struct ConvertedLayer {
    /// Digest of its plain tar.
    pub diff_id: Sha256Digest,
    /// Stored bytes at the source.
    pub size: u64,
    /// What it held; empty if reused.
    pub stats: LayerStats,
    /// What was packed; zero if reused.
    pub packed: PackStats,
    /// Whether its record was used.
    pub reused: bool,
    /// Its layer file, if one was asked for.
    pub file: Option<PathBuf>,
}

/// Why an image was not converted.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// It cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// One of its layers is refused.
    #[error("layer {index} ({diff_id})")]
    Layer {
        /// Which, from 0.
        index: usize,
        /// Its diff id.
        diff_id: Sha256Digest,
        /// Why.
        source: LayerFailure,
    },
    /// An archive is refused.
    #[error("convert {url}")]
    Archive {
        /// Where it is, secrets removed.
        url: String,
        /// Why.
        source: LayerFailure,
    },
    /// Its layers do not fit on each other.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The flist cannot be built.
    #[error("build the flist")]
    Build(#[from] BuildError),
    /// A record of another layer than the image's.
    #[error("the record given for layer {index} is not that layer's")]
    WrongRecord {
        /// Which, from 0.
        index: usize,
    },
    /// Neither stores nor a directory for layers.
    #[error("no store given, and no directory for layers")]
    NoTarget,
    /// A worker died.
    #[error("the conversion was cancelled")]
    Cancelled,
}

/// Why one layer was not converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerFailure {
    /// Its content.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// Its bytes.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It cannot be opened.
    #[error("open the layer")]
    Open(#[source] std::io::Error),
    /// Its chunks cannot be packed.
    #[error("pack the layer's content")]
    Sink(#[from] SinkError),
    /// The stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its files cannot be laid out.
    #[error("lay out the layer's files")]
    Place(#[from] PlaceError),
    /// Its layer file or record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another layer failed first, or the caller gave up.
    #[error("cancelled")]
    Cancelled,
}

/// Converts the image at `source`.
///
/// # Errors
/// When the image cannot be had, is not valid, or cannot be stored.
pub async fn convert(
    source: &Source,
    place: &PackPlace,
    options: &ConvertOptions,
    progress: Arc<dyn Progress>,
) -> Result<Converted, ConvertError> {
    if place.stores.is_none() && options.layers_dir.is_none() {
        return Err(ConvertError::NoTarget);
    }
    let image = source
        .open(
            options.platform.as_ref(),
            &options.registry,
            &options.limits,
        )
        .await?;
    let image = Arc::new(image);
    progress.layers(&image.layers.iter().map(|l| l.size).collect::<Vec<u64>>());
    let outcomes = convert_layers(&image, place, options, progress).await?;
    let (placed, layers): (Vec<PlacedLayer>, Vec<ConvertedLayer>) = outcomes.into_iter().unzip();
    let build = {
        let (image, options) = (Arc::clone(&image), options.clone());
        move || build_flist(&image, placed, &options)
    };
    // Merging a large image takes a while: not on an async thread.
    let flist = tokio::task::spawn_blocking(build)
        .await
        .map_err(|_| ConvertError::Cancelled)??;
    Ok(Converted {
        digest: flist.digest,
        flist: flist.bytes,
        layers,
        config: image.config.clone(),
        manifest_digest: image.manifest_digest,
    })
}

/// Tells the layer threads to stop when the conversion ends in any way.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn convert_layers(
    image: &Arc<SourceImage>,
    place: &PackPlace,
    options: &ConvertOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<(PlacedLayer, ConvertedLayer)>, ConvertError> {
    let cancel = Arc::new(AtomicBool::new(false));
    let guard = CancelOnDrop(Arc::clone(&cancel));
    let job = layer::LayerJob {
        image: Arc::clone(image),
        place: place.clone(),
        work: layer::Work {
            options: options.clone(),
            progress,
            handle: Handle::current(),
            cancel,
        },
    };
    let mut running = futures::stream::iter(0..image.layers.len())
        .map(|index| {
            let job = job.clone();
            async move {
                let done = tokio::task::spawn_blocking(move || job.run(index)).await;
                (index, done.unwrap_or(Err(LayerFailure::Cancelled)))
            }
        })
        .buffer_unordered(options.layers_in_flight.max(1));
    let mut outcomes: Vec<Option<(PlacedLayer, ConvertedLayer)>> =
        image.layers.iter().map(|_| None).collect();
    let mut failed: Option<ConvertError> = None;
    while let Some((index, result)) = running.next().await {
        match result {
            Ok(outcome) => outcomes[index] = Some(outcome),
            Err(source) if failed.is_none() => {
                guard.0.store(true, Ordering::Relaxed);
                let diff_id = image.layers[index].diff_id;
                failed = Some(ConvertError::Layer {
                    index,
                    diff_id,
                    source,
                });
            }
            Err(_) => {}
        }
    }
    match failed {
        Some(error) => Err(error),
        None => outcomes
            .into_iter()
            .collect::<Option<_>>()
            .ok_or(ConvertError::Cancelled),
    }
}

fn build_flist(
    image: &SourceImage,
    placed: Vec<PlacedLayer>,
    options: &ConvertOptions,
) -> Result<FlistHead, ConvertError> {
    let combined = combine::combine(placed);
    let mut provenance = Provenance::default();
    if options.provenance {
        provenance = Provenance {
            source: options.name_source.then(|| image.reference.clone()),
            manifest: image.manifest_digest,
            platform: Some(image.config.platform.to_string()),
            layers: image
                .layers
                .iter()
                .zip(&combined.blob_ids)
                .map(|(layer, blob)| LayerOrigin {
                    digest: layer.digest.unwrap_or(layer.diff_id),
                    diff_id: Some(layer.diff_id),
                    blob: *blob,
                })
                .collect(),
        };
    }
    let meta = FlistMeta {
        stores: options.store_urls.clone(),
        tags: options.tags.clone(),
        image: Some(image.config.json.clone()),
        provenance,
        ..FlistMeta::default()
    };
    assemble(combined, meta, options.profile)
}

/// The flist of these layers; `profile`: with hints and the command's profile.
fn assemble(combined: Combined, meta: FlistMeta, profile: bool) -> Result<FlistHead, ConvertError> {
    let Combined {
        layers,
        blobs,
        chunks,
        packs,
        blob_ids: _,
        scans,
    } = combined;
    let tree = stack_layers(layers)?;
    let config = meta.image.as_ref().unwrap_or(&serde_json::Value::Null);
    let graph = profile.then(|| Graph::new(&tree, &scans, config));
    let builder = FlistBuilder {
        profile: graph
            .as_ref()
            .and_then(|graph| graph.profile(&tree, &blobs)),
        hints: graph.as_ref().and_then(|graph| graph.hints(&tree, &blobs)),
        blobs,
        chunks,
        packs,
        meta,
        ..FlistBuilder::new(tree)
    };
    Ok(builder.build()?)
}
