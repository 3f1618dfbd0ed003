//! Manifests, indexes and image configs: JSON somebody else wrote.
//!
//! Owns their validation: what parses here has schema version 2, one meaning
//! (an index *or* a manifest, CVE-2021-41190), layer media types we can read,
//! sizes and counts within limits, and a diff id for every layer. Both the OCI
//! and the docker v2 schema 2 spelling are read.

use lamina_flist::Sha256Digest;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::limits::Limits;
use crate::platform::Platform;

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

/// An image config, checked, with its whole JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageConfig {
    /// Digest of the config: what docker calls the image id.
    pub digest: Sha256Digest,
    /// Digests of the layers' plain tars, lowest first.
    pub diff_ids: Vec<Sha256Digest>,
    /// What it is built for.
    pub platform: Platform,
    /// Everything.
    pub json: serde_json::Value,
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("the {what} is malformed")]
    Json {
        /// Which document.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// Larger than allowed.
    #[error("the {what} has {bytes} bytes; {max} is the most")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Bytes that are not what their digest says.
    #[error("the {what} has digest {got}, expected {want}")]
    WrongDigest {
        /// Which document.
        what: &'static str,
        /// What was asked for.
        want: Sha256Digest,
        /// What came.
        got: Sha256Digest,
    },
    /// A length that is not what the descriptor says.
    #[error("the {what} has {got} bytes, its descriptor says {want}")]
    WrongSize {
        /// Which document.
        what: &'static str,
        /// What was announced.
        want: u64,
        /// What came.
        got: u64,
    },
    /// A schema nobody should serve any more.
    #[error("the manifest has schema version {0}; only 2 is supported")]
    SchemaVersion(u64),
    /// Both an index and a manifest, or neither.
    #[error("the document is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// Something that is no image, such as a chart.
    #[error("not an image: its config has the type {0:?}")]
    NotAnImage(String),
    /// A layer that cannot be read.
    #[error("layer {layer} has the unsupported type {media_type:?}")]
    LayerType {
        /// Which, from 0.
        layer: usize,
        /// Its media type.
        media_type: String,
    },
    /// More of something than allowed.
    #[error("the {what} lists {got} entries; {max} is the most")]
    TooMany {
        /// Which document.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The config does not describe the manifest's layers.
    #[error("the config has {diff_ids} diff ids for {layers} layers")]
    LayerCount {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// Nothing fits.
    #[error("no image for {wanted}; there is: {}", offered.join(", "))]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// A single image that is for something else.
    #[error("the image is for {got}, not for {wanted}")]
    WrongPlatform {
        /// What was asked for.
        wanted: String,
        /// What it is for.
        got: String,
    },
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

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    #[serde(rename = "type")]
    kind: String,
    // `null` is what some builders write for `FROM scratch`.
    #[serde(default)]
    diff_ids: Option<Vec<Sha256Digest>>,
}

/// Parses the image config of a manifest with `layers` layers.
///
/// # Errors
/// When it is malformed or describes other layers.
pub fn parse_config(
    bytes: &[u8],
    layers: usize,
    limits: &Limits,
) -> Result<ImageConfig, ManifestError> {
    let malformed = |source| ManifestError::Json {
        what: "image config",
        source,
    };
    check_size("image config", bytes.len() as u64, limits.config_bytes_max)?;
    let raw: RawConfig = serde_json::from_slice(bytes).map_err(malformed)?;
    if raw.rootfs.kind != "layers" {
        return Err(ManifestError::Ambiguous(
            "its root file system is not made of layers",
        ));
    }
    let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        return Err(ManifestError::LayerCount {
            diff_ids: diff_ids.len(),
            layers,
        });
    }
    Ok(ImageConfig {
        digest: sha256(bytes),
        diff_ids,
        platform: Platform {
            os: raw.os,
            arch: raw.architecture,
            variant: raw.variant,
        },
        json: serde_json::from_slice(bytes).map_err(malformed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: &str) -> String {
        format!("sha256:{}", fill.repeat(32))
    }

    fn descriptor(media_type: &str, fill: &str) -> serde_json::Value {
        serde_json::json!({ "mediaType": media_type, "digest": digest(fill), "size": 10 })
    }

    fn parse(json: &serde_json::Value) -> Result<Document, ManifestError> {
        parse_document(json.to_string().as_bytes(), None, &Limits::default())
    }

    fn manifest() -> serde_json::Value {
        serde_json::json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG_TYPES[0], "aa"),
            "layers": [descriptor(LAYER_TYPES[1], "bb")],
        })
    }

    #[test]
    fn both_spellings_parse() {
        assert!(
            matches!(parse(&manifest()).unwrap(), Document::Manifest(m) if m.layers.len() == 1)
        );
        let mut docker = manifest();
        docker["mediaType"] = DOCKER_MANIFEST.into();
        docker["config"]["mediaType"] = CONFIG_TYPES[1].into();
        docker["layers"][0]["mediaType"] = LAYER_TYPES[7].into();
        assert!(parse(&docker).is_ok());
    }

    #[test]
    fn hostile_documents_are_refused_by_name() {
        type Edit = fn(&mut serde_json::Value);
        let cases: Vec<(Edit, &str)> = vec![
            (|m| m["schemaVersion"] = 1.into(), "schema version 1"),
            (|m| m["manifests"] = serde_json::json!([]), "ambiguous"),
            (|m| m["fsLayers"] = serde_json::json!([]), "schema 1"),
            (|m| m["mediaType"] = OCI_INDEX.into(), "calls itself"),
            (
                |m| m["layers"][0]["digest"] = "sha256:00".into(),
                "malformed",
            ),
            (
                |m| m["layers"][0]["digest"] = "sha512:00".into(),
                "malformed",
            ),
            (|m| m["layers"][0]["size"] = (-1).into(), "malformed"),
            (
                |m| m["layers"][0]["size"] = (1u64 << 60).into(),
                "layer has",
            ),
            (
                |m| m["config"]["size"] = (1u64 << 40).into(),
                "image config has",
            ),
            (
                |m| m["layers"][0]["mediaType"] = "application/x-evil".into(),
                "unsupported type",
            ),
            (
                |m| m["config"]["mediaType"] = "application/vnd.cncf.helm".into(),
                "not an image",
            ),
            (
                |m| m["layers"] = vec![m["layers"][0].clone(); 600].into(),
                "600 entries",
            ),
            (
                |m| drop(m.as_object_mut().unwrap().remove("config")),
                "ambiguous",
            ),
        ];
        for (edit, want) in cases {
            let mut json = manifest();
            edit(&mut json);
            let error = parse(&json).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let twice = br#"{"schemaVersion":2,"schemaVersion":2}"#;
        assert!(parse_document(twice, None, &Limits::default()).is_err());
        let served = parse_document(
            manifest().to_string().as_bytes(),
            Some(DOCKER_MANIFEST),
            &Limits::default(),
        );
        assert!(matches!(served, Err(ManifestError::Ambiguous(_))));
        let deep = "[".repeat(100_000);
        assert!(parse_document(deep.as_bytes(), None, &Limits::default()).is_err());
    }

    #[test]
    fn the_error_for_a_missing_platform_lists_what_there_is() {
        let mut manifests = Vec::new();
        for arch in ["arm64", "s390x", "unknown"] {
            let mut d = descriptor(OCI_MANIFEST, "aa");
            let os = if arch == "unknown" {
                "unknown"
            } else {
                "linux"
            };
            d["platform"] = serde_json::json!({ "os": os, "architecture": arch });
            manifests.push(d);
        }
        let json = serde_json::json!({ "schemaVersion": 2, "manifests": manifests });
        let Document::Index(index) = parse(&json).unwrap() else {
            panic!()
        };
        assert!(index.choose(&"linux/arm64".parse().unwrap()).is_ok());
        let error = index
            .choose(&"linux/amd64".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "no image for linux/amd64; there is: linux/arm64, linux/s390x"
        );
    }

    #[test]
    fn configs_must_name_every_layer() {
        let json = serde_json::json!({
            "os": "linux", "architecture": "amd64", "config": { "Env": ["A=1"] },
            "rootfs": { "type": "layers", "diff_ids": [digest("cc")] },
        });
        let bytes = json.to_string();
        let config = parse_config(bytes.as_bytes(), 1, &Limits::default()).unwrap();
        assert_eq!(config.json, json);
        let error = parse_config(bytes.as_bytes(), 2, &Limits::default()).unwrap_err();
        assert!(matches!(
            error,
            ManifestError::LayerCount {
                diff_ids: 1,
                layers: 2
            }
        ));
        assert!(parse_config(b"{}", 0, &Limits::default()).is_err());
    }
}
