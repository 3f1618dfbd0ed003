//! Reads the tree in place: no index, nothing kept, never panics.
//!
//! Everything here also runs on trees nobody has checked: each offset is
//! checked against the tree's end before it is used. What it does not promise
//! on such trees is sense (cycles, duplicate names): that is `check`'s task.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::BLOCK;
use crate::blob::sparse_unit;
use crate::error::FlistError;
use crate::le::{u16_at, u32_at};
use crate::name::check_name;

use super::dirent::{DirBlock, DirEntry};
use super::inode::{CHUNK_INDEXES, DataLayout, INODE_SIZE, Inode};
use super::superblock::DeviceRange;
use super::{FileType, NULL_BLOCK, xattr};

/// A run of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawSpan {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) source: RawSource,
}

/// Where a run's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawSource {
    /// In the flist file, from this byte on.
    Inline(u64),
    Hole,
    Blob {
        blob: u16,
        offset: u64,
    },
}

/// One chunk index of a sparse file: device (from 0) and block, or a hole.
pub(crate) type ChunkIndex = Option<(u16, u32)>;

/// The tree of a flist.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeView<'a> {
    /// The file up to the tree's end.
    pub(crate) bytes: &'a [u8],
    pub(crate) devices: &'a [DeviceRange],
}

impl<'a> TreeView<'a> {
    pub(crate) fn inode(&self, nid: u64) -> Result<Inode, FlistError> {
        Inode::read(self.bytes, self.bytes.len() as u64, nid)
    }

    fn slice(&self, range: Range<u64>) -> Option<&'a [u8]> {
        let start = usize::try_from(range.start).ok()?;
        let end = usize::try_from(range.end).ok()?;
        self.bytes.get(start..end)
    }

    // --- metadata ---

    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, FlistError> {
        let start = inode.offset() + INODE_SIZE as u64;
        let raw = self.slice(start..start + inode.xattr_len());
        xattr::read(raw.ok_or(FlistError::XattrOverrun(inode.nid))?, inode.nid)
    }

    /// Where metadata block `index` (of a directory, a symlink's target) is.
    pub(crate) fn metadata_range(
        &self,
        inode: &Inode,
        index: u64,
    ) -> Result<Range<u64>, FlistError> {
        let bad = FlistError::DataOutOfRange(inode.nid);
        let start = index.checked_mul(BLOCK).ok_or(bad.clone())?;
        let len = inode.size.saturating_sub(start).min(BLOCK);
        let is_tail = inode.layout == DataLayout::Inline && index == inode.size / BLOCK;
        let at = match inode.layout {
            DataLayout::Chunks => return Err(FlistError::BadLayout(inode.nid)),
            _ if is_tail => inode.body_end(),
            _ => (u64::from(inode.data) + index)
                .checked_mul(BLOCK)
                .ok_or(bad.clone())?,
        };
        if is_tail && at % BLOCK + len > BLOCK {
            return Err(FlistError::InlineCrossesBlock(inode.nid));
        }
        let end = at.checked_add(len).ok_or(bad.clone())?;
        if len == 0 || end > self.bytes.len() as u64 {
            return Err(bad);
        }
        Ok(at..end)
    }

    pub(crate) fn readlink(&self, inode: &Inode) -> Result<&'a [u8], FlistError> {
        let nid = inode.nid;
        if inode.file_type != FileType::Symlink {
            let wanted = "symbolic link";
            return Err(FlistError::WrongType { nid, wanted });
        }
        if !(1..BLOCK).contains(&inode.size) {
            return Err(FlistError::BadSymlink(nid));
        }
        let range = self.metadata_range(inode, 0)?;
        let target = self.slice(range).ok_or(FlistError::DataOutOfRange(nid))?;
        if target.contains(&0) {
            return Err(FlistError::BadSymlink(nid));
        }
        Ok(target)
    }

    // --- directories ---

    pub(crate) fn dir_block(
        &self,
        directory: &Inode,
        index: u64,
    ) -> Result<DirBlock<'a>, FlistError> {
        let nid = directory.nid;
        if !directory.is_directory() {
            let wanted = "directory";
            return Err(FlistError::WrongType { nid, wanted });
        }
        let range = self.metadata_range(directory, index)?;
        let bytes = self.slice(range).ok_or(FlistError::DataOutOfRange(nid))?;
        DirBlock::parse(bytes, nid)
    }

    /// Finds a name by binary search, as the kernel does.
    pub(crate) fn lookup(
        &self,
        directory: &Inode,
        name: &[u8],
    ) -> Result<Option<DirEntry<'a>>, FlistError> {
        // The last block whose first name is not greater.
        let (mut low, mut high) = (0, directory.size.div_ceil(BLOCK));
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.dir_block(directory, middle)?.name(0)? <= name {
                low = middle;
            } else {
                high = middle;
            }
        }
        if high == 0 {
            return Err(FlistError::BadDirectoryBlock(directory.nid));
        }
        let block = self.dir_block(directory, low)?;
        let (mut low, mut high) = (0, block.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match block.name(middle)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return block.entry(middle).map(Some),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    // --- file data ---

    /// Indexes of a sparse file, and the first one's place.
    pub(crate) fn chunk_indexes(&self, inode: &Inode) -> Result<(u64, u64), FlistError> {
        let nid = inode.nid;
        let format = inode.data;
        if inode.size == 0 || inode.size > 1 << 58 {
            return Err(FlistError::BadLayout(nid));
        }
        let unit = sparse_unit(inode.size);
        let want = CHUNK_INDEXES | (unit / BLOCK).trailing_zeros();
        if format != want {
            return Err(FlistError::BadChunkFormat { nid, format });
        }
        let at = inode.body_end().next_multiple_of(8);
        let count = inode.size.div_ceil(unit);
        if at + count * 8 > self.bytes.len() as u64 {
            return Err(FlistError::DataOutOfRange(nid));
        }
        Ok((at, count))
    }

    /// Chunk index `index`, of the array at `at`.
    pub(crate) fn chunk_index(
        &self,
        inode: &Inode,
        at: u64,
        index: u64,
    ) -> Result<ChunkIndex, FlistError> {
        let nid = inode.nid;
        let bad = || FlistError::BadChunkIndex { nid, index };
        let start = at + index * 8;
        let raw = self.slice(start..start + 8).ok_or_else(bad)?;
        let device = u16_at(raw, 2).ok_or_else(bad)?;
        let block = u32_at(raw, 4).ok_or_else(bad)?;
        if u16_at(raw, 0) != Some(0) {
            return Err(bad());
        }
        if block == NULL_BLOCK {
            return if device == 0 { Ok(None) } else { Err(bad()) };
        }
        let blob = device.checked_sub(1).ok_or_else(bad)?;
        let blocks = match self.devices.get(usize::from(blob)) {
            Some(device) => device.blocks,
            None => return Err(bad()),
        };
        // The last unit of a file may be shorter than the others.
        let unit = sparse_unit(inode.size);
        let len = unit.min(inode.size - index * unit).div_ceil(BLOCK);
        if u64::from(block) + len > u64::from(blocks) {
            return Err(FlistError::DataOutOfRange(nid));
        }
        Ok(Some((blob, block)))
    }

    /// The blob and offset of a dense file's extent.
    pub(crate) fn extent(&self, inode: &Inode) -> Result<(u16, u64), FlistError> {
        let bad = FlistError::DataOutOfRange(inode.nid);
        let start = inode.data;
        let after = self.devices.partition_point(|d| d.first <= start);
        let index = after.checked_sub(1).ok_or(bad.clone())?;
        let device = self.devices[index];
        let offset = u64::from(start - device.first);
        let blocks = inode.size.div_ceil(BLOCK);
        if offset.saturating_add(blocks) > u64::from(device.blocks) {
            return Err(bad);
        }
        Ok((index as u16, offset * BLOCK))
    }

    /// The longest run of a regular file that begins at `offset` (rounded
    /// down to where the run, or for sparse files the unit, begins).
    pub(crate) fn span_at(&self, inode: &Inode, offset: u64) -> Result<RawSpan, FlistError> {
        let nid = inode.nid;
        if inode.file_type != FileType::File {
            let wanted = "regular file";
            return Err(FlistError::WrongType { nid, wanted });
        }
        let whole = |source| RawSpan {
            start: 0,
            len: inode.size,
            source,
        };
        match inode.layout {
            DataLayout::Inline if inode.size < BLOCK => {
                let range = self.metadata_range(inode, 0)?;
                Ok(whole(RawSource::Inline(range.start)))
            }
            DataLayout::Inline => Err(FlistError::BadLayout(nid)),
            DataLayout::Plain => {
                let (blob, offset) = self.extent(inode)?;
                Ok(whole(RawSource::Blob { blob, offset }))
            }
            DataLayout::Chunks => self.sparse_span(inode, offset),
        }
    }

    fn sparse_span(&self, inode: &Inode, offset: u64) -> Result<RawSpan, FlistError> {
        let (at, count) = self.chunk_indexes(inode)?;
        let unit = sparse_unit(inode.size);
        let first = offset / unit;
        let begin = self.chunk_index(inode, at, first)?;
        let continues = |index: u64| -> Result<bool, FlistError> {
            let step = (index - first) * (unit / BLOCK);
            let next = begin.map(|(blob, block)| (blob, u64::from(block) + step));
            let found = self.chunk_index(inode, at, index)?;
            Ok(found.map(|(blob, block)| (blob, u64::from(block))) == next)
        };
        let mut end = first + 1;
        while end < count && continues(end)? {
            end += 1;
        }
        let start = first * unit;
        Ok(RawSpan {
            start,
            len: (end * unit).min(inode.size) - start,
            source: match begin {
                None => RawSource::Hole,
                Some((blob, block)) => RawSource::Blob {
                    blob,
                    offset: u64::from(block) * BLOCK,
                },
            },
        })
    }
}

/// Entries of a directory without `.` and `..`, in order.
pub struct ReadDir<'a> {
    view: TreeView<'a>,
    directory: Inode,
    /// The block being read, with its number and the next entry's.
    block: Option<DirBlock<'a>>,
    next_block: u64,
    next_entry: usize,
    failed: bool,
}

impl<'a> ReadDir<'a> {
    pub(crate) fn new(view: TreeView<'a>, directory: Inode) -> Self {
        Self {
            view,
            directory,
            block: None,
            next_block: 0,
            next_entry: 0,
            failed: false,
        }
    }

    /// Where the next entry is: give it to [`crate::Flist::read_dir_from`] to
    /// go on later. Grows from entry to entry; block number in the upper bits,
    /// entry in the lower twelve.
    pub fn position(&self) -> u64 {
        match &self.block {
            Some(_) => (self.next_block - 1) << 12 | self.next_entry as u64,
            None => self.next_block << 12,
        }
    }

    /// Goes to a position; one that never was gives the rest of its block's
    /// entries or none.
    pub(crate) fn seek(&mut self, position: u64) -> Result<(), FlistError> {
        let block = position >> 12;
        self.block = None;
        self.next_block = block;
        self.next_entry = 0;
        if position & 0xfff != 0 && block < self.directory.size.div_ceil(BLOCK) {
            self.block = Some(self.view.dir_block(&self.directory, block)?);
            self.next_block = block + 1;
            self.next_entry = (position & 0xfff) as usize;
        }
        Ok(())
    }

    fn advance(&mut self) -> Result<Option<DirEntry<'a>>, FlistError> {
        loop {
            if let Some(block) = &self.block
                && self.next_entry < block.len()
            {
                let entry = block.entry(self.next_entry)?;
                self.next_entry += 1;
                if matches!(entry.name, b"." | b"..") {
                    continue;
                }
                check_name(entry.name).map_err(|reason| FlistError::BadName {
                    directory: self.directory.nid,
                    reason,
                })?;
                return Ok(Some(entry));
            }
            if self.next_block >= self.directory.size.div_ceil(BLOCK) {
                return Ok(None);
            }
            self.block = Some(self.view.dir_block(&self.directory, self.next_block)?);
            self.next_block += 1;
            self.next_entry = 0;
        }
    }
}

impl<'a> Iterator for ReadDir<'a> {
    type Item = Result<DirEntry<'a>, FlistError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
