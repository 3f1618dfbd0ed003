//! What the library remembers of questions asked before, as JSON beside the flists.

use lamina_flist::{FlistDigest, Sha256Digest};
use lamina_image::Platform;
use serde::{Deserialize, Serialize};

/// What a reference stood for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RefNote {
    /// As it was asked for.
    pub(super) reference: String,
    /// Digest of what the registry serves: a manifest or an index.
    pub(super) served: Sha256Digest,
    /// The platform's manifest.
    pub(super) manifest: Sha256Digest,
    /// When it was resolved, seconds since the Unix epoch.
    pub(super) unix_s: u64,
    /// Resolved without credentials: anybody may have it.
    pub(super) anonymous: bool,
}

/// Which flist something became.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct FlistNote {
    pub(super) flist: FlistDigest,
}

/// File name of a reference's note.
pub(super) fn ref_name(reference: &str, platform: &Platform) -> String {
    let text = format!("{reference}\0{platform}");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// File name of a manifest's note. The stores are part of the question: a flist is readable where its packs
/// are.
pub(super) fn manifest_name(manifest: &Sha256Digest, platform: &Platform, stores: &str) -> String {
    let platform = platform.to_string().replace('/', "-");
    format!("{}-{platform}-{stores}", hex::encode(manifest.as_bytes()))
}

/// File name of an archive's note.
pub(super) fn archive_name(url: &str, sha256: &Sha256Digest, stores: &str) -> String {
    let text = format!("{url}\0{sha256}\0{stores}");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
