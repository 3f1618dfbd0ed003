//! Directory blocks: sorted entries, 12-byte records first, then the names.
//!
//! ```text
//! record: u64 nid | u16 offset of the name in the block | u8 type | u8 0
//! ```
//!
//! Names are not terminated: each ends where the next begins, the block's last
//! at a NUL or the block's (directory's) end. All entries of a directory, `.`
//! and `..` included, are in byte order across its blocks.

use super::{BLOCK_SIZE, FileType};
use crate::error::FlistError;
use crate::le::{Fields, u16_at, u64_at};

/// Bytes of an entry's record.
pub(crate) const RECORD: usize = 12;

/// One entry of a directory, as it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode.
    pub nid: u64,
    /// What the inode is.
    pub file_type: FileType,
}

/// Bytes an entry takes in its block.
pub(crate) fn entry_size(name: &[u8]) -> usize {
    RECORD + name.len()
}

/// Decides which entries share a block: the same for sizing and writing.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    full_blocks: u64,
    used: usize,
}

impl Packer {
    /// Adds an entry; true if it begins a new block.
    pub(crate) fn add(&mut self, name: &[u8]) -> bool {
        let size = entry_size(name);
        if self.used + size > BLOCK_SIZE {
            self.full_blocks += 1;
            self.used = size;
            return true;
        }
        self.used += size;
        false
    }

    /// Size of the directory: whole blocks, then the last one's bytes.
    pub(crate) fn size(&self) -> u64 {
        self.full_blocks * BLOCK_SIZE as u64 + self.used as u64
    }
}

/// Writes one block's entries at the start of `out`; gives the bytes used.
pub(crate) fn write_block(out: &mut [u8], entries: &[DirEntry<'_>]) -> usize {
    let mut name_at = entries.len() * RECORD;
    for (i, entry) in entries.iter().enumerate() {
        Fields::new(&mut out[i * RECORD..])
            .u64(entry.nid)
            .u16(name_at as u16)
            .u8(entry.file_type as u8)
            .u8(0);
        out[name_at..name_at + entry.name.len()].copy_from_slice(entry.name);
        name_at += entry.name.len();
    }
    name_at
}

/// A directory block that was found to be well-formed as far as its size and
/// first record go; entries are checked as they are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirBlock<'a> {
    bytes: &'a [u8],
    count: usize,
    /// The directory, for errors.
    nid: u64,
}

impl<'a> DirBlock<'a> {
    pub(crate) fn parse(bytes: &'a [u8], nid: u64) -> Result<Self, FlistError> {
        let first = usize::from(u16_at(bytes, 8).unwrap_or(0));
        let fits = first >= RECORD && first.is_multiple_of(RECORD) && first < bytes.len();
        if bytes.len() > BLOCK_SIZE || !fits {
            return Err(FlistError::BadDirectoryBlock(nid));
        }
        let count = first / RECORD;
        Ok(Self { bytes, count, nid })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    fn name_offset(&self, index: usize) -> Option<usize> {
        u16_at(self.bytes, index * RECORD + 8).map(usize::from)
    }

    /// Bytes the names take, from the block's start.
    pub(crate) fn used(&self) -> Result<usize, FlistError> {
        let last = self.count - 1;
        let start = self.name_offset(last);
        let start = start.ok_or(FlistError::BadDirectoryBlock(self.nid))?;
        Ok(start + self.name(last)?.len())
    }

    pub(crate) fn name(&self, index: usize) -> Result<&'a [u8], FlistError> {
        let bad = FlistError::BadDirectoryBlock(self.nid);
        let start = self.name_offset(index).ok_or(bad.clone())?;
        if index + 1 < self.count {
            let end = self.name_offset(index + 1).ok_or(bad.clone())?;
            return self.bytes.get(start..end).ok_or(bad);
        }
        let rest = self.bytes.get(start..).ok_or(bad)?;
        let len = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        Ok(&rest[..len])
    }

    pub(crate) fn entry(&self, index: usize) -> Result<DirEntry<'a>, FlistError> {
        let bad = || FlistError::BadDirectoryBlock(self.nid);
        let at = index * RECORD;
        let name = self.name(index)?;
        let kind = *self.bytes.get(at + 10).ok_or_else(bad)?;
        if self.bytes.get(at + 11) != Some(&0) {
            return Err(bad());
        }
        Ok(DirEntry {
            name,
            nid: u64_at(self.bytes, at).ok_or_else(bad)?,
            file_type: FileType::from_dirent(kind).ok_or(FlistError::BadEntryType {
                directory: self.nid,
                kind,
            })?,
        })
    }
}
