//! Names as an archive writes them -> names as a file system has them.
//!
//! Owns the normalisation rule: leading `/` and `./`, empty and `.` components
//! vanish; `..`, NUL and over-long names are refused. An [`EntryPath`] is
//! therefore always confined to the root it is applied to.

use std::fmt;

use crate::limits::TarLimits;

/// A path below the root: components joined by single `/`, none of them
/// empty, `.`, `..` or holding NUL. The empty path is the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryPath(Vec<u8>);

/// Why a name in an archive is not a path below the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No bytes at all.
    #[error("the name is empty")]
    Empty,
    /// A NUL byte inside the name.
    #[error("the name holds a NUL byte")]
    Nul,
    /// A `..` component.
    #[error("the name has a `..` component")]
    ParentComponent,
    /// One component over 255 bytes.
    #[error("a name component has {0} bytes; 255 is the most")]
    NameTooLong(usize),
    /// The whole path is too long.
    #[error("the path has {0} bytes; {1} is the most")]
    PathTooLong(usize, usize),
    /// Too many components.
    #[error("the path has more than {0} components")]
    TooDeep(usize),
}

impl EntryPath {
    /// Normalises `raw`.
    ///
    /// # Errors
    /// When `raw` is empty or cannot be a path below the root.
    pub fn parse(raw: &[u8], limits: &TarLimits) -> Result<Self, PathError> {
        if raw.is_empty() {
            return Err(PathError::Empty);
        }
        if raw.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut out = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::ParentComponent),
                name if name.len() > 255 => return Err(PathError::NameTooLong(name.len())),
                _ => {}
            }
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend_from_slice(component);
            depth += 1;
        }
        if out.len() > limits.path_bytes_max {
            return Err(PathError::PathTooLong(out.len(), limits.path_bytes_max));
        }
        if depth > limits.depth_max {
            return Err(PathError::TooDeep(limits.depth_max));
        }
        Ok(Self(out))
    }

    /// The bytes, without a leading slash; empty for the root.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// Parent path and last component; `None` for the root.
    pub fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => Some((&self.0[..at], &self.0[at + 1..])),
            None => Some((b"", &self.0)),
        }
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8]) -> Result<Vec<u8>, PathError> {
        EntryPath::parse(raw, &TarLimits::default()).map(|p| p.as_bytes().to_vec())
    }

    #[test]
    fn slashes_and_dots_vanish() {
        for (raw, want) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"./a//b/", b"a/b"),
            (b"/a/./b", b"a/b"),
            (b"./", b""),
            (b"/", b""),
            (b"...", b"..."),
            (b"a\xff/b", b"a\xff/b"),
        ] {
            assert_eq!(parse(raw).unwrap(), want);
        }
    }

    #[test]
    fn what_cannot_be_confined_is_refused() {
        for (raw, want) in [
            (&b""[..], PathError::Empty),
            (b"a\0b", PathError::Nul),
            (b"../a", PathError::ParentComponent),
            (b"a/../b", PathError::ParentComponent),
            (b"a/..", PathError::ParentComponent),
        ] {
            assert_eq!(parse(raw), Err(want));
        }
        assert_eq!(parse(&[b'x'; 256]), Err(PathError::NameTooLong(256)));
        let long = b"abcdefgh/".repeat(500);
        assert!(matches!(parse(&long), Err(PathError::PathTooLong(..))));
        let deep = b"a/".repeat(1100);
        assert_eq!(parse(&deep), Err(PathError::TooDeep(1024)));
    }
}
