//! What a layerstore's directory holds when a process opens it: whole layers; the rest is cleared.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use lamina_flist::{Flist, Sha256Digest};
use lamina_image::convert::{LayerRecord, layer_origin};
use lamina_store::open_flist;

use super::{EnsureError, EnsureErrorKind, disk};

/// Why a layer's file is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// It is gone, or not what it is called: as good as not there.
    #[error("{0}")]
    Damaged(String),
    /// The disk, or a limit of this process: the layer may be sound.
    #[error("read {path}")]
    Unread {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Unusable {
    /// By what failed while `path` was read.
    pub(super) fn of(path: &Path, error: impl std::error::Error + 'static) -> Self {
        match disk::failure(&error) {
            Some(source) => Self::Unread {
                path: path.to_owned(),
                source,
            },
            None => Self::Damaged(format!("{}: {}", path.display(), crate::chain(&error))),
        }
    }
}

impl From<Unusable> for EnsureError {
    fn from(error: Unusable) -> Self {
        match error {
            Unusable::Damaged(what) => Self::new(EnsureErrorKind::DataLoss, what),
            Unusable::Unread { path, source } => {
                Self::disk(format!("read {}", path.display()), source)
            }
        }
    }
}

/// A layer file that says it is what it is called, and where its packs begin.
pub(super) fn named(path: &Path, layer: &Sha256Digest) -> Result<(Flist, u64), Unusable> {
    let damaged = |why: String| Unusable::Damaged(format!("{}: {why}", path.display()));
    let flist = open_flist(path).map_err(|error| Unusable::of(path, error))?;
    let origin = layer_origin(&flist).map_err(|error| Unusable::of(path, error))?;
    if origin.digest != *layer {
        return Err(damaged(format!("it is the layer {}", origin.digest)));
    }
    let packs_at = flist.embedded_offset();
    let packs_at = packs_at.ok_or_else(|| damaged("it has no packs".to_owned()))?;
    Ok((flist, packs_at))
}

/// A layer that is here.
pub(super) struct Found {
    used: SystemTime,
    pub(super) digest: Sha256Digest,
    /// Of its file.
    pub(super) bytes: u64,
    /// Of its record.
    pub(super) record_bytes: u64,
}

/// Every layer in a directory, longest unused first. Whatever else is in it goes; but a layer that cannot be read now
/// stays for the next process, and this one does without it.
pub(super) fn layers(dir: &Path) -> io::Result<Vec<Found>> {
    let mut layers = Vec::new();
    let mut unread = HashSet::new();
    let mut others = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() || name == Some(disk::LOCK) {
            continue;
        }
        let Some(layer) = layer_of(&path) else {
            others.push(path);
            continue;
        };
        match look(&path, layer) {
            Ok(layer) => layers.push(layer),
            Err(why @ Unusable::Damaged(_)) => {
                let why = crate::chain(&why);
                tracing::warn!(why, "forgetting a layer that cannot be used");
                others.push(path);
            }
            Err(why @ Unusable::Unread { .. }) => {
                let why = crate::chain(&why);
                tracing::warn!(why, "doing without a layer that cannot be read now");
                unread.insert(layer);
            }
        }
    }
    let mut known: HashSet<Sha256Digest> = layers.iter().map(|layer| layer.digest).collect();
    known.extend(unread);
    for path in others {
        let is_record = path.extension().is_some_and(|extension| extension == "rec");
        let digest = path.file_stem().and_then(|stem| digest_of(stem.to_str()?));
        if !(is_record && digest.is_some_and(|digest| known.contains(&digest))) {
            disk::remove(&path)?;
        }
    }
    layers.sort_unstable_by_key(|layer| (layer.used, layer.digest));
    Ok(layers)
}

fn digest_of(hex: &str) -> Option<Sha256Digest> {
    format!("sha256:{hex}").parse().ok()
}

fn layer_of(path: &Path) -> Option<Sha256Digest> {
    path.extension()
        .filter(|extension| *extension == "afslyr")?;
    digest_of(path.file_stem()?.to_str()?)
}

/// One layer file; its record is written again when it is missing.
fn look(path: &Path, digest: Sha256Digest) -> Result<Found, Unusable> {
    named(path, &digest)?;
    let unread = |source| Unusable::Unread {
        path: path.to_owned(),
        source,
    };
    let record = path.with_extension("rec");
    if !record.try_exists().map_err(unread)? {
        let read = LayerRecord::open(path).map_err(|error| Unusable::of(path, error))?;
        let bytes = read.to_bytes();
        let bytes = bytes.map_err(|error| Unusable::of(path, error))?;
        disk::write(&record, &bytes).map_err(unread)?;
    }
    let meta = std::fs::metadata(path).map_err(unread)?;
    Ok(Found {
        used: meta.modified().map_err(unread)?,
        digest,
        bytes: meta.len(),
        record_bytes: std::fs::metadata(&record).map_err(unread)?.len(),
    })
}
