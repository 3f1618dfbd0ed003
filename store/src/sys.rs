//! The one place with `unsafe`: flists mapped into memory.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lamina_flist::{Flist, FlistError};
use rustix::fs::{FileType, Mode, OFlags};

/// Why a flist could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFlistError {
    /// The file cannot be opened or mapped.
    #[error("open flist {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a regular file.
    #[error("open flist {path}: not a regular file")]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not a flist.
    #[error("open flist {path}")]
    Flist {
        /// The file.
        path: PathBuf,
        /// Why.
        source: FlistError,
    },
}

/// Opens a flist in O(1): the file is mapped, not read.
///
/// Flists are written beside their name and renamed, so a mapped one does not change. One that is
/// truncated in place while mapped makes readers fail (SIGBUS), as with any mapped file; whoever mounts
/// flists that others may write to copies them first.
///
/// # Errors
/// It cannot be opened or mapped, is no regular file, or is no flist.
pub fn open_flist(path: impl AsRef<Path>) -> Result<Flist, OpenFlistError> {
    let path = path.as_ref();
    let io = |source: std::io::Error| OpenFlistError::Io {
        path: path.to_owned(),
        source,
    };
    // NONBLOCK: a FIFO must not make the open wait. A link is fine: the path is the user's.
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(|e| io(e.into()))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| io(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(OpenFlistError::NotAFile {
            path: path.to_owned(),
        });
    }
    let bytes = map(&File::from(fd)).map_err(io)?;
    Flist::parse(bytes).map_err(|source| OpenFlistError::Flist {
        path: path.to_owned(),
        source,
    })
}

/// A file's bytes, mapped.
fn map(file: &File) -> std::io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the mapping is private and read-only and lives as long as the Bytes that own it. Its
    // content is only ever parsed as untrusted bytes; truncation under it is documented above.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_flist_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("empty"), b"").unwrap();
        std::fs::write(path("text"), vec![b'x'; 5000]).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(
            open_flist(path("empty")),
            Err(OpenFlistError::Flist { .. })
        ));
        assert!(matches!(
            open_flist(path("text")),
            Err(OpenFlistError::Flist { .. })
        ));
        assert!(matches!(
            open_flist(path("fifo")),
            Err(OpenFlistError::NotAFile { .. })
        ));
        assert!(matches!(
            open_flist(folder.path()),
            Err(OpenFlistError::NotAFile { .. })
        ));
        assert!(matches!(
            open_flist(path("absent")),
            Err(OpenFlistError::Io { .. })
        ));
    }
}
