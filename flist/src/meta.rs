//! What a flist says about itself: stores, tags, image config, provenance.
//!
//! Stored as canonical JSON (keys sorted, no white space), so that equal
//! metadata is equal bytes. Unknown keys are kept.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::FlistError;
use crate::id::{BlobId, Sha256Digest};

/// Largest metadata in bytes; OCI image configs are a few KiB.
pub const META_MAX: usize = 16 << 20;

/// A flist's metadata.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FlistMeta {
    /// Stores that hold the packs, as the user names them (`00-7f=URL`), in
    /// order of preference. Without credentials unless asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<String>,
    /// Free-form tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// The OCI image config, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Value>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Provenance::is_empty")]
    pub provenance: Provenance,
    /// Keys of newer versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What a flist was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The source as it was asked for: an image reference, a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Digest of the image manifest. What was changed over the image since is in further `layers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Sha256Digest>,
    /// `os/arch[/variant]` of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The image's layers, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<LayerOrigin>,
}

impl Provenance {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One layer of the source image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerOrigin {
    /// Digest of the layer as the registry has it.
    pub digest: Sha256Digest,
    /// Digest of the uncompressed tar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Sha256Digest>,
    /// The blob that holds its file contents, if it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<BlobId>,
}

impl FlistMeta {
    /// Canonical JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("plain data becomes JSON");
        let mut out = Vec::new();
        write_canonical(&value, &mut out);
        out
    }

    pub(crate) fn parse(json: &[u8]) -> Result<Self, FlistError> {
        if json.len() > META_MAX {
            return Err(FlistError::Limit {
                what: "bytes of metadata",
                limit: META_MAX as u64,
            });
        }
        // serde_json bounds nesting (128), so hostile depth is an error.
        serde_json::from_slice(json).map_err(|error| FlistError::BadMeta(error.to_string()))
    }
}

/// JSON with sorted keys, whatever map type `serde_json` was built with (its
/// `preserve_order` feature is one dependency away).
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_bytes());
            write_list(*b"{}", entries, out, |(key, value), out| {
                write_canonical(&Value::from(key.as_str()), out);
                out.push(b':');
                write_canonical(value, out);
            });
        }
        Value::Array(items) => write_list(*b"[]", items, out, write_canonical),
        scalar => out.extend_from_slice(scalar.to_string().as_bytes()),
    }
}

fn write_list<T>(
    brackets: [u8; 2],
    items: impl IntoIterator<Item = T>,
    out: &mut Vec<u8>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    out.push(brackets[0]);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(brackets[1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_canonical_and_keeps_unknown_keys() {
        let text = r#"{"z":1,"tags":{"b":"2","a":"1"},"image":{"b":[1,{"y":null,"x":"\u00e9"}],"a":true}}"#;
        let meta = FlistMeta::parse(text.as_bytes()).unwrap();
        let json = meta.to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            r#"{"image":{"a":true,"b":[1,{"x":"é","y":null}]},"tags":{"a":"1","b":"2"},"z":1}"#
        );
        assert_eq!(FlistMeta::parse(&json).unwrap(), meta);
    }

    #[test]
    fn empty_metadata_is_an_empty_object() {
        assert_eq!(FlistMeta::default().to_json(), b"{}");
    }

    #[test]
    fn hostile_json_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            "{\"stores\":1}",
            "\"x\"",
            "{\"tags\":{\"a\":1}}",
        ] {
            let error = FlistMeta::parse(text.as_bytes()).unwrap_err();
            assert!(matches!(error, FlistError::BadMeta(_)), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(FlistMeta::parse(deep.as_bytes()).is_err());
        let deep = format!("{{\"image\":{}", "{\"a\":".repeat(100_000));
        assert!(FlistMeta::parse(deep.as_bytes()).is_err());
    }
}
