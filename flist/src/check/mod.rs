//! The full structural check of a flist.
//!
//! A flist from elsewhere is hostile until this passed: the kernel parses the
//! tree, and this crate's tables tell a node what to fetch. What passes is
//! something the writer could have made: every byte of the tree belongs to
//! exactly one thing or is zero, every inode is reached, link counts are
//! right, nothing points outside. Linear in the size of the file, memory
//! bounded by a small fraction of it, and never a panic.

mod slots;
pub(crate) mod tables;
mod tree;

use crate::error::FlistError;
use crate::file::Flist;
use crate::header::kind;
use crate::limits::Limits;

/// What a checked flist holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Names, the root not counted.
    pub entries: u64,
    /// Inodes.
    pub inodes: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Regular files.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices, pipes and sockets (whiteouts of a layer too).
    pub specials: u64,
    /// Bytes of all regular files, hard links counted once.
    pub file_bytes: u64,
    /// Most directories from the root to an entry.
    pub depth: u32,
    /// Blobs.
    pub blobs: u64,
    /// Chunk records.
    pub chunks: u64,
    /// Pack records.
    pub packs: u64,
}

pub(crate) fn check(flist: &Flist, limits: &Limits) -> Result<Summary, FlistError> {
    let embedded = flist.embedded_packs();
    let profile = flist.section_if_present(kind::PROFILE);
    tables::check_tables(
        &tables::Parts {
            blobs: flist.section(kind::BLOBS),
            chunks: flist.section(kind::CHUNKS),
            packs: flist.section(kind::PACKS),
            profile,
            hints: flist.section_if_present(kind::HINTS),
            embedded_len: embedded.map(|bytes| bytes.len() as u64),
        },
        limits,
    )?;
    let mut summary = tree::check_tree(flist, limits)?;
    summary.blobs = flist.blob_count() as u64;
    summary.chunks = flist.chunk_count() as u64;
    summary.packs = flist.pack_count() as u64;
    Ok(summary)
}
