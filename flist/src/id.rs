//! Names of immutable things: BLAKE3 digests, one newtype per noun.
//!
//! Text form is always 64 lower-case hex digits; anything else is refused, so
//! one id has exactly one spelling (it becomes a path and an object key).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: expected {expected}, got {text:?}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

impl ParseIdError {
    fn new(kind: &'static str, expected: &'static str, text: &str) -> Self {
        // The text may be hostile and long: keep enough to recognise it.
        let text = text.chars().take(80).collect();
        Self {
            kind,
            expected,
            text,
        }
    }
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let canonical = text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let mut out = [0; 32];
    (canonical && hex::decode_to_slice(text, &mut out).is_ok()).then_some(out)
}

macro_rules! blake3_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id of `bytes`: their BLAKE3-256.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// An id from its 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl From<blake3::Hash> for $name {
            fn from(hash: blake3::Hash) -> Self {
                Self(*hash.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                parse_hex(text).map(Self).ok_or_else(|| {
                    ParseIdError::new(stringify!($name), "64 lower-case hex digits", text)
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

blake3_id!(
    /// Names a chunk: BLAKE3-256 of its plain bytes.
    ChunkId
);
blake3_id!(
    /// Names a pack: BLAKE3-256 of the pack object's bytes.
    PackId
);
blake3_id!(
    /// Names a blob: BLAKE3-256 of its canonical blob map (see [`crate::blob`]).
    BlobId
);
blake3_id!(
    /// Names a store index: BLAKE3-256 of the index object's bytes.
    IndexId
);
blake3_id!(
    /// Names a flist: BLAKE3-256 of its 1,024-byte header, which holds the
    /// BLAKE3 of every section, so it names every byte.
    FlistDigest
);

/// A SHA-256 digest, written `sha256:<64 hex digits>` as OCI does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// A digest from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

impl FromStr for Sha256Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("sha256:")
            .and_then(parse_hex)
            .map(Self)
            .ok_or_else(|| {
                ParseIdError::new(
                    "Sha256Digest",
                    "`sha256:` and 64 lower-case hex digits",
                    text,
                )
            })
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_exactly_one_spelling() {
        let id = ChunkId::of(b"hello");
        let text = id.to_string();
        assert_eq!(
            text,
            "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f"
        );
        assert_eq!(text.parse::<ChunkId>(), Ok(id));
        for bad in [
            text.to_uppercase(),
            format!("0x{text}"),
            text[1..].to_owned(),
            format!("{text}0"),
            "é".repeat(32),
            String::new(),
        ] {
            assert!(bad.parse::<ChunkId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sha256_digests_carry_their_algorithm() {
        let digest = Sha256Digest::from_bytes([0xab; 32]);
        let text = digest.to_string();
        assert_eq!(text, format!("sha256:{}", "ab".repeat(32)));
        assert_eq!(text.parse::<Sha256Digest>(), Ok(digest));
        assert!("ab".repeat(32).parse::<Sha256Digest>().is_err());
    }

    #[test]
    fn ids_are_hex_strings_in_json() {
        let id = PackId::of(b"");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<PackId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<PackId>("\"00\"").is_err());
    }
}
