//! What a file system is: trees, chunks, the flist file.
//!
//! Pure: no async, no network, no unsafe. Everything that crosses a crate
//! boundary as "a file system" is one of three things defined here: a [`Tree`]
//! in memory, a [`BlobLayout`] with its [`ChunkRecord`]s (where the bytes of
//! regular files are), and the flist file that holds both.

// The error enums name every reason; repeating them at each function would
// only go stale.
#![allow(clippy::missing_errors_doc)]

pub mod blob;
mod builder;
mod check;
pub mod chunk;
mod decode;
mod erofs;
pub mod error;
mod file;
mod header;
mod hints;
pub mod id;
mod le;
mod learnt;
mod limits;
pub mod merge;
mod meta;
pub mod name;
mod profile;
mod resolve;
mod tables;
pub mod tree;

pub use blob::{BlobBuilder, BlobEntry, BlobLayout, BlobMap, DataRun, MapEntry};
pub use builder::{EmbeddedPacks, ExtraSection, FlistBuilder, FlistHead};
pub use check::Summary;
pub use chunk::{ChunkRecord, Codec, PackRecord, Splitter};
pub use erofs::FileType;
pub use erofs::dirent::DirEntry;
pub use erofs::inode::Inode;
pub use erofs::view::ReadDir;
pub use error::{BuildError, FlistError};
pub use file::{FileSpan, Flist, SpanSource};
pub use header::{HEADER_LEN, MAGIC, VERSION};
pub use hints::{HintFile, HintTable, Hints};
pub use id::{BlobId, ChunkId, FlistDigest, IndexId, PackId, Sha256Digest};
pub use learnt::Learnt;
pub use limits::Limits;
pub use merge::{MergeError, merge_all, merge_layers};
pub use meta::{FlistMeta, LayerOrigin, META_MAX, Provenance};
pub use name::EntryName;
pub use profile::{Profile, ProfileRange, ProfileSource};
pub use resolve::FollowSymlinks;
pub use tables::BlobInfo;
pub use tree::{
    Device, Directory, Extent, FileContent, FileData, Metadata, Node, NodeId, NodeKind, Segment,
    Timestamp, Tree, TreeError,
};

/// EROFS block size and the alignment of every file extent in a blob.
pub const BLOCK: u64 = 4096;

/// Regular files up to this many bytes live in the flist itself.
///
/// A quarter of a block: the inode (64 bytes) and the data share one metadata
/// block with their neighbours, so such files cost no fetch at all, and the
/// metadata stays small enough to be read whole.
pub const INLINE_MAX: u64 = 1024;
