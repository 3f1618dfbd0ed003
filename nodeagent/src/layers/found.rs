//! What a layerstore's directory holds when a process opens it: whole layers; the rest is cleared.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use lamina_flist::{Flist, Sha256Digest};
use lamina_image::convert::{LayerRecord, layer_origin};
use lamina_store::open_flist;

use super::disk;

/// A layer file that says it is what it is called, and where its packs begin.
pub(super) fn named(path: &Path, layer: &Sha256Digest) -> Result<(Flist, u64), String> {
    let say =
        |error: &dyn std::error::Error| format!("{}: {}", path.display(), crate::chain(error));
    let flist = open_flist(path).map_err(|error| say(&error))?;
    let origin = layer_origin(&flist).map_err(|error| say(&error))?;
    if origin.digest != *layer {
        return Err(format!(
            "{}: it is the layer {}",
            path.display(),
            origin.digest
        ));
    }
    let packs_at = flist.embedded_offset();
    let packs_at = packs_at.ok_or_else(|| format!("{}: it has no packs", path.display()))?;
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

/// Every layer in a directory, longest unused first. Whatever else is in it goes.
pub(super) fn layers(dir: &Path) -> io::Result<Vec<Found>> {
    let mut layers = Vec::new();
    let mut others = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if path.is_dir() || name == Some(disk::LOCK) {
            continue;
        }
        match layer_of(&path).and_then(|layer| look(&path, layer)) {
            Some(layer) => layers.push(layer),
            None => others.push(path),
        }
    }
    let known: HashSet<Sha256Digest> = layers.iter().map(|layer| layer.digest).collect();
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
fn look(path: &Path, digest: Sha256Digest) -> Option<Found> {
    if let Err(why) = named(path, &digest) {
        tracing::warn!(why, "forgetting a layer that cannot be used");
        return None;
    }
    let record = path.with_extension("rec");
    if !record.exists() {
        let bytes = LayerRecord::open(path).ok()?.to_bytes().ok()?;
        disk::write(&record, &bytes).ok()?;
    }
    let meta = std::fs::metadata(path).ok()?;
    Some(Found {
        used: meta.modified().ok()?,
        digest,
        bytes: meta.len(),
        record_bytes: std::fs::metadata(&record).ok()?.len(),
    })
}
