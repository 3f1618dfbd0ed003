//! Writes the tree: layout, inodes, directory blocks, superblock, devices.

use crate::blob::sparse_unit;
use crate::error::BuildError;
use crate::id::BlobId;
use crate::limits::Limits;
use crate::tree::{Extent, FileContent, FileData, Node, NodeId, NodeKind, Segment, Tree};
use crate::{BLOCK, INLINE_MAX};

use super::dirent::{self, DirEntry, Packer};
use super::inode::{CHUNK_INDEXES, DataLayout, INODE_SIZE, Inode};
use super::layout::{Body, Layout, Placed, all_names, effective_xattrs, place};
use super::superblock::{self, DeviceRange, Superblock};
use super::{
    BLOBS_MAX, BLOCK_SIZE, DEVICE_SLOT, DEVICES_OFFSET, FileType, NULL_BLOCK, encode_rdev, xattr,
};

/// One blob, for addressing: its id and length in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blob {
    pub(crate) id: BlobId,
    pub(crate) len: u64,
}

/// What may be in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TreeKind {
    /// A file system: no whiteouts, opaque directories, links to other trees.
    Merged,
    /// One layer.
    Layer,
}

/// The whole image, byte 0 (our header, left zero) to the end of the tree.
pub(crate) fn write(
    tree: &Tree,
    kind: TreeKind,
    blobs: &[Blob],
    limits: &Limits,
) -> Result<Vec<u8>, BuildError> {
    if blobs.len() > BLOBS_MAX.min(limits.blobs_max as usize) {
        return Err(BuildError::TooManyBlobs(blobs.len()));
    }
    check_nodes(tree, kind, blobs, limits)?;
    let start = DEVICES_OFFSET + blobs.len() * DEVICE_SLOT;
    let layout = place(tree, start, limits)?;
    let devices = assign(blobs, layout.blocks)?;
    let mut writer = Writer {
        tree,
        layout: &layout,
        devices: &devices,
        image: vec![0; usize::try_from(layout.blocks * BLOCK).expect("fits memory")],
    };
    for placed in &layout.placed {
        writer.write_node(placed);
    }
    let mut image = writer.image;
    for (i, (blob, range)) in blobs.iter().zip(&devices).enumerate() {
        superblock::write_device(&mut image, i, &blob.id, *range);
    }
    let superblock = Superblock {
        root_nid: u16::try_from(layout.placed[0].nid).expect("the root comes first"),
        inodes: layout.placed.len() as u64,
        blocks: layout.blocks as u32,
        devices: blobs.len() as u16,
    };
    superblock.write(&mut image);
    superblock::seal(&mut image);
    Ok(image)
}

/// Gives every blob its range of the unified address space, behind the tree.
fn assign(blobs: &[Blob], tree_blocks: u64) -> Result<Vec<DeviceRange>, BuildError> {
    let mut first = tree_blocks;
    let assign_one = |blob: &Blob| {
        let blocks = blob.len / BLOCK;
        let range = DeviceRange {
            first: u32::try_from(first).ok()?,
            blocks: u32::try_from(blocks).ok()?,
        };
        first += blocks;
        // The last address means "hole".
        (first < u64::from(NULL_BLOCK)).then_some(range)
    };
    let ranges: Option<Vec<_>> = blobs.iter().map(assign_one).collect();
    ranges
        .filter(|_| tree_blocks < u64::from(NULL_BLOCK))
        .ok_or(BuildError::AddressSpace)
}

/// A path of `id`, for errors (searches the whole tree).
pub(crate) fn path_of(tree: &Tree, id: NodeId) -> String {
    let mut walk = tree.walk();
    while let Some((path, at)) = walk.next_entry() {
        if at == id {
            return format!("/{}", path.escape_ascii());
        }
    }
    "?".to_owned()
}

fn check_nodes(
    tree: &Tree,
    kind: TreeKind,
    blobs: &[Blob],
    limits: &Limits,
) -> Result<(), BuildError> {
    let mut walk = tree.walk();
    while let Some((_, id)) = walk.next_entry() {
        check_node(tree, id, kind, blobs, limits)?;
    }
    Ok(())
}

fn check_node(
    tree: &Tree,
    id: NodeId,
    tree_kind: TreeKind,
    blobs: &[Blob],
    limits: &Limits,
) -> Result<(), BuildError> {
    let node = tree.node(id);
    let path = || path_of(tree, id);
    if node.meta.perm > 0o7777 || node.meta.mtime.nanos >= 1_000_000_000 {
        return Err(BuildError::BadMetadata(path()));
    }
    check_xattrs(tree, id, limits)?;
    match &node.kind {
        NodeKind::Directory(directory)
            if (directory.opaque || directory.implicit) && tree_kind == TreeKind::Merged =>
        {
            Err(BuildError::LayerOnly(path()))
        }
        NodeKind::Whiteout | NodeKind::LinkTo(_) if tree_kind == TreeKind::Merged => {
            Err(BuildError::LayerOnly(path()))
        }
        NodeKind::CharDevice(device)
            if tree_kind == TreeKind::Layer && (device.major, device.minor) == (0, 0) =>
        {
            Err(BuildError::AmbiguousWhiteout(path()))
        }
        NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => encode_rdev(*device)
            .map(|_| ())
            .ok_or_else(|| BuildError::BadDevice(path())),
        NodeKind::Symlink(target) | NodeKind::LinkTo(target) => {
            let valid = (1..BLOCK_SIZE).contains(&target.len()) && !target.contains(&0);
            valid
                .then_some(())
                .ok_or_else(|| BuildError::BadSymlink(path()))
        }
        NodeKind::File(content) => {
            check_file(content, blobs, limits).map_err(|reason| BuildError::BadFile {
                path: path(),
                reason,
            })
        }
        _ => Ok(()),
    }
}

fn check_xattrs(tree: &Tree, id: NodeId, limits: &Limits) -> Result<(), BuildError> {
    let mut total = 0;
    for (name, value) in &tree.node(id).meta.xattrs {
        let error = |make: fn(String, String) -> BuildError| {
            make(path_of(tree, id), name.escape_ascii().to_string())
        };
        if xattr::split_name(name).is_none() || name.len() > 255 {
            return Err(error(|path, name| BuildError::XattrName { path, name }));
        }
        if xattr::is_reserved(name) {
            return Err(error(|path, name| BuildError::ReservedXattr { path, name }));
        }
        total += name.len() + value.len();
        if value.len() > xattr::VALUE_MAX || total > limits.xattr_bytes_max as usize {
            return Err(error(|path, name| BuildError::XattrTooLarge { path, name }));
        }
    }
    Ok(())
}

fn check_file(content: &FileContent, blobs: &[Blob], limits: &Limits) -> Result<(), &'static str> {
    let size = content.size;
    if size > limits.file_size_max {
        return Err("it is larger than the limit");
    }
    match &content.data {
        FileData::Inline(bytes) if bytes.len() as u64 != size => {
            Err("its inline bytes are not as many as its size")
        }
        FileData::Inline(_) if size > INLINE_MAX => Err("it is too large to be inline"),
        FileData::Inline(_) => Ok(()),
        _ if size == 0 => Err("an empty file must be inline"),
        FileData::Extent(extent) => check_run(blobs, extent.blob, extent.offset, size),
        FileData::Sparse { blob, segments } => check_segments(size, *blob, segments, blobs),
    }
}

fn check_run(blobs: &[Blob], blob: u16, offset: u64, len: u64) -> Result<(), &'static str> {
    let blob = blobs.get(usize::from(blob)).ok_or("no such blob")?;
    if !offset.is_multiple_of(BLOCK) {
        return Err("its extent does not start on a page");
    }
    let end = offset.checked_add(len);
    match end {
        Some(end) if end <= blob.len => Ok(()),
        _ => Err("its extent reaches past the end of the blob"),
    }
}

fn check_segments(
    size: u64,
    blob: u16,
    segments: &[Segment],
    blobs: &[Blob],
) -> Result<(), &'static str> {
    let unit = sparse_unit(size);
    let mut end = 0;
    for segment in segments {
        let start = segment.file_offset;
        if start % unit != 0 || segment.len == 0 {
            return Err("a sparse segment is empty or not aligned to the file's unit");
        }
        if start < end {
            return Err("sparse segments overlap or are out of order");
        }
        end = start
            .checked_add(segment.len)
            .filter(|&end| end <= size && (end % unit == 0 || end == size))
            .ok_or("a sparse segment ends within a unit or past the file")?;
        check_run(blobs, blob, segment.blob_offset, segment.len)?;
    }
    Ok(())
}

struct Writer<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    devices: &'a [DeviceRange],
    image: Vec<u8>,
}

impl Writer<'_> {
    fn write_node(&mut self, placed: &Placed) {
        let node = self.tree.node(placed.id);
        let body = Body::of(&node.kind);
        let first_block = self.layout.area + placed.first_block;
        let xattrs = effective_xattrs(node);
        let xattr_len = xattr::encoded_len(&xattrs);
        let file_type = file_type(&node.kind);
        let inode = Inode {
            nid: placed.nid,
            layout: body.layout,
            xattr_units: match xattr_len {
                0 => 0,
                len => ((len - 12) / 4 + 1) as u16,
            },
            file_type,
            mode: (file_type.mode() as u16) | node.meta.perm,
            size: body.size,
            data: self.data_field(node, &body, first_block),
            uid: node.meta.uid,
            gid: node.meta.gid,
            mtime: node.meta.mtime,
            nlink: self.tree.nlink(placed.id),
        };
        inode.write(&mut self.image);
        let at = inode.offset() as usize + INODE_SIZE;
        if xattr_len > 0 {
            xattr::write(&mut self.image[at..at + xattr_len], &xattrs);
        }
        self.write_body(node, placed, &inode, first_block);
    }

    fn data_field(&self, node: &Node, body: &Body, first_block: u64) -> u32 {
        match &node.kind {
            NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => {
                encode_rdev(*device).expect("checked")
            }
            NodeKind::File(content) => match &content.data {
                FileData::Extent(extent) => self.unified(*extent),
                FileData::Sparse { .. } => {
                    let bits = (sparse_unit(content.size) / BLOCK).trailing_zeros();
                    CHUNK_INDEXES | bits
                }
                FileData::Inline(_) => 0,
            },
            _ if body.own_blocks > 0 => first_block as u32,
            _ => 0,
        }
    }

    fn unified(&self, extent: Extent) -> u32 {
        let device = self.devices[usize::from(extent.blob)];
        device.first + (extent.offset / BLOCK) as u32
    }

    fn write_body(&mut self, node: &Node, placed: &Placed, inode: &Inode, first_block: u64) {
        let tail_at = inode.body_end() as usize;
        let own_at = (first_block * BLOCK) as usize;
        match &node.kind {
            NodeKind::Directory(_) => self.write_directory(placed, inode, own_at),
            NodeKind::Symlink(target) | NodeKind::LinkTo(target) => {
                let at = match inode.layout {
                    DataLayout::Inline => tail_at,
                    _ => own_at,
                };
                self.image[at..at + target.len()].copy_from_slice(target);
            }
            NodeKind::File(content) => match &content.data {
                FileData::Inline(bytes) => {
                    self.image[tail_at..tail_at + bytes.len()].copy_from_slice(bytes);
                }
                FileData::Extent(_) => {}
                FileData::Sparse { blob, segments } => {
                    self.write_indexes(content.size, *blob, segments, tail_at);
                }
            },
            _ => {}
        }
    }

    fn write_indexes(&mut self, size: u64, blob: u16, segments: &[Segment], body_at: usize) {
        let unit = sparse_unit(size);
        let at = body_at.next_multiple_of(8);
        let count = size.div_ceil(unit) as usize;
        for slot in self.image[at..at + count * 8].chunks_exact_mut(8) {
            slot[4..].copy_from_slice(&NULL_BLOCK.to_le_bytes());
        }
        for segment in segments {
            let first = segment.file_offset / unit;
            for i in 0..segment.len.div_ceil(unit) {
                let block = (segment.blob_offset + i * unit) / BLOCK;
                let slot = at + (first + i) as usize * 8;
                // Devices are counted from 1; addresses are the device's own.
                self.image[slot + 2..slot + 4].copy_from_slice(&(blob + 1).to_le_bytes());
                self.image[slot + 4..slot + 8].copy_from_slice(&(block as u32).to_le_bytes());
            }
        }
    }

    fn write_directory(&mut self, placed: &Placed, inode: &Inode, own_at: usize) {
        let tree = self.tree;
        let directory = tree.directory(placed.id).expect("a directory");
        let names = all_names(directory);
        let mut packer = Packer::default();
        let mut block: Vec<DirEntry<'_>> = Vec::new();
        let mut at = own_at;
        for name in names {
            if packer.add(name) {
                dirent::write_block(&mut self.image[at..at + BLOCK_SIZE], &block);
                at += BLOCK_SIZE;
                block.clear();
            }
            block.push(self.entry(placed, name));
        }
        // The last block is next to the inode or, if too long, a whole one.
        if inode.layout == DataLayout::Inline {
            at = inode.body_end() as usize;
        }
        let end = at + (inode.size as usize - 1) % BLOCK_SIZE + 1;
        dirent::write_block(&mut self.image[at..end], &block);
    }

    fn entry<'n>(&self, directory: &Placed, name: &'n [u8]) -> DirEntry<'n> {
        let (nid, file_type) = match name {
            b"." => (directory.nid, FileType::Directory),
            b".." => (directory.parent, FileType::Directory),
            _ => {
                let id = self.tree.lookup(directory.id, name).expect("listed");
                let nid = self.layout.nids[id.index()];
                (nid, file_type(&self.tree.node(id).kind))
            }
        };
        DirEntry {
            name,
            nid,
            file_type,
        }
    }
}

fn file_type(kind: &NodeKind) -> FileType {
    match kind {
        NodeKind::Directory(_) => FileType::Directory,
        NodeKind::File(_) => FileType::File,
        NodeKind::Symlink(_) | NodeKind::LinkTo(_) => FileType::Symlink,
        NodeKind::CharDevice(_) | NodeKind::Whiteout => FileType::CharDevice,
        NodeKind::BlockDevice(_) => FileType::BlockDevice,
        NodeKind::Fifo => FileType::Fifo,
        NodeKind::Socket => FileType::Socket,
    }
}
