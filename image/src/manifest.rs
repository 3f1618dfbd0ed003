//! Manifests, indexes and image configs: JSON somebody else wrote.
//!
//! Owns their validation: what parses here has schema version 2, one meaning
//! (an index *or* a manifest, CVE-2021-41190), layer media types we can read,
//! sizes and counts within limits, and a diff id for every layer. Both the OCI
//! and the docker v2 schema 2 spelling are read.

mod config;
mod error;

use lamina_flist::Sha256Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::limits::Limits;
use crate::platform::Platform;

pub use config::{ImageConfig, parse_config};
pub use error::ManifestError;

/// What a client accepts, for the `Accept` header.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
const LAYER_TYPES: [&str; 9] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(bytes).into())
}

/// A reference to content by digest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Sha256Digest,
    /// Its bytes.
    pub size: u64,
    /// In an index: what the manifest is built for.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Free text by key.
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A document that lists manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The manifests.
    pub manifests: Vec<Descriptor>,
}

/// One image: its config and layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// Layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Either document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Lists manifests.
    Index(Index),
    /// Is one.
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Parses a manifest or index. `content_type` is what the server called it.
///
/// # Errors
/// When the document is malformed, ambiguous or over the limits.
pub fn parse_document(
    bytes: &[u8],
    content_type: Option<&str>,
    limits: &Limits,
) -> Result<Document, ManifestError> {
    check_size("manifest", bytes.len() as u64, limits.manifest_bytes_max)?;
    let raw: RawDocument = serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
        what: "manifest",
        source,
    })?;
    if raw.schema_version != 2 {
        return Err(ManifestError::SchemaVersion(raw.schema_version));
    }
    let declared = raw.media_type.as_deref();
    let served = content_type.and_then(known_type);
    if let (Some(a), Some(b)) = (declared, served)
        && a != b
    {
        return Err(ManifestError::Ambiguous(
            "its own media type is not the one it was served as",
        ));
    }
    let kind = declared.or(served);
    match (raw.manifests, raw.config, raw.layers) {
        _ if raw.fs_layers.is_some() => Err(ManifestError::Ambiguous("it has schema 1 layers")),
        (Some(manifests), None, None) => {
            if kind.is_some_and(|k| k != OCI_INDEX && k != DOCKER_LIST) {
                return Err(ManifestError::Ambiguous(
                    "an index that calls itself something else",
                ));
            }
            check_count("index", manifests.len(), limits.index_entries_max)?;
            Ok(Document::Index(Index { manifests }))
        }
        (None, Some(config), Some(layers)) => {
            if kind.is_some_and(|k| k != OCI_MANIFEST && k != DOCKER_MANIFEST) {
                return Err(ManifestError::Ambiguous(
                    "a manifest that calls itself something else",
                ));
            }
            let manifest = Manifest { config, layers };
            check_manifest(&manifest, limits)?;
            Ok(Document::Manifest(manifest))
        }
        _ => Err(ManifestError::Ambiguous(
            "neither clearly an index nor clearly a manifest",
        )),
    }
}

/// The type without parameters, if it is one of ours; servers also say
/// `application/json` or `text/plain`, which says nothing.
fn known_type(content_type: &str) -> Option<&'static str> {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    MANIFEST_TYPES.into_iter().find(|t| *t == essence)
}

fn check_manifest(manifest: &Manifest, limits: &Limits) -> Result<(), ManifestError> {
    if !CONFIG_TYPES.contains(&manifest.config.media_type.as_str()) {
        return Err(ManifestError::NotAnImage(
            manifest.config.media_type.clone(),
        ));
    }
    check_size(
        "image config",
        manifest.config.size,
        limits.config_bytes_max,
    )?;
    check_count("manifest", manifest.layers.len(), limits.layers_max)?;
    for (layer, descriptor) in manifest.layers.iter().enumerate() {
        if !LAYER_TYPES.contains(&descriptor.media_type.as_str()) {
            let media_type = descriptor.media_type.chars().take(200).collect();
            return Err(ManifestError::LayerType { layer, media_type });
        }
        check_size("layer", descriptor.size, limits.layer_bytes_max)?;
    }
    Ok(())
}

fn check_size(what: &'static str, bytes: u64, max: u64) -> Result<(), ManifestError> {
    if bytes > max {
        return Err(ManifestError::TooLarge { what, bytes, max });
    }
    Ok(())
}

fn check_count(what: &'static str, got: usize, max: usize) -> Result<(), ManifestError> {
    if got > max {
        return Err(ManifestError::TooMany { what, got, max });
    }
    Ok(())
}

/// Checks that `bytes` are what `descriptor` says.
///
/// # Errors
/// When size or digest differ.
pub fn check_content(
    what: &'static str,
    descriptor: &Descriptor,
    bytes: &[u8],
) -> Result<(), ManifestError> {
    if bytes.len() as u64 != descriptor.size {
        let got = bytes.len() as u64;
        return Err(ManifestError::WrongSize {
            what,
            want: descriptor.size,
            got,
        });
    }
    check_digest(what, &descriptor.digest, bytes)
}

/// Checks that `bytes` have digest `want`.
///
/// # Errors
/// When they have not.
pub fn check_digest(
    what: &'static str,
    want: &Sha256Digest,
    bytes: &[u8],
) -> Result<(), ManifestError> {
    let got = sha256(bytes);
    if got != *want {
        return Err(ManifestError::WrongDigest {
            what,
            want: *want,
            got,
        });
    }
    Ok(())
}

impl Index {
    /// The manifest that serves `wanted` best; the first of equals.
    ///
    /// # Errors
    /// When none does, with the list of what there is.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        let mut best: Option<(u8, &Descriptor)> = None;
        for descriptor in &self.manifests {
            let fit = match &descriptor.platform {
                Some(offered) => wanted.fit(offered),
                // An index of one, as OCI layouts have, need not say.
                None if self.manifests.len() == 1 => Some(0),
                None => None,
            };
            if let Some(fit) = fit
                && best.is_none_or(|(b, _)| fit > b)
            {
                best = Some((fit, descriptor));
            }
        }
        best.map(|(_, d)| d)
            .ok_or_else(|| ManifestError::NoPlatform {
                wanted: wanted.to_string(),
                offered: self.offered(),
            })
    }

    fn offered(&self) -> Vec<String> {
        let mut all: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|d| d.platform.as_ref())
            // What build tools attach to images calls itself unknown/unknown.
            .filter(|p| p.os != "unknown")
            .map(Platform::to_string)
            .collect();
        all.sort();
        all.dedup();
        all.truncate(50);
        all
    }
}

#[cfg(test)]
mod tests;
