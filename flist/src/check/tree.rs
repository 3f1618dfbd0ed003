//! Walks the tree once and accounts for every byte of it.

use std::collections::HashMap;
use std::ops::Range;

use crate::erofs::dirent::{DirBlock, DirEntry};
use crate::erofs::inode::{DataLayout, INODE_SIZE, Inode};
use crate::erofs::view::TreeView;
use crate::erofs::{FileType, SLOT, TAIL_MAX, xattr};
use crate::error::FlistError;
use crate::file::Flist;
use crate::limits::Limits;
use crate::name::check_name;
use crate::{BLOCK, INLINE_MAX};

use super::Summary;
use super::slots::Slots;

pub(crate) fn check_tree(flist: &Flist, limits: &Limits) -> Result<Summary, FlistError> {
    let view = flist.view();
    let mut checker = Checker {
        view,
        limits,
        is_layer: flist.is_layer(),
        used: Slots::new(view.bytes.len()),
        inodes: Slots::new(view.bytes.len()),
        links: HashMap::new(),
        summary: Summary::default(),
        stack: Vec::new(),
    };
    // The header, the superblock and the device table are nobody else's.
    let reserved = flist.superblock().devices_end() as u64;
    checker.claim(0, 0..reserved)?;
    checker.zero_up_to_slot(reserved)?;
    checker.root(flist.root_nid())?;
    while !checker.stack.is_empty() {
        checker.step()?;
    }
    checker.finish(flist.superblock().inodes)
}

/// A directory being checked.
struct Frame<'a> {
    inode: Inode,
    parent: u64,
    path_len: u64,
    /// The block being read, the next block's and the next entry's number.
    block: Option<DirBlock<'a>>,
    next_block: u64,
    next_entry: usize,
    /// The last name, to compare the next with.
    previous: Option<&'a [u8]>,
    subdirectories: u32,
    dots: u8,
}

impl Frame<'_> {
    fn new(inode: Inode, parent: u64, path_len: u64) -> Self {
        Self {
            inode,
            parent,
            path_len,
            block: None,
            next_block: 0,
            next_entry: 0,
            previous: None,
            subdirectories: 0,
            dots: 0,
        }
    }
}

/// Names seen of an inode with several.
struct Links {
    want: u32,
    seen: u32,
}

struct Checker<'a> {
    view: TreeView<'a>,
    limits: &'a Limits,
    is_layer: bool,
    used: Slots,
    /// Where inodes that were checked begin.
    inodes: Slots,
    links: HashMap<u64, Links>,
    summary: Summary,
    /// The directories from the root to the one being read.
    stack: Vec<Frame<'a>>,
}

impl<'a> Checker<'a> {
    // --- the walk ---

    fn root(&mut self, nid: u64) -> Result<(), FlistError> {
        let inode = self.view.inode(nid)?;
        if !inode.is_directory() {
            return Err(FlistError::RootNotDirectory);
        }
        self.inodes.insert(nid);
        self.inode(&inode)?;
        self.stack.push(Frame::new(inode, nid, 0));
        Ok(())
    }

    /// Reads one entry of the innermost directory, or leaves it.
    fn step(&mut self) -> Result<(), FlistError> {
        let Some(mut frame) = self.stack.pop() else {
            return Ok(());
        };
        match self.next_entry(&mut frame)? {
            None => leave(&frame),
            Some(entry) => {
                let child = self.entry(&mut frame, &entry)?;
                self.stack.push(frame);
                self.stack.extend(child);
                Ok(())
            }
        }
    }

    fn next_entry(&mut self, frame: &mut Frame<'a>) -> Result<Option<DirEntry<'a>>, FlistError> {
        loop {
            if let Some(block) = &frame.block
                && frame.next_entry < block.len()
            {
                frame.next_entry += 1;
                return block.entry(frame.next_entry - 1).map(Some);
            }
            if frame.next_block >= frame.inode.size.div_ceil(BLOCK) {
                return Ok(None);
            }
            let block = self.view.dir_block(&frame.inode, frame.next_block)?;
            let range = self.view.metadata_range(&frame.inode, frame.next_block)?;
            // The directory's last byte is its last name's; what is left of
            // other blocks is zero.
            let used = range.start + block.used()? as u64;
            let is_last = frame.next_block + 1 == frame.inode.size.div_ceil(BLOCK);
            if is_last && used != range.end {
                return Err(FlistError::BadDirectoryBlock(frame.inode.nid));
            }
            self.zero(used..range.end)?;
            frame.block = Some(block);
            frame.next_block += 1;
            frame.next_entry = 0;
        }
    }

    /// Checks an entry; gives the directory to descend into, if it is one.
    fn entry(
        &mut self,
        frame: &mut Frame<'a>,
        entry: &DirEntry<'a>,
    ) -> Result<Option<Frame<'a>>, FlistError> {
        let directory = frame.inode.nid;
        match frame.previous.map(|previous| previous.cmp(entry.name)) {
            None | Some(std::cmp::Ordering::Less) => frame.previous = Some(entry.name),
            Some(std::cmp::Ordering::Equal) => return Err(FlistError::DuplicateName(directory)),
            Some(std::cmp::Ordering::Greater) => return Err(FlistError::Unsorted(directory)),
        }
        if matches!(entry.name, b"." | b"..") {
            return dots(frame, entry).map(|()| None);
        }
        check_name(entry.name).map_err(|reason| FlistError::BadName { directory, reason })?;
        let path_len = frame.path_len + 1 + entry.name.len() as u64;
        self.count_entry(directory, path_len)?;
        let nid = entry.nid;
        let inode = self.view.inode(nid)?;
        if inode.file_type != entry.file_type {
            return Err(FlistError::EntryTypeMismatch { directory, nid });
        }
        let is_new = self.inodes.insert(nid);
        if inode.is_directory() {
            if !is_new {
                return Err(self.directory_again(frame, nid));
            }
            frame.subdirectories = frame.subdirectories.saturating_add(1);
            self.inode(&inode)?;
            return Ok(Some(Frame::new(inode, directory, path_len)));
        }
        if is_new {
            self.inode(&inode)?;
        }
        self.count_link(&inode, is_new)?;
        Ok(None)
    }

    fn directory_again(&self, frame: &Frame<'_>, nid: u64) -> FlistError {
        let above = self.stack.iter().any(|above| above.inode.nid == nid);
        if above || frame.inode.nid == nid {
            FlistError::DirectoryCycle(nid)
        } else {
            FlistError::DirectoryLinkedTwice(nid)
        }
    }

    fn count_entry(&mut self, directory: u64, path_len: u64) -> Result<(), FlistError> {
        self.summary.entries += 1;
        if self.summary.entries > self.limits.entries_max {
            return Err(FlistError::Limit {
                what: "entries",
                limit: self.limits.entries_max,
            });
        }
        // The frame of the directory itself is not on the stack now.
        let depth = self.stack.len() as u32 + 1;
        self.summary.depth = self.summary.depth.max(depth);
        if depth > self.limits.depth_max || path_len > u64::from(self.limits.path_max) {
            return Err(FlistError::TooDeep(directory));
        }
        Ok(())
    }

    fn count_link(&mut self, inode: &Inode, is_new: bool) -> Result<(), FlistError> {
        let (nid, got) = (inode.nid, inode.nlink);
        if got == 1 && is_new {
            return Ok(()); // nearly all
        }
        let links = self.links.entry(nid).or_insert(Links {
            want: got,
            // A known inode that is not in the map has one name already.
            seen: u32::from(!is_new),
        });
        links.seen = links.seen.saturating_add(1);
        if links.seen > links.want {
            let want = links.seen;
            return Err(FlistError::BadNlink { nid, want, got });
        }
        Ok(())
    }

    fn finish(self, inodes: u64) -> Result<Summary, FlistError> {
        // The smallest, so that the error does not depend on hash order.
        let wrong = self.links.iter().filter(|(_, l)| l.seen != l.want);
        if let Some((&nid, links)) = wrong.min_by_key(|&(nid, _)| nid) {
            let (want, got) = (links.seen, links.want);
            return Err(FlistError::BadNlink { nid, want, got });
        }
        if self.summary.inodes != inodes {
            return Err(FlistError::InodeCount {
                want: inodes,
                got: self.summary.inodes,
            });
        }
        self.unused_is_zero()?;
        Ok(self.summary)
    }

    // --- bytes ---

    fn claim(&mut self, nid: u64, range: Range<u64>) -> Result<(), FlistError> {
        if range.end > self.view.bytes.len() as u64 {
            return Err(FlistError::DataOutOfRange(nid));
        }
        self.used
            .claim(range)
            .map_err(|offset| FlistError::Overlap { nid, offset })
    }

    fn zero(&self, range: Range<u64>) -> Result<(), FlistError> {
        let bytes = self.view.bytes;
        let slice = bytes.get(range.start as usize..range.end as usize);
        let at = slice.unwrap_or(&[]).iter().position(|&b| b != 0);
        match at {
            Some(at) => Err(FlistError::NonZeroPadding(range.start + at as u64)),
            None => Ok(()),
        }
    }

    /// Slots are claimed whole: what is left of the last one is zero.
    fn zero_up_to_slot(&self, end: u64) -> Result<(), FlistError> {
        let next = end.next_multiple_of(SLOT);
        self.zero(end..next.min(self.view.bytes.len() as u64))
    }

    fn unused_is_zero(&self) -> Result<(), FlistError> {
        for slot in 0..self.view.bytes.len() as u64 / SLOT {
            if !self.used.contains(slot) {
                self.zero(slot * SLOT..(slot + 1) * SLOT)?;
            }
        }
        Ok(())
    }

    // --- inodes ---

    /// Checks one inode, its attributes and where its data is.
    fn inode(&mut self, inode: &Inode) -> Result<(), FlistError> {
        let nid = inode.nid;
        if inode.offset() % BLOCK + INODE_SIZE as u64 > BLOCK {
            return Err(FlistError::InodeCrossesBlock(nid));
        }
        if inode.nlink == 0 {
            let (want, got) = (1, 0);
            return Err(FlistError::BadNlink { nid, want, got });
        }
        if inode.body_end() > self.view.bytes.len() as u64 {
            return Err(FlistError::XattrOverrun(nid));
        }
        let shape = self.shape(inode)?;
        self.claim(nid, inode.offset()..shape.end)?;
        self.zero_up_to_slot(shape.end)?;
        if let Some(range) = shape.own_blocks {
            self.claim(nid, range.clone())?;
            // With an inline tail the blocks are full.
            self.zero(range.end.min(range.start + inode.size)..range.end)?;
        }
        self.xattrs(inode)?;
        self.content(inode)?;
        self.count_inode(inode);
        Ok(())
    }

    fn count_inode(&mut self, inode: &Inode) {
        self.summary.inodes += 1;
        let counter = match inode.file_type {
            FileType::Directory => &mut self.summary.directories,
            FileType::Symlink => &mut self.summary.symlinks,
            FileType::File => {
                let bytes = &mut self.summary.file_bytes;
                *bytes = bytes.saturating_add(inode.size);
                &mut self.summary.files
            }
            _ => &mut self.summary.specials,
        };
        *counter += 1;
    }

    /// What the inode uses, if its layout is the one the writer chooses.
    fn shape(&self, inode: &Inode) -> Result<Shape, FlistError> {
        let bad = FlistError::BadLayout(inode.nid);
        let empty = Shape {
            end: inode.body_end(),
            own_blocks: None,
        };
        match (inode.file_type, inode.layout) {
            (FileType::Directory | FileType::Symlink, _) => metadata_shape(inode),
            (FileType::File, DataLayout::Plain) if inode.size > 0 || inode.data == 0 => Ok(empty),
            (FileType::File, DataLayout::Inline) => {
                if inode.size == 0 || inode.size > INLINE_MAX || inode.data != 0 {
                    return Err(bad);
                }
                let end = self.view.metadata_range(inode, 0)?.end;
                Ok(Shape {
                    end,
                    own_blocks: None,
                })
            }
            (FileType::File, DataLayout::Chunks) => {
                let (at, count) = self.view.chunk_indexes(inode)?;
                self.zero(inode.body_end()..at)?;
                Ok(Shape {
                    end: at + count * 8,
                    own_blocks: None,
                })
            }
            (FileType::CharDevice | FileType::BlockDevice, DataLayout::Plain)
                if inode.size == 0 =>
            {
                Ok(empty)
            }
            (FileType::Fifo | FileType::Socket, DataLayout::Plain)
                if inode.size == 0 && inode.data == 0 =>
            {
                Ok(empty)
            }
            _ => Err(bad),
        }
    }

    fn xattrs(&self, inode: &Inode) -> Result<(), FlistError> {
        let nid = inode.nid;
        if inode.xattr_units == 0 {
            return Ok(());
        }
        let xattrs = self.view.xattrs(inode)?;
        // Attributes without entries are not written.
        if xattrs.is_empty() {
            return Err(FlistError::XattrOverrun(nid));
        }
        let mut bytes = 0;
        for (name, value) in &xattrs {
            bytes += (name.len() + value.len()) as u64;
            self.reserved_xattr(inode, name, value)?;
        }
        if bytes > u64::from(self.limits.xattr_bytes_max) {
            return Err(FlistError::XattrTooLarge { nid, bytes });
        }
        Ok(())
    }

    fn reserved_xattr(&self, inode: &Inode, name: &[u8], value: &[u8]) -> Result<(), FlistError> {
        if !xattr::is_reserved(name) {
            return Ok(());
        }
        let nid = inode.nid;
        let of_layer = match inode.file_type {
            FileType::Directory => name == xattr::OPAQUE || name == xattr::IMPLICIT,
            FileType::Symlink => name == xattr::LINK_TO,
            _ => false,
        };
        match (of_layer && value == xattr::YES, self.is_layer) {
            (true, true) => Ok(()),
            (true, false) => Err(FlistError::LayerOnly(nid)),
            (false, _) => Err(FlistError::ReservedXattr(nid)),
        }
    }

    fn content(&self, inode: &Inode) -> Result<(), FlistError> {
        match (inode.file_type, inode.layout) {
            (FileType::Symlink, _) => self.view.readlink(inode).map(|_| ()),
            (FileType::File, _) if inode.size > self.limits.file_size_max => {
                Err(FlistError::Limit {
                    what: "bytes in a file",
                    limit: self.limits.file_size_max,
                })
            }
            (FileType::File, DataLayout::Plain) if inode.size > 0 => {
                self.view.extent(inode).map(|_| ())
            }
            (FileType::File, DataLayout::Chunks) => self.indexes(inode),
            _ => Ok(()),
        }
    }

    fn indexes(&self, inode: &Inode) -> Result<(), FlistError> {
        let (at, count) = self.view.chunk_indexes(inode)?;
        let mut of_blob = None;
        for index in 0..count {
            if let Some((blob, _)) = self.view.chunk_index(inode, at, index)?
                && *of_blob.get_or_insert(blob) != blob
            {
                let nid = inode.nid;
                return Err(FlistError::BadChunkIndex { nid, index });
            }
        }
        Ok(())
    }
}

/// The bytes an inode uses.
struct Shape {
    /// End of inode, attributes and tail or indexes.
    end: u64,
    /// Blocks of its own.
    own_blocks: Option<Range<u64>>,
}

/// Directories and symlinks: a tail that is not too long is inline.
fn metadata_shape(inode: &Inode) -> Result<Shape, FlistError> {
    let nid = inode.nid;
    if inode.file_type == FileType::Symlink && !(1..BLOCK).contains(&inode.size) {
        return Err(FlistError::BadSymlink(nid));
    }
    let tail = inode.size % BLOCK;
    let inline = tail > 0 && tail <= TAIL_MAX as u64;
    let (layout, blocks) = if inline {
        (DataLayout::Inline, inode.size / BLOCK)
    } else {
        (DataLayout::Plain, inode.size.div_ceil(BLOCK))
    };
    let unused_field = blocks == 0 && inode.data != 0;
    if inode.size == 0 || inode.layout != layout || unused_field {
        return Err(FlistError::BadLayout(nid));
    }
    let tail_at = inode.body_end();
    if inline && tail_at % BLOCK + tail > BLOCK {
        return Err(FlistError::InlineCrossesBlock(nid));
    }
    let first = u64::from(inode.data) * BLOCK;
    Ok(Shape {
        end: if inline { tail_at + tail } else { tail_at },
        own_blocks: match blocks {
            0 => None,
            blocks => Some(first..first.saturating_add(blocks.saturating_mul(BLOCK))),
        },
    })
}

fn dots(frame: &mut Frame<'_>, entry: &DirEntry<'_>) -> Result<(), FlistError> {
    let nid = frame.inode.nid;
    if entry.file_type != FileType::Directory {
        let directory = nid;
        let nid = entry.nid;
        return Err(FlistError::EntryTypeMismatch { directory, nid });
    }
    if entry.name == b"." && entry.nid != nid {
        return Err(FlistError::WrongSelf(nid));
    }
    if entry.name == b".." && entry.nid != frame.parent {
        return Err(FlistError::WrongParent(nid));
    }
    frame.dots += 1;
    Ok(())
}

/// What must hold when a directory's last entry was read.
fn leave(frame: &Frame<'_>) -> Result<(), FlistError> {
    let nid = frame.inode.nid;
    if frame.dots != 2 {
        return Err(FlistError::MissingDots(nid));
    }
    let want = frame.subdirectories.saturating_add(2);
    let got = frame.inode.nlink;
    if want != got {
        return Err(FlistError::BadNlink { nid, want, got });
    }
    Ok(())
}
