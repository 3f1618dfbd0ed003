//! Names of volumes: ids as the cluster has them, as the node has them, and the paths they are shown at.
//! Pure.
//!
//! ```text
//! inline volume        csi-<64 hex>                      kubelet's, one per pod: the node's id too
//! provisioned volume   lamina-<32 hex>-<16 hex>          hash of the name, hash of what it was made of
//! static volume        what the PersistentVolume says
//! on the node          <id>.<16 hex>                     hash of the target: several pods, one volume
//! ```
//!
//! Every id is 1 to 128 bytes of `[A-Za-z0-9._-]`, so that it may be part of a file's name; `.` and `..`
//! are none.

use std::{fmt, path::Path};

use thiserror::Error;

/// Longest id, and longest path: the CSI specification and the kernel say so.
const ID_MAX: usize = 128;
const PATH_MAX: usize = 4095;

/// A volume's id, as the cluster has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(String);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with an id or a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// No id at all.
    #[error("the volume id is missing")]
    NoId,
    /// Not of the alphabet.
    #[error(
        "the volume id is not 1 to 128 characters of A-Z, a-z, 0-9, dot, underscore and dash; in a PersistentVolume it is spec.csi.volumeHandle"
    )]
    BadId,
    /// No path at all.
    #[error("the target path is missing")]
    NoTarget,
    /// Not a plain absolute path.
    #[error("the target path is not an absolute path without `.` and `..` of at most 4095 bytes")]
    BadTarget,
}

impl VolumeId {
    /// Takes an id as a caller gave it.
    ///
    /// # Errors
    ///
    /// What is not of an id's alphabet or length.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        match id {
            "" => Err(NameError::NoId),
            "." | ".." => Err(NameError::BadId),
            id if id.len() <= ID_MAX && id.bytes().all(plain) => Ok(Self(id.to_owned())),
            _ => Err(NameError::BadId),
        }
    }

    /// The id of a provisioned volume: says by itself which name it has and what it was made of.
    pub fn provisioned(name: &str, made_of: &str) -> Self {
        Self(format!("lamina-{}-{}", hash(name, 32), hash(made_of, 16)))
    }

    /// Whether it has the form of [`VolumeId::provisioned`].
    pub fn is_provisioned(&self) -> bool {
        let rest = self.0.strip_prefix("lamina-");
        rest.and_then(|rest| rest.split_once('-'))
            .is_some_and(|(name, made_of)| hex(name, 32) && hex(made_of, 16))
    }

    /// The id on the node of this volume at `target`.
    pub fn on_node(&self, target: &Target) -> String {
        let inline = self
            .0
            .strip_prefix("csi-")
            .is_some_and(|rest| hex(rest, 64));
        if inline {
            return self.0.clone();
        }
        let at = hash(&target.0, 16);
        let prefix = self.node_prefix();
        format!("{prefix}{at}")
    }

    /// What every [`VolumeId::on_node`] of a volume that is not inline begins with.
    pub fn node_prefix(&self) -> String {
        if self.0.len() + 17 <= ID_MAX {
            format!("{}.", self.0)
        } else {
            format!("long-{}.", hash(&self.0, 32))
        }
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a volume is shown: absolute, every part a name, without repeated or trailing slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target(String);

impl Target {
    /// Takes a path as a caller gave it.
    ///
    /// # Errors
    ///
    /// What is relative, has `.` or `..`, is the root, or is too long.
    pub fn parse(path: &str) -> Result<Self, NameError> {
        if path.is_empty() {
            return Err(NameError::NoTarget);
        }
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let dots = parts.iter().any(|part| matches!(*part, "." | ".."));
        let absolute = Path::new(path).is_absolute();
        if !absolute || dots || parts.is_empty() || path.len() > PATH_MAX || path.contains('\0') {
            return Err(NameError::BadTarget);
        }
        Ok(Self(format!("/{}", parts.join("/"))))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn hash(text: &str, digits: usize) -> String {
    let mut hex = blake3::hash(text.as_bytes()).to_hex().to_string();
    hex.truncate(digits);
    hex
}

fn hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_are_refused() {
        let long = "a".repeat(129);
        let huge = "a".repeat(10 << 10);
        let bad = [
            "..",
            ".",
            "a/b",
            "../../etc",
            "a\0b",
            "a b",
            "ä",
            "a\n",
            long.as_str(),
            huge.as_str(),
        ];
        for id in bad {
            assert_eq!(VolumeId::parse(id), Err(NameError::BadId), "{id:?}");
        }
        assert_eq!(VolumeId::parse(""), Err(NameError::NoId));
        for id in ["a", "fake-vol-id", "pvc_1.2-3", &long[1..]] {
            assert_eq!(VolumeId::parse(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn hostile_targets_are_refused() {
        let huge = format!("/{}", "a".repeat(10 << 10));
        for path in [
            "some/path",
            "/",
            "//",
            "/a/../b",
            "/a/./b",
            "/..",
            "/a\0b",
            huge.as_str(),
        ] {
            assert_eq!(Target::parse(path), Err(NameError::BadTarget), "{path:?}");
        }
        assert_eq!(Target::parse(""), Err(NameError::NoTarget));
        assert_eq!(Target::parse("//a//b/").unwrap().as_str(), "/a/b");
    }

    #[test]
    fn a_provisioned_id_tells_name_and_content_apart() {
        let id = VolumeId::provisioned("pvc-1", "x");
        assert!(id.is_provisioned());
        assert_eq!(VolumeId::parse(id.as_str()).as_ref(), Ok(&id));
        assert_eq!(
            id.as_str()[..40],
            VolumeId::provisioned("pvc-1", "y").as_str()[..40]
        );
        assert_ne!(id, VolumeId::provisioned("pvc-1", "y"));
        assert_ne!(id, VolumeId::provisioned("pvc-2", "x"));
        for other in ["fake-vol-id", "lamina-", "lamina-1-2", "lamina-xx-yy"] {
            assert!(!VolumeId::parse(other).unwrap().is_provisioned(), "{other}");
        }
    }

    #[test]
    fn one_volume_at_two_targets_is_two_volumes_of_the_node() {
        let (a, b) = (Target::parse("/a").unwrap(), Target::parse("/b").unwrap());
        let inline = VolumeId::parse(&format!("csi-{}", "0".repeat(64))).unwrap();
        assert_eq!(inline.on_node(&a), inline.as_str());
        for id in ["x".to_owned(), "x".repeat(128)] {
            let id = VolumeId::parse(&id).unwrap();
            assert_ne!(id.on_node(&a), id.on_node(&b));
            assert!(id.on_node(&a).starts_with(&id.node_prefix()));
            assert!(VolumeId::parse(&id.on_node(&a)).is_ok());
        }
    }
}
