//! Names of the objects a store holds, the same in every kind of store.
//!
//! ```text
//! packs/ab/<hex>      a pack, named by the BLAKE3 of its bytes (fanned out by its first byte)
//! index/<hex>.idx     an index object, named by the BLAKE3 of its bytes
//! flists/<hex>.fl     a published flist, named by its digest
//! images/<hex>.json   a pointer: which flist an image was converted to
//! ```
//! Every name but a pointer's is a hash of the content, so the object never changes and any copy can be
//! checked. A pointer is named by the image it is about ([`ImageKey`]); the last one written counts.

use std::fmt;

use lamina_flist::{Flist, FlistDigest, IndexId, PackId};

use crate::pointer::{ImageKey, ImagePointer, POINTER_LEN_MAX};

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// Packs of chunks.
    Pack,
    /// Index objects: which chunks are in which packs.
    Index,
    /// Published flists.
    Flist,
    /// Pointers from images to flists.
    Image,
}

impl ObjectKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Pack, Self::Index, Self::Flist, Self::Image];

    /// Folder that holds this kind.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Pack => "packs",
            Self::Index => "index",
            Self::Flist => "flists",
            Self::Image => "images",
        }
    }

    /// Largest object of this kind that is ever read into memory.
    pub fn len_max(self) -> u64 {
        match self {
            Self::Pack => crate::pack::PACK_LEN_MAX,
            Self::Index => crate::index::INDEX_LEN_MAX,
            // Flists of tens of millions of entries are a few GiB; published ones go through memory.
            Self::Flist => 4 << 30,
            Self::Image => POINTER_LEN_MAX,
        }
    }

    /// Singular, as in tags and media types.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Index => "index",
            Self::Flist => "flist",
            Self::Image => "image",
        }
    }

    /// Whether an object of this kind may be replaced by another of the same name.
    pub fn is_mutable(self) -> bool {
        self == Self::Image
    }
}

/// The name of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKey {
    /// A pack.
    Pack(PackId),
    /// An index object.
    Index(IndexId),
    /// A flist.
    Flist(FlistDigest),
    /// A pointer.
    Image(ImageKey),
}

impl ObjectKey {
    /// Which kind of object this names.
    pub fn kind(&self) -> ObjectKind {
        match self {
            Self::Pack(_) => ObjectKind::Pack,
            Self::Index(_) => ObjectKind::Index,
            Self::Flist(_) => ObjectKind::Flist,
            Self::Image(_) => ObjectKind::Image,
        }
    }

    /// The 32 bytes of the name.
    pub fn hash_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Pack(id) => id.as_bytes(),
            Self::Index(id) => id.as_bytes(),
            Self::Flist(id) => id.as_bytes(),
            Self::Image(id) => id.as_bytes(),
        }
    }

    /// First byte of the name: what sharding goes by.
    pub fn shard_byte(&self) -> u8 {
        self.hash_bytes()[0]
    }

    /// Path below the store's root, with `/` between the parts.
    pub fn path(&self) -> String {
        let hex = hex::encode(self.hash_bytes());
        match self {
            Self::Pack(_) => format!("packs/{}/{hex}", &hex[..2]),
            Self::Index(_) => format!("index/{hex}.idx"),
            Self::Flist(_) => format!("flists/{hex}.fl"),
            Self::Image(_) => format!("images/{hex}.json"),
        }
    }

    /// The tag of this object in an OCI registry.
    pub fn tag(&self) -> String {
        let kind = self.kind().noun();
        format!("{kind}-{}", hex::encode(self.hash_bytes()))
    }

    /// Reads a path back; `None` for anything that [`ObjectKey::path`] never writes.
    pub fn from_path(path: &str) -> Option<Self> {
        let key = if let Some(rest) = path.strip_prefix("packs/") {
            let (fan, hex) = rest.split_once('/')?;
            if fan != hex.get(..2)? {
                return None;
            }
            Self::Pack(parse(hex)?)
        } else if let Some(rest) = path.strip_prefix("index/") {
            Self::Index(parse(rest.strip_suffix(".idx")?)?)
        } else if let Some(rest) = path.strip_prefix("images/") {
            Self::Image(parse(rest.strip_suffix(".json")?)?)
        } else {
            Self::Flist(parse(path.strip_prefix("flists/")?.strip_suffix(".fl")?)?)
        };
        Some(key)
    }

    /// Reads a tag back; `None` for anything that [`ObjectKey::tag`] never writes.
    pub fn from_tag(tag: &str) -> Option<Self> {
        let (kind, hex) = tag.split_once('-')?;
        match kind {
            "pack" => parse(hex).map(Self::Pack),
            "index" => parse(hex).map(Self::Index),
            "flist" => parse(hex).map(Self::Flist),
            "image" => parse(hex).map(Self::Image),
            _ => None,
        }
    }

    /// Whether `bytes` are the whole object of this name; for a pointer: one about this image.
    pub fn names(&self, bytes: &bytes::Bytes) -> bool {
        match self {
            Self::Pack(id) => PackId::of(bytes) == *id,
            Self::Index(id) => IndexId::of(bytes) == *id,
            // The digest covers the header, the header covers every section.
            Self::Flist(digest) => Flist::parse(bytes.clone())
                .is_ok_and(|flist| flist.digest() == *digest && flist.verify_sections().is_ok()),
            Self::Image(key) => ImagePointer::parse(bytes).is_some_and(|p| p.key() == *key),
        }
    }
}

fn parse<T: std::str::FromStr>(hex: &str) -> Option<T> {
    let canonical = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if canonical { hex.parse().ok() } else { None }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_tags_read_back() {
        let keys = [
            ObjectKey::Pack(PackId::of(b"p")),
            ObjectKey::Index(IndexId::of(b"i")),
            ObjectKey::Flist(FlistDigest::of(b"f")),
            ObjectKey::Image(ImageKey::new(
                &lamina_flist::Sha256Digest::from_bytes([1; 32]),
                "linux/arm64",
            )),
        ];
        for key in keys {
            assert_eq!(ObjectKey::from_path(&key.path()), Some(key));
            assert_eq!(ObjectKey::from_tag(&key.tag()), Some(key));
        }
    }

    #[test]
    fn foreign_names_are_not_objects() {
        let hex = hex::encode(PackId::of(b"p").as_bytes());
        let wrong_fan = if hex.starts_with("00") { "01" } else { "00" };
        for path in [
            String::new(),
            "packs".into(),
            format!("packs/{hex}"),
            format!("packs/{wrong_fan}/{hex}"),
            format!("packs/{}/{}", &hex[..2], hex.to_uppercase()),
            format!("packs/{}/{hex}.tmp", &hex[..2]),
            format!("index/{hex}"),
            format!("flists/../{hex}.fl"),
            format!("images/{hex}"),
            format!("images/{hex}.fl"),
        ] {
            assert_eq!(ObjectKey::from_path(&path), None, "{path}");
        }
        assert_eq!(ObjectKey::from_tag("pack-00"), None);
        assert_eq!(ObjectKey::from_tag("latest"), None);
    }
}
