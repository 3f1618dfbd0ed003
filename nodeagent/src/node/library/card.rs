//! What is said about a flist without opening it again: a small file beside it.

use lamina_flist::{Flist, FlistError, Limits};
use lamina_proto::lamina::v1::FlistInfo;
use serde::{Deserialize, Serialize};

/// What is known about one flist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    pub(super) digest: String,
    /// `sha256:…`; empty for what is no image.
    pub(super) manifest: String,
    /// What it was asked for as, the latest.
    pub(super) reference: String,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) bytes_stored: u64,
    pub(super) layers: u32,
    /// Credentials removed.
    pub(super) stores: Vec<String>,
    pub(super) image_config: String,
}

impl Card {
    /// Checks a flist as a whole, its digests and its structure, and says what it is.
    pub(super) fn checked(flist: &Flist) -> Result<Self, FlistError> {
        flist.verify_sections()?;
        let summary = flist.check(&Limits::default())?;
        let meta = flist.meta();
        let origin = &meta.provenance;
        Ok(Self {
            digest: flist.digest().to_string(),
            manifest: origin.manifest.map_or_else(String::new, |m| m.to_string()),
            reference: origin.source.clone().unwrap_or_default(),
            entries: summary.entries,
            bytes: summary.file_bytes,
            bytes_stored: flist
                .chunks()
                .map(|chunk| u64::from(chunk.stored_len))
                .sum(),
            layers: origin.layers.len() as u32,
            stores: meta.stores.clone(),
            image_config: meta
                .image
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        })
    }

    /// The same as a message.
    pub(super) fn info(&self) -> FlistInfo {
        FlistInfo {
            digest: self.digest.clone(),
            manifest: self.manifest.clone(),
            reference: self.reference.clone(),
            entries: self.entries,
            bytes: self.bytes,
            bytes_stored: self.bytes_stored,
            bytes_local: 0,
            layers: self.layers,
            stores: self.stores.clone(),
            volumes: 0,
            image_config: self.image_config.clone(),
        }
    }
}
