//! From a flist back to a tree in memory.

use std::collections::{HashMap, HashSet};

use crate::erofs::inode::Inode;
use crate::erofs::{FileType, xattr};
use crate::error::FlistError;
use crate::file::{Flist, SpanSource};
use crate::name::EntryName;
use crate::tree::{
    Device, Extent, FileContent, FileData, Metadata, Node, NodeId, NodeKind, Segment, Tree,
    TreeError,
};

pub(crate) fn to_tree(flist: &Flist) -> Result<Tree, FlistError> {
    let root = flist.root()?;
    if !root.is_directory() {
        return Err(FlistError::RootNotDirectory);
    }
    let mut decoder = Decoder {
        flist,
        budget: flist.view().bytes.len() as u64,
        directories: HashSet::from([root.nid]),
        linked: HashMap::new(),
    };
    let node = decoder.node(&root)?;
    let mut tree = Tree::new(node.meta);
    if let NodeKind::Directory(root) = &node.kind {
        tree.set_opaque(Tree::ROOT, root.opaque);
        tree.set_implicit(Tree::ROOT, root.implicit);
    }
    let mut pending = vec![(root, Tree::ROOT)];
    while let Some((directory, id)) = pending.pop() {
        decoder.directory(&mut tree, &directory, id, &mut pending)?;
    }
    Ok(tree)
}

struct Decoder<'a> {
    flist: &'a Flist,
    /// Bytes of the tree not yet read: an honest tree uses each once, so a
    /// forged one cannot make this loop or grow.
    budget: u64,
    directories: HashSet<u64>,
    linked: HashMap<u64, NodeId>,
}

impl Decoder<'_> {
    fn spend(&mut self, nid: u64, bytes: u64) -> Result<(), FlistError> {
        let left = self.budget.checked_sub(bytes);
        self.budget = left.ok_or(FlistError::Overlap { nid, offset: 0 })?;
        Ok(())
    }

    fn directory(
        &mut self,
        tree: &mut Tree,
        directory: &Inode,
        id: NodeId,
        pending: &mut Vec<(Inode, NodeId)>,
    ) -> Result<(), FlistError> {
        let nid = directory.nid;
        self.spend(nid, directory.size)?;
        for entry in self.flist.read_dir(directory) {
            let entry = entry?;
            let name = EntryName::new(entry.name);
            let name = name.map_err(|reason| FlistError::BadName {
                directory: nid,
                reason,
            })?;
            if let Some(&known) = self.linked.get(&entry.nid) {
                tree.link(id, name, known)
                    .map_err(|e| tree_error(nid, &e))?;
                continue;
            }
            let inode = self.flist.inode(entry.nid)?;
            let is_directory = inode.is_directory();
            if is_directory && !self.directories.insert(inode.nid) {
                return Err(FlistError::DirectoryLinkedTwice(inode.nid));
            }
            let node = self.node(&inode)?;
            let child = tree.insert(id, name, node);
            let child = child.map_err(|e| tree_error(nid, &e))?;
            if is_directory {
                pending.push((inode, child));
            } else if inode.nlink > 1 {
                self.linked.insert(inode.nid, child);
            }
        }
        Ok(())
    }

    fn node(&mut self, inode: &Inode) -> Result<Node, FlistError> {
        self.spend(inode.nid, 64 + inode.xattr_len())?;
        let mut xattrs = self.flist.xattrs(inode)?;
        let is_layer = self.flist.is_layer();
        let mut marker = |name: &[u8]| is_layer && xattrs.remove(name).is_some();
        let opaque = marker(xattr::OPAQUE);
        let implicit = marker(xattr::IMPLICIT);
        let link_to = marker(xattr::LINK_TO);
        let kind = match inode.file_type {
            FileType::Directory => {
                let mut kind = NodeKind::directory();
                if let NodeKind::Directory(directory) = &mut kind {
                    directory.opaque = opaque;
                    directory.implicit = implicit;
                }
                kind
            }
            FileType::File => NodeKind::File(self.file(inode)?),
            FileType::Symlink => {
                self.spend(inode.nid, inode.size)?;
                let target = self.flist.readlink(inode)?.to_vec();
                if link_to {
                    NodeKind::LinkTo(target)
                } else {
                    NodeKind::Symlink(target)
                }
            }
            FileType::CharDevice => match device(inode) {
                Device { major: 0, minor: 0 } if is_layer => NodeKind::Whiteout,
                device => NodeKind::CharDevice(device),
            },
            FileType::BlockDevice => NodeKind::BlockDevice(device(inode)),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
        };
        let meta = Metadata {
            perm: inode.perm(),
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs,
        };
        Ok(Node { meta, kind })
    }

    fn file(&mut self, inode: &Inode) -> Result<FileContent, FlistError> {
        use crate::erofs::inode::DataLayout;
        let size = inode.size;
        let data = match inode.layout {
            DataLayout::Plain if size == 0 => FileData::Inline(Vec::new()),
            DataLayout::Plain => {
                let (blob, offset) = self.flist.view().extent(inode)?;
                FileData::Extent(Extent { blob, offset })
            }
            DataLayout::Inline => {
                self.spend(inode.nid, size)?;
                let span = self.flist.span_at(inode, 0)?;
                match span.map(|span| span.source) {
                    Some(SpanSource::Inline(bytes)) => FileData::Inline(bytes.to_vec()),
                    _ => return Err(FlistError::BadLayout(inode.nid)),
                }
            }
            DataLayout::Chunks => {
                let (_, indexes) = self.flist.view().chunk_indexes(inode)?;
                self.spend(inode.nid, indexes * 8)?;
                self.sparse(inode)?
            }
        };
        Ok(FileContent { size, data })
    }

    fn sparse(&self, inode: &Inode) -> Result<FileData, FlistError> {
        let mut segments = Vec::new();
        let mut of_blob = None;
        for span in self.flist.file_map(inode)? {
            if let SpanSource::Blob { blob, offset } = span.source {
                if *of_blob.get_or_insert(blob) != blob {
                    let (nid, index) = (inode.nid, 0);
                    return Err(FlistError::BadChunkIndex { nid, index });
                }
                segments.push(Segment {
                    file_offset: span.start,
                    len: span.len,
                    blob_offset: offset,
                });
            }
        }
        Ok(FileData::Sparse {
            blob: of_blob.unwrap_or(0),
            segments,
        })
    }
}

fn device(inode: &Inode) -> Device {
    inode.device().unwrap_or(Device { major: 0, minor: 0 })
}

fn tree_error(directory: u64, error: &TreeError) -> FlistError {
    match error {
        TreeError::Exists(_) => FlistError::DuplicateName(directory),
        TreeError::LinkToDirectory(_) => FlistError::DirectoryLinkedTwice(directory),
        _ => FlistError::Limit {
            what: "inodes",
            limit: u64::from(u32::MAX),
        },
    }
}
