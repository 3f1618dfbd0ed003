//! Image configs: what an image is built for, and the digests of its layers' plain tars.

use lamina_flist::Sha256Digest;
use serde::Deserialize;

use super::{ManifestError, check_size, sha256};
use crate::limits::Limits;
use crate::platform::Platform;

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
