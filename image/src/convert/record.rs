//! A converted layer on disk: as a record, or as a self-contained layer file.
//!
//! Both are layer flists with a section of their own for what the files'
//! content says about other files; a record has no packs in it. Files appear
//! under their name only when complete.
//! A record that is damaged or of another version is as good as none.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lamina_flist::{
    BlobLayout, BuildError, EmbeddedPacks, ExtraSection, Flist, FlistBuilder, FlistError,
    FlistHead, FlistMeta,
};
use lamina_store::{OpenFlistError, open_flist};

use super::layer::copy_all;
use crate::closure::Scans;
use crate::layer::PlacedLayer;
use crate::source::SourceLayer;

/// Raised when a layer would be converted differently.
pub(super) const VERSION: u32 = 2;
/// The section of a layer's scans: `scan` in ASCII.
const SCANS: u32 = 0x6e61_6373;

/// Why a layer file or record was not written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The disk.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer cannot be encoded.
    #[error("encode {path}")]
    Build {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BuildError,
    },
}

/// Why bytes are no layer, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub enum UnsoundLayer {
    /// The file.
    #[error(transparent)]
    Open(#[from] OpenFlistError),
    /// It is no flist, or a damaged or hostile one.
    #[error("it is not sound")]
    Flist(#[from] FlistError),
    /// A flist, but no layer that a conversion wrote.
    #[error("it is no layer of this version: {0}")]
    Other(&'static str),
}

/// Packs for the end of a layer file.
pub(super) struct Embedded<'f> {
    file: &'f mut File,
    packs: EmbeddedPacks,
}

impl<'f> Embedded<'f> {
    /// Hashes the packs in `file`.
    pub(super) fn measure(file: &'f mut File) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        let mut len = 0;
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            len += n as u64;
        }
        Ok(Self {
            file,
            packs: EmbeddedPacks {
                len,
                digest: *hasher.finalize().as_bytes(),
            },
        })
    }

    /// How many bytes they are, and their digest.
    pub(super) fn packs(&self) -> EmbeddedPacks {
        self.packs
    }
}

/// Where a layer's file is.
pub(super) fn layer_path(dir: &Path, layer: &SourceLayer) -> PathBuf {
    dir.join(format!("{}.afslyr", hex::encode(layer.diff_id.as_bytes())))
}

/// Where a layer's record is.
pub(super) fn record_path(dir: &Path, layer: &SourceLayer, level: i32) -> PathBuf {
    dir.join(format!(
        "{}-v{VERSION}-l{level}.rec",
        hex::encode(layer.diff_id.as_bytes())
    ))
}

/// Writes a layer, whole or not at all.
pub(super) fn write(
    path: &Path,
    placed: &PlacedLayer,
    embedded: Option<Embedded<'_>>,
) -> Result<(), RecordError> {
    let packs = embedded.as_ref().map(|embedded| embedded.packs);
    let head = build(path, placed, FlistMeta::default(), packs)?;
    write_head(path, &head, |file| match embedded {
        Some(embedded) => copy_all(embedded.file, file).map(drop),
        None => Ok(()),
    })
    .map(drop)
}

/// The layer's flist; `path`: what it is built for.
pub(super) fn build(
    path: &Path,
    placed: &PlacedLayer,
    meta: FlistMeta,
    embedded: Option<EmbeddedPacks>,
) -> Result<FlistHead, RecordError> {
    let builder = FlistBuilder {
        blobs: vec![placed.blob.clone()],
        chunks: placed.chunks.clone(),
        packs: placed.packs.clone(),
        embedded,
        extra: vec![ExtraSection {
            kind: SCANS,
            bytes: placed.scans.to_bytes(),
        }],
        is_layer: true,
        meta,
        ..FlistBuilder::new(placed.tree.clone())
    };
    builder.build().map_err(|source| RecordError::Build {
        path: path.to_owned(),
        source,
    })
}

/// Writes a flist whose packs come from `write_packs`, whole or not at all; gives its length.
pub(super) fn write_head(
    path: &Path,
    head: &FlistHead,
    write_packs: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<u64, RecordError> {
    let failed = |source| RecordError::Write {
        path: path.to_owned(),
        source,
    };
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(&head.bytes)?;
        write_packs(file.as_file_mut())?;
        file.write_all(&head.tail)?;
        let file_len = file.as_file().metadata()?.len();
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(file_len)
    };
    write().map_err(failed)
}

/// Reads a layer back; `None` if it is not there or not sound.
pub(super) fn read(path: &Path) -> Option<PlacedLayer> {
    if !path.try_exists().unwrap_or(false) {
        return None;
    }
    let placed = open_flist(path)
        .map_err(UnsoundLayer::from)
        .and_then(|flist| decode(&flist));
    placed
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "ignoring a damaged layer record");
        })
        .ok()
}

/// A layer, checked as a whole but for its packs: whoever reads a chunk checks it.
pub(super) fn decode(flist: &Flist) -> Result<PlacedLayer, UnsoundLayer> {
    flist.verify_metadata()?;
    if !flist.is_layer() {
        return Err(UnsoundLayer::Other("it is a whole file system"));
    }
    flist.check(&lamina_flist::Limits::default())?;
    let mut blob = BlobLayout::default();
    if let Some(info) = flist.blob(0) {
        blob.len = info.len;
        let entries = flist.blob_entries(0);
        blob.entries = entries.ok_or(FlistError::BadBlob(0))?.collect();
    }
    let sections = flist.extra_sections();
    let scans = sections
        .iter()
        .find(|section| section.kind == SCANS)
        .and_then(|section| Scans::parse(&section.bytes))
        .ok_or(UnsoundLayer::Other("what its files refer to is missing"))?;
    Ok(PlacedLayer {
        tree: flist.to_tree()?,
        blob,
        chunks: flist.chunks().collect(),
        packs: flist.packs().collect(),
        scans,
    })
}
