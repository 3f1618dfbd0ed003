//! The JSON a registry sees: the artifact manifest of one object, and the list of tags.

use std::str::FromStr as _;

use lamina_flist::Sha256Digest;
use serde::{Deserialize, Serialize};

use crate::key::ObjectKind;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Ours are below 1 KiB; a hostile one is not read further.
pub(super) const MANIFEST_LEN_MAX: u64 = 64 << 10;
/// A page of 1,000 tags of 70 bytes, and room for registries that send all tags at once.
pub(super) const TAGS_LEN_MAX: u64 = 64 << 20;
/// The config every artifact shares (OCI image spec, "Guidance for an empty descriptor").
pub(super) const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";

/// One object in a registry: its bytes are the blob `digest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Artifact {
    pub(super) digest: Sha256Digest,
    pub(super) len: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// A page of tags; `null` when there are none.
#[derive(Deserialize)]
pub(super) struct TagList {
    pub(super) tags: Option<Vec<String>>,
}

impl Artifact {
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
        let [layer] = manifest.layers.as_slice() else {
            return None;
        };
        if !manifest
            .artifact_type
            .starts_with("application/vnd.lamina.")
        {
            return None;
        }
        Some(Self {
            digest: Sha256Digest::from_str(&layer.digest).ok()?,
            len: layer.size,
        })
    }

    pub(super) fn render(&self, kind: ObjectKind) -> Vec<u8> {
        let kind = kind.noun();
        let media_type = format!("application/vnd.lamina.{kind}.v1");
        let empty = crate::pack::sha256(EMPTY).to_string();
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.into(),
            artifact_type: media_type.clone(),
            config: Descriptor {
                media_type: EMPTY_TYPE.into(),
                digest: empty,
                size: EMPTY.len() as u64,
            },
            layers: vec![Descriptor {
                media_type,
                digest: self.digest.to_string(),
                size: self.len,
            }],
        };
        serde_json::to_vec(&manifest).expect("strings and numbers always serialise")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_reads_back_and_foreign_ones_are_refused() {
        let artifact = Artifact {
            digest: crate::pack::sha256(b"x"),
            len: 1,
        };
        let bytes = artifact.render(ObjectKind::Pack);
        assert_eq!(Artifact::parse(&bytes), Some(artifact));
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.contains("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
            "{text}"
        );
        assert_eq!(
            Artifact::parse(text.replace("vnd.lamina.", "vnd.other.").as_bytes()),
            None
        );
        assert_eq!(Artifact::parse(b"{}"), None);
    }
}
