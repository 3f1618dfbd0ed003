//! The name of a directory entry, valid by construction.

use std::borrow::Borrow;
use std::fmt;

/// Longest entry name in bytes (Linux `NAME_MAX`, EROFS `EROFS_NAME_LEN`).
pub const NAME_MAX: usize = 255;

/// Bytes that cannot be a directory entry's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("the name is empty")]
    Empty,
    /// The name is `.` or `..`.
    #[error("the name is `.` or `..`")]
    Dots,
    /// The name contains `/`.
    #[error("the name contains `/`")]
    Slash,
    /// The name contains a NUL byte.
    #[error("the name contains a NUL byte")]
    Nul,
    /// The name is longer than 255 bytes.
    #[error("the name is longer than {NAME_MAX} bytes")]
    TooLong,
}

/// Whether `name` may name an entry other than `.` and `..`.
pub(crate) fn check_name(name: &[u8]) -> Result<(), NameError> {
    match name {
        b"" => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if name.contains(&b'/') => Err(NameError::Slash),
        _ if name.contains(&0) => Err(NameError::Nul),
        _ if name.len() > NAME_MAX => Err(NameError::TooLong),
        _ => Ok(()),
    }
}

/// A directory entry's name: 1..=255 bytes, no `/`, no NUL, not `.` or `..`.
///
/// Names are bytes, not text: Linux does not require UTF-8. Order is byte
/// order, which is also the order of entries on disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<[u8]>);

impl EntryName {
    /// Checks and takes a name.
    pub fn new(name: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let name = name.into();
        check_name(&name)?;
        Ok(Self(name.into_boxed_slice()))
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for EntryName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// Lets maps keyed by names be searched with plain bytes; `Ord` and `Hash` of
// the box are those of the slice.
impl Borrow<[u8]> for EntryName {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for EntryName {
    type Error = NameError;

    fn try_from(name: &[u8]) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for EntryName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        Self::new(name)
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_escape_or_confuse_are_refused() {
        for (name, error) in [
            (&b""[..], NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/b", NameError::Slash),
            (b"/", NameError::Slash),
            (b"a\0", NameError::Nul),
            (&[b'x'; 256], NameError::TooLong),
        ] {
            assert_eq!(EntryName::new(name), Err(error), "{name:?}");
        }
    }

    #[test]
    fn any_other_bytes_are_a_name() {
        for name in [&b"..."[..], b" ", b"\xff\xfe", b"\n", &[b'x'; 255]] {
            assert_eq!(EntryName::new(name).unwrap().as_bytes(), name);
        }
    }
}
