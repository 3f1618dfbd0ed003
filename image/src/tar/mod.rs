//! Tar as container layers use it: ustar, PAX and GNU, read as a stream.
//!
//! Our own walk over the headers, because the crate `tar` expands sparse files
//! to zeros, does not read PAX sparse maps and cannot refuse archives on which
//! readers disagree. Every [`Entry`] has a path confined to the root and
//! numbers in range.

mod header;
mod path;
mod pax;
mod reader;
mod sparse;
// Shared with the integration tests, which use more of it.
#[cfg(test)]
#[allow(dead_code)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use lamina_flist::Timestamp;

pub use path::{EntryPath, PathError};
pub use reader::TarReader;
pub use sparse::DataSegment;

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where its header starts in the stream.
    pub offset: u64,
    /// Where it goes.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits with setuid, setgid and sticky.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file of `size` bytes; its stored bytes follow in the stream.
    File {
        /// Logical bytes, holes included.
        size: u64,
        /// Where the stored bytes go; `None` for a dense file.
        sparse: Option<Vec<DataSegment>>,
    },
    /// A directory.
    Directory,
    /// A symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    HardLink(EntryPath),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// Why a stream is no archive we accept. Offsets count uncompressed bytes.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream below failed (decompression, transfer).
    #[error("read the archive at byte {offset}")]
    Io {
        /// Where.
        offset: u64,
        /// Why.
        source: std::io::Error,
    },
    /// The stream ends too soon.
    #[error("the archive ends at byte {offset}, inside {what}")]
    Truncated {
        /// Where.
        offset: u64,
        /// Inside what.
        what: &'static str,
    },
    /// A header's checksum does not fit.
    #[error("the header at byte {offset} has a wrong checksum")]
    BadChecksum {
        /// Where.
        offset: u64,
    },
    /// One zero block with a header after it.
    #[error("a header follows the lone zero block at byte {offset}")]
    LoneZeroBlock {
        /// Where.
        offset: u64,
    },
    /// A numeric field holds no number.
    #[error("the header at byte {offset} has no number in `{field}`")]
    BadNumber {
        /// Where.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// A number no file system can hold.
    #[error("the header at byte {offset} has `{field}` out of range")]
    OutOfRange {
        /// Where.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// A type flag that is not known.
    #[error("the header at byte {offset} has the unknown type {typeflag:#04x}")]
    UnknownType {
        /// Where.
        offset: u64,
        /// The flag.
        typeflag: u8,
    },
    /// Extension records beyond the limit.
    #[error("the extension at byte {offset} has {bytes} bytes; {max} is the most")]
    ExtensionTooLarge {
        /// Where.
        offset: u64,
        /// How large.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Malformed PAX records.
    #[error("the PAX header at byte {offset} is malformed: {why}")]
    BadPax {
        /// Where.
        offset: u64,
        /// How.
        why: &'static str,
    },
    /// A second extension header of the same kind for one entry.
    #[error("the extension at byte {offset} repeats an earlier one")]
    RepeatedExtension {
        /// Where.
        offset: u64,
    },
    /// An extension header with no entry after it.
    #[error("no entry follows the extension before byte {offset}")]
    DanglingExtension {
        /// Where.
        offset: u64,
    },
    /// PAX and GNU headers name different paths.
    #[error("the entry at byte {offset} has PAX and GNU headers that disagree on its {field}")]
    ConflictingNames {
        /// Where.
        offset: u64,
        /// Which name.
        field: &'static str,
    },
    /// A sparse map that does not hold together.
    #[error("the sparse file at byte {offset} is malformed: {why}")]
    BadSparse {
        /// Where.
        offset: u64,
        /// How.
        why: &'static str,
    },
    /// A symbolic link that cannot be.
    #[error("the symbolic link at byte {offset} is malformed: {why}")]
    BadSymlink {
        /// Where.
        offset: u64,
        /// How.
        why: &'static str,
    },
    /// A path that is not confined or too long.
    #[error("the entry {name:?} at byte {offset} is refused")]
    Path {
        /// Where.
        offset: u64,
        /// The name as written.
        name: String,
        /// Why.
        source: PathError,
    },
    /// A hard link's target that is not confined or too long.
    #[error("the hard link at byte {offset} has a target that is refused")]
    LinkPath {
        /// Where.
        offset: u64,
        /// Why.
        source: PathError,
    },
    /// Extended attributes beyond the limit.
    #[error("the entry at byte {offset} has extended attributes beyond the limit")]
    XattrsTooLarge {
        /// Where.
        offset: u64,
    },
    /// A file beyond the limit.
    #[error("the file at byte {offset} has {bytes} bytes; {max} is the most")]
    FileTooLarge {
        /// Where.
        offset: u64,
        /// How large.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Data segments of sparse files beyond the limit.
    #[error("the sparse files of the archive have more than {max} data segments together")]
    TooManySparseSegments {
        /// The limit.
        max: u64,
    },
    /// Entries beyond the limit.
    #[error("the archive has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: u64,
    },
}
