//! A directory -> a flist: scan and read in parallel, pack in order.
//!
//! The tree is scanned by a bounded number of threads, then file contents are
//! read by as many and handed to the pack sink in path order: the result is
//! the same at any parallelism. Nothing is followed out of the directory. A
//! file that changes while it is read is an error, not a torn copy.

mod content;
mod glob;
mod scan;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lamina_flist::blob::PlaceError;
use lamina_flist::{BuildError, FlistBuilder, FlistDigest, FlistMeta, Provenance, TreeError};
use lamina_store::{PackSink, PackStats, PackTarget, SinkError};
use tokio::runtime::Handle;

use crate::closure::Graph;
use crate::convert::PackPlace;
use crate::layer::{LayerError, place_content, place_scans};
use crate::progress::Progress;
pub use glob::{Glob, GlobError};
pub use scan::{ScanNote, ScanStats};

/// How to pack a directory.
#[derive(Debug, Clone)]
pub struct PackDirOptions {
    /// How to pack chunks.
    pub pack: lamina_store::PackOptions,
    /// Threads that scan, and later read.
    pub threads: usize,
    /// Stay on the directory's file system; mount points become empty directories.
    pub one_file_system: bool,
    /// Paths to leave out.
    pub exclude: Vec<Glob>,
    /// Tries for a small file that changes while it is read.
    pub attempts: u32,
    /// Most entries.
    pub entries_max: u64,
    /// The stores as the flist shall name them.
    pub store_urls: Vec<String>,
    /// Free tags of the flist.
    pub tags: BTreeMap<String, String>,
    /// Record the directory's path in the flist.
    pub provenance: bool,
}

impl Default for PackDirOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            pack: lamina_store::PackOptions::default(),
            threads: threads.clamp(2, 16),
            one_file_system: false,
            exclude: Vec::new(),
            attempts: 3,
            entries_max: 32 << 20,
            store_urls: Vec::new(),
            tags: BTreeMap::new(),
            provenance: true,
        }
    }
}

/// A packed directory.
#[derive(Debug)]
pub struct PackedDir {
    /// The flist's bytes.
    pub flist: Vec<u8>,
    /// Its digest.
    pub digest: FlistDigest,
    /// What was found.
    pub scan: ScanStats,
    /// What was packed.
    pub packed: PackStats,
}

/// Why a directory was not packed.
#[derive(Debug, thiserror::Error)]
pub enum PackDirError {
    /// A file or directory failed.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file did not hold still.
    #[error("{path}: changed while it was read")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
    /// More entries than allowed.
    #[error("{path} holds more than {max} entries")]
    TooMany {
        /// The directory.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// No store to pack into.
    #[error("no store given")]
    NoTarget,
    /// The tree refused an entry.
    #[error("add {path}")]
    Tree {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// Chunks cannot be packed.
    #[error("pack file content")]
    Sink(#[from] SinkError),
    /// Chunks cannot be packed.
    #[error(transparent)]
    Content(#[from] LayerError),
    /// Files cannot be laid out.
    #[error("lay out files")]
    Place(#[from] PlaceError),
    /// The flist cannot be built.
    #[error("build the flist")]
    Build(#[from] BuildError),
    /// A thread could not be started or died.
    #[error("a packing thread failed")]
    Thread,
}

impl PackDirError {
    fn io(operation: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Packs the directory `root`. Blocks: call it from a thread of its own or
/// with `spawn_blocking`; `handle` runs the uploads.
///
/// # Errors
/// When anything below `root` cannot be read, or nothing can be stored.
pub fn pack_directory(
    root: &Path,
    place: &PackPlace,
    options: &PackDirOptions,
    progress: &Arc<dyn Progress>,
    handle: &Handle,
) -> Result<PackedDir, PackDirError> {
    let stores = place.stores.clone().ok_or(PackDirError::NoTarget)?;
    let scanned = scan::scan(root, options)?;
    progress.total(scanned.stats.entries, scanned.stats.file_bytes);
    let target = PackTarget::Stores(stores);
    let sink = PackSink::new(
        target,
        Arc::clone(&place.index),
        &options.pack,
        handle.clone(),
    )?;
    let mut tree = scanned.tree;
    let read = content::read_files(
        &scanned.root,
        root,
        &scanned.files,
        options,
        &sink,
        &**progress,
    );
    let read = match read {
        Ok(read) => read,
        // A sink that takes no more knows why.
        Err(PackDirError::Content(LayerError::Sink(error))) => {
            sink.finish()?;
            return Err(LayerError::Sink(error).into());
        }
        Err(error) => return Err(error),
    };
    let packed = sink.finish()?;
    let blob = place_content(
        &mut tree,
        read.files,
        &read.chunk_lens,
        &packed.seq_to_chunk,
    )?;
    let scans = [place_scans(&tree, read.scans)];
    let blobs = vec![blob];
    let hints = Graph::new(&tree, &scans, &serde_json::Value::Null).hints(&tree, &blobs);
    let source = options.provenance.then(|| root.display().to_string());
    let meta = FlistMeta {
        stores: options.store_urls.clone(),
        tags: options.tags.clone(),
        provenance: Provenance {
            source,
            ..Provenance::default()
        },
        ..FlistMeta::default()
    };
    let builder = FlistBuilder {
        hints,
        blobs,
        chunks: packed.chunks,
        packs: packed.packs,
        meta,
        ..FlistBuilder::new(tree)
    };
    let head = builder.build()?;
    Ok(PackedDir {
        flist: head.bytes,
        digest: head.digest,
        scan: scanned.stats,
        packed: packed.stats,
    })
}
