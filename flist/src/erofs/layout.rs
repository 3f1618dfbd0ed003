//! Decides where every inode and directory block goes, before any is written.
//!
//! ```text
//! | header | superblock | devices | inodes, xattrs, tails … | dir blocks … |
//! ```
//!
//! The inodes of one directory are laid out next to each other in name order,
//! directories in pre-order: a walk reads the metadata front to back. The root
//! comes first, so its nid fits 16 bits.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::BLOCK;
use crate::blob::sparse_unit;
use crate::error::BuildError;
use crate::limits::Limits;
use crate::tree::{Directory, FileContent, FileData, Node, NodeId, NodeKind, Tree};

use super::dirent::Packer;
use super::inode::{DataLayout, INODE_SIZE};
use super::{SLOT, TAIL_MAX, xattr};

/// An inode's place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    pub(crate) id: NodeId,
    pub(crate) nid: u64,
    /// The parent's nid, for `..`.
    pub(crate) parent: u64,
    /// First own block, counted from the start of the block area.
    pub(crate) first_block: u64,
}

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Inodes in the order they are on disk.
    pub(crate) placed: Vec<Placed>,
    /// Nid by [`NodeId::index`]; 0 (the header) means none.
    pub(crate) nids: Vec<u64>,
    /// First block of the block area.
    pub(crate) area: u64,
    /// Blocks of the whole tree.
    pub(crate) blocks: u64,
}

/// The shape of one inode's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) layout: DataLayout,
    pub(crate) size: u64,
    /// Bytes right after inode and xattrs.
    tail: u64,
    /// 8-byte chunk indexes after inode and xattrs.
    pub(crate) indexes: u64,
    /// Blocks of its own in the block area.
    pub(crate) own_blocks: u64,
}

impl Body {
    const EMPTY: Self = Self {
        layout: DataLayout::Plain,
        size: 0,
        tail: 0,
        indexes: 0,
        own_blocks: 0,
    };

    /// Metadata of `size` bytes: directory blocks, a symlink's target.
    fn owned(size: u64) -> Self {
        let tail = size % BLOCK;
        let inline = tail > 0 && tail <= TAIL_MAX as u64;
        Self {
            layout: if inline {
                DataLayout::Inline
            } else {
                DataLayout::Plain
            },
            size,
            tail: if inline { tail } else { 0 },
            indexes: 0,
            own_blocks: if inline {
                size / BLOCK
            } else {
                size.div_ceil(BLOCK)
            },
        }
    }

    fn file(content: &FileContent) -> Self {
        let size = content.size;
        match &content.data {
            FileData::Inline(_) if size == 0 => Self::EMPTY,
            FileData::Inline(_) => Self {
                layout: DataLayout::Inline,
                size,
                tail: size,
                ..Self::EMPTY
            },
            FileData::Extent(_) => Self {
                size,
                ..Self::EMPTY
            },
            FileData::Sparse { .. } => Self {
                layout: DataLayout::Chunks,
                size,
                indexes: size.div_ceil(sparse_unit(size)),
                ..Self::EMPTY
            },
        }
    }

    pub(crate) fn of(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Directory(directory) => Self::owned(directory_size(directory)),
            NodeKind::File(content) => Self::file(content),
            NodeKind::Symlink(target) | NodeKind::LinkTo(target) => {
                Self::owned(target.len() as u64)
            }
            _ => Self::EMPTY,
        }
    }
}

/// All names of a directory, `.` and `..` included, in byte order.
pub(crate) fn all_names(directory: &Directory) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = directory.entries().map(|(n, _)| n.as_bytes()).collect();
    for dots in [&b"."[..], b".."] {
        let at = names.partition_point(|name| *name < dots);
        names.insert(at, dots);
    }
    names
}

fn directory_size(directory: &Directory) -> u64 {
    let mut packer = Packer::default();
    for name in all_names(directory) {
        packer.add(name);
    }
    packer.size()
}

struct Placer<'a> {
    tree: &'a Tree,
    limits: &'a Limits,
    layout: Layout,
    /// First free byte of the inode area.
    cursor: u64,
    own_blocks: u64,
    entries: u64,
}

/// A directory whose entries are still to be placed.
struct Pending {
    id: NodeId,
    nid: u64,
    depth: u32,
    path_len: u64,
}

/// Lays out `tree`, from byte `start` of the file on.
pub(crate) fn place(tree: &Tree, start: usize, limits: &Limits) -> Result<Layout, BuildError> {
    let mut placer = Placer {
        tree,
        limits,
        layout: Layout {
            placed: Vec::with_capacity(tree.len()),
            nids: vec![0; tree.slots()],
            area: 0,
            blocks: 0,
        },
        cursor: start as u64,
        own_blocks: 0,
        entries: 0,
    };
    placer.place_all()?;
    let mut layout = placer.layout;
    layout.area = placer.cursor.div_ceil(BLOCK);
    layout.blocks = layout.area + placer.own_blocks;
    Ok(layout)
}

impl Placer<'_> {
    fn place_all(&mut self) -> Result<(), BuildError> {
        let root = self.place_node(Tree::ROOT, None);
        let mut pending = vec![Pending {
            id: Tree::ROOT,
            nid: root,
            depth: 0,
            path_len: 0,
        }];
        while let Some(directory) = pending.pop() {
            let first = pending.len();
            self.place_children(&directory, &mut pending)?;
            // The last pushed is popped first: keep name order.
            pending[first..].reverse();
        }
        Ok(())
    }

    fn place_children(
        &mut self,
        parent: &Pending,
        pending: &mut Vec<Pending>,
    ) -> Result<(), BuildError> {
        let tree = self.tree;
        for (name, id) in tree.children(parent.id) {
            self.entries += 1;
            let path_len = parent.path_len + 1 + name.as_bytes().len() as u64;
            let depth = parent.depth + 1;
            self.check_limits(id, path_len, depth)?;
            if self.layout.nids[id.index()] != 0 {
                continue; // a further name of a node that has its place
            }
            let nid = self.place_node(id, Some(parent.nid));
            if tree.node(id).kind.is_directory() {
                pending.push(Pending {
                    id,
                    nid,
                    depth,
                    path_len,
                });
            }
        }
        Ok(())
    }

    fn check_limits(&self, id: NodeId, path_len: u64, depth: u32) -> Result<(), BuildError> {
        if self.entries > self.limits.entries_max {
            return Err(BuildError::TooManyEntries(self.limits.entries_max));
        }
        if path_len > u64::from(self.limits.path_max) || depth > self.limits.depth_max {
            return Err(BuildError::TooDeep(super::writer::path_of(self.tree, id)));
        }
        Ok(())
    }

    fn place_node(&mut self, id: NodeId, parent: Option<u64>) -> u64 {
        let node = self.tree.node(id);
        let xattrs = xattr_len(node);
        let body = Body::of(&node.kind);
        let at = find_place(self.cursor, xattrs, body.tail);
        let end = at + INODE_SIZE as u64 + xattrs;
        self.cursor = match body.indexes {
            0 => end + body.tail,
            count => end.next_multiple_of(8) + count * 8,
        };
        let nid = at / SLOT;
        self.layout.placed.push(Placed {
            id,
            nid,
            parent: parent.unwrap_or(nid), // the root is its own parent
            first_block: self.own_blocks,
        });
        self.layout.nids[id.index()] = nid;
        self.own_blocks += body.own_blocks;
        nid
    }
}

/// The xattrs of a node as written, with those that encode layer-only things.
pub(crate) fn effective_xattrs(node: &Node) -> Cow<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
    let markers = match &node.kind {
        NodeKind::Directory(directory) => [
            (directory.opaque, xattr::OPAQUE),
            (directory.implicit, xattr::IMPLICIT),
        ],
        kind => {
            let is_link = matches!(kind, NodeKind::LinkTo(_));
            [(is_link, xattr::LINK_TO), (false, xattr::LINK_TO)]
        }
    };
    let mut xattrs = Cow::Borrowed(&node.meta.xattrs);
    for (_, name) in markers.into_iter().filter(|(set, _)| *set) {
        let value = xattr::YES.to_vec();
        xattrs.to_mut().insert(name.to_vec(), value);
    }
    xattrs
}

fn xattr_len(node: &Node) -> u64 {
    xattr::encoded_len(&effective_xattrs(node)) as u64
}

/// The first place at or after `cursor` where neither the inode nor its tail
/// crosses a block (the kernel refuses the latter).
fn find_place(cursor: u64, xattrs: u64, tail: u64) -> u64 {
    let mut at = cursor.next_multiple_of(SLOT);
    loop {
        let inode_fits = at % BLOCK + INODE_SIZE as u64 <= BLOCK;
        let tail_at = (at + INODE_SIZE as u64 + xattrs) % BLOCK;
        if inode_fits && tail_at + tail <= BLOCK {
            return at;
        }
        at += SLOT;
    }
}
