//! One image layer: a tar stream -> a layer tree and its content.
//!
//! ```text
//! tar entries ─ builder ─▶ Tree (whiteouts, opaque directories, links down)
//!      │
//!      └ file data ─ content ─▶ chunks, in stream order ─▶ ChunkSink
//! ```
//! Never touches a disk. Every path is resolved inside the layer's own tree,
//! so nothing an entry says can reach outside it.

mod builder;
mod content;
mod place;
mod read;
mod resolve;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::tar::{EntryPath, TarError};

pub use content::{BoxError, ChunkSink, MemorySink};
pub(crate) use content::{ContentWriter, FileWriter, Pending};
pub use place::PlacedLayer;
pub(crate) use place::{place_content, place_scans};
pub use read::{LayerDraft, read_layer};
pub(crate) use resolve::implicit_metadata;

/// Something a layer contained that was changed or left out on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The entry's path.
    pub path: String,
    /// What was done.
    pub what: NoteKind,
}

/// What was done to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoteKind {
    /// An xattr that steers overlayfs was dropped: a layer must not forge it.
    OverlayXattrDropped(String),
    /// An xattr of a name space Linux does not have was dropped.
    ForeignXattrDropped(String),
    /// Bookkeeping of the old aufs driver was left out.
    AufsFileDropped,
    /// A character device 0:0 was read as the whiteout it is to overlayfs.
    DeviceWhiteout,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        match &self.what {
            NoteKind::OverlayXattrDropped(name) => {
                write!(f, "{path}: dropped the forged overlay attribute {name}")
            }
            NoteKind::ForeignXattrDropped(name) => {
                write!(
                    f,
                    "{path}: dropped the attribute {name}, which Linux cannot store"
                )
            }
            NoteKind::AufsFileDropped => write!(f, "{path}: left out aufs bookkeeping"),
            NoteKind::DeviceWhiteout => {
                write!(f, "{path}: read the character device 0:0 as a whiteout")
            }
        }
    }
}

/// What a layer held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerStats {
    /// Tar entries.
    pub entries: u64,
    /// Bytes of regular files, as stored in the tar.
    pub file_bytes: u64,
    /// The first notes.
    pub notes: Vec<Note>,
    /// How many notes there were in all.
    pub notes_total: u64,
}

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The archive itself.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// A file or device where a directory is needed.
    #[error("{path}: {at} is not a directory")]
    NotADirectory {
        /// The entry.
        path: EntryPath,
        /// The component in the way.
        at: String,
    },
    /// Symbolic links without end in an entry's path.
    #[error("{path}: too many symbolic links or components in its path")]
    SymlinkLoop {
        /// The entry.
        path: EntryPath,
    },
    /// Symbolic links led to a path over the limits.
    #[error("{path}: resolves to a path that is too long or too deep")]
    PathTooLong {
        /// The entry.
        path: EntryPath,
    },
    /// The root is something else than a directory.
    #[error("the root of the layer is not a directory")]
    RootNotADirectory,
    /// A whiteout of nothing, of `.` or of `..`.
    #[error("{path}: not a valid whiteout")]
    BadWhiteout {
        /// The entry.
        path: EntryPath,
    },
    /// A whiteout name used as a directory or as a link's target.
    #[error("{path}: uses the whiteout name {name} as a file")]
    WhiteoutAsFile {
        /// The entry.
        path: EntryPath,
        /// The component.
        name: String,
    },
    /// A hard link whose target cannot exist.
    #[error("{path}: hard link to {target}, which does not exist")]
    DanglingHardLink {
        /// The entry.
        path: EntryPath,
        /// Its target.
        target: EntryPath,
    },
    /// A hard link to a directory.
    #[error("{path}: hard link to the directory {target}")]
    HardLinkToDirectory {
        /// The entry.
        path: EntryPath,
        /// Its target.
        target: EntryPath,
    },
    /// Too many nodes, implicit directories included.
    #[error("the layer has more than {max} files and directories")]
    TooManyNodes {
        /// The limit.
        max: u64,
    },
    /// The tree refused a change (too many nodes or links).
    #[error("add {path}")]
    Tree {
        /// The entry.
        path: EntryPath,
        /// Why.
        source: lamina_flist::TreeError,
    },
    /// Content could not be stored.
    #[error("store file content")]
    Sink(#[source] BoxError),
}
