//! A converted layer on disk: as a record, or as a self-contained layer file.
//!
//! Both are layer flists with a section of their own for what the files'
//! content says about other files; a record has no packs in it. Files appear
//! under their name only when complete.
//! A record that is damaged or of another version is as good as none.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

use lamina_flist::{BlobLayout, BuildError, EmbeddedPacks, ExtraSection, Flist, FlistBuilder};
use lamina_store::open_flist;

use super::layer::copy_all;
use crate::closure::Scans;
use crate::layer::PlacedLayer;
use crate::source::SourceLayer;

/// Raised when a layer would be converted differently.
const VERSION: u32 = 2;
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
    let failed = |source| RecordError::Write {
        path: path.to_owned(),
        source,
    };
    let builder = FlistBuilder {
        blobs: vec![placed.blob.clone()],
        chunks: placed.chunks.clone(),
        packs: placed.packs.clone(),
        embedded: embedded.as_ref().map(|e| e.packs),
        extra: vec![ExtraSection {
            kind: SCANS,
            bytes: placed.scans.to_bytes(),
        }],
        is_layer: true,
        ..FlistBuilder::new(placed.tree.clone())
    };
    let head = builder.build().map_err(|source| RecordError::Build {
        path: path.to_owned(),
        source,
    })?;
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(failed)?;
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    file.write_all(&head.bytes).map_err(failed)?;
    if let Some(embedded) = embedded {
        copy_all(embedded.file, file.as_file_mut()).map_err(failed)?;
    }
    file.write_all(&head.tail).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// Reads a layer back; `None` if it is not there or not sound.
pub(super) fn read(path: &Path) -> Option<PlacedLayer> {
    if !path.try_exists().unwrap_or(false) {
        return None;
    }
    let placed = open_flist(path).ok().and_then(|flist| decode(&flist));
    if placed.is_none() {
        tracing::warn!(path = %path.display(), "ignoring a damaged layer record");
    }
    placed
}

fn decode(flist: &Flist) -> Option<PlacedLayer> {
    // Not the packs: whoever reads a chunk checks it.
    flist.verify_metadata().ok().filter(|()| flist.is_layer())?;
    flist.check(&lamina_flist::Limits::default()).ok()?;
    let mut blob = BlobLayout::default();
    if let Some(info) = flist.blob(0) {
        blob.len = info.len;
        blob.entries = flist.blob_entries(0)?.collect();
    }
    let sections = flist.extra_sections();
    let scans = sections.iter().find(|section| section.kind == SCANS)?;
    Some(PlacedLayer {
        tree: flist.to_tree().ok()?,
        blob,
        chunks: flist.chunks().collect(),
        packs: flist.packs().collect(),
        scans: Scans::parse(&scans.bytes)?,
    })
}
