//! The pointer object of an image: which flist it was converted to, so that another node takes the flist in
//! one small read instead of converting again.
//!
//! The only object that may change: its name is the hash of what is asked (manifest and platform), its
//! content the latest answer. It repeats the question, so an answer to another one is noticed; what it
//! leads to is a flist, checked against its own digest.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use lamina_flist::{FlistDigest, Sha256Digest};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result, StoreError};
use crate::key::ObjectKey;
use crate::set::StoreSet;

/// Largest pointer: digests and a platform are a few hundred bytes.
pub(crate) const POINTER_LEN_MAX: u64 = 4 << 10;

/// Name of a pointer: BLAKE3 of `"lamina image v1\0" manifest "\0" platform`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageKey([u8; 32]);

impl ImageKey {
    /// The name for the image with this manifest, converted for `platform` (`os/arch[/variant]`).
    pub fn new(manifest: &Sha256Digest, platform: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lamina image v1\0");
        hasher.update(manifest.to_string().as_bytes());
        hasher.update(b"\0");
        hasher.update(platform.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ImageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for ImageKey {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, hex::FromHexError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)?;
        Ok(Self(bytes))
    }
}

/// What an image was converted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePointer {
    /// The flist.
    pub flist: FlistDigest,
    /// Digest of the image's manifest.
    pub manifest: Sha256Digest,
    /// `os/arch[/variant]` it was converted for.
    pub platform: String,
}

impl ImagePointer {
    /// Its name.
    pub fn key(&self) -> ImageKey {
        ImageKey::new(&self.manifest, &self.platform)
    }

    /// The object.
    pub fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("strings become JSON")
            .into()
    }

    /// Reads an object back; `None` for what is no pointer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let fits = bytes.len() as u64 <= POINTER_LEN_MAX;
        fits.then(|| serde_json::from_slice(bytes).ok())?
    }
}

/// Puts a pointer into the stores; the last one written counts. Publish its flist before.
///
/// # Errors
/// An owner does not take it.
pub async fn publish_pointer(set: &StoreSet, pointer: &ImagePointer) -> Result<()> {
    set.put(&ObjectKey::Image(pointer.key()), pointer.to_bytes())
        .await
}

/// What an image was converted to, if the stores know.
///
/// # Errors
/// No replica can be read.
pub async fn fetch_pointer(
    set: &StoreSet,
    manifest: &Sha256Digest,
    platform: &str,
) -> Result<Option<ImagePointer>> {
    let key = ObjectKey::Image(ImageKey::new(manifest, platform));
    match set.get(&key).await {
        Ok(bytes) => Ok(ImagePointer::parse(&bytes)),
        // What is no pointer says nothing; it is overwritten by the next conversion.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a listed pointer leads to; `None` for one that is damaged.
pub(crate) async fn target(
    store: &dyn crate::api::Store,
    key: &ObjectKey,
) -> Result<Option<FlistDigest>> {
    match store.get(key, POINTER_LEN_MAX).await {
        Ok(bytes) if key.names(&bytes) => Ok(ImagePointer::parse(&bytes).map(|p| p.flist)),
        Ok(_) => Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(None),
        Err(error) => Err(StoreError::new(error.kind(), "collect", store.name()).source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(platform: &str) -> ImagePointer {
        ImagePointer {
            flist: FlistDigest::of(b"f"),
            manifest: Sha256Digest::from_bytes([7; 32]),
            platform: platform.to_owned(),
        }
    }

    #[test]
    fn a_pointer_reads_back_and_is_named_by_its_question() {
        let amd = pointer("linux/amd64");
        assert_eq!(ImagePointer::parse(&amd.to_bytes()), Some(amd.clone()));
        let key = ObjectKey::Image(amd.key());
        assert!(key.names(&amd.to_bytes()));
        let moved = ImagePointer {
            flist: FlistDigest::of(b"g"),
            ..amd
        };
        assert!(key.names(&moved.to_bytes()), "the answer may change");
        assert!(!key.names(&pointer("linux/arm64").to_bytes()));
        assert!(!key.names(&Bytes::from_static(b"{}")));
    }

    #[test]
    fn an_oversized_pointer_is_none() {
        let long = pointer(&"x".repeat(POINTER_LEN_MAX as usize));
        assert_eq!(ImagePointer::parse(&long.to_bytes()), None);
    }
}
