//! A directory tree in memory: what packers build, merges change and the
//! flist file encodes.
//!
//! An arena: a [`NodeId`] names an inode, directory entries name `NodeId`s,
//! several names of one node are hard links. Always: every node but the root
//! has at least one name, directories have exactly one, and every name is a
//! valid [`EntryName`] — so a tree has no cycles by construction.

use std::collections::BTreeMap;

use crate::name::EntryName;

/// Seconds and nanoseconds since the epoch; nanoseconds below one billion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds, negative before 1970.
    pub secs: i64,
    /// Nanoseconds, below one billion.
    pub nanos: u32,
}

/// What every node has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission, set-id and sticky bits (`0o7777`).
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes by full name (`user.foo`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// An inode: metadata and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Metadata.
    pub meta: Metadata,
    /// What it is.
    pub kind: NodeKind,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory(Directory),
    /// A regular file.
    File(FileContent),
    /// A symbolic link and its target bytes.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// Layer trees only: the name does not exist, whatever is below.
    Whiteout,
    /// Layer trees only: a hard link to a path of the layers below.
    LinkTo(Vec<u8>),
}

impl NodeKind {
    /// An empty directory.
    pub fn directory() -> Self {
        Self::Directory(Directory::default())
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

/// A directory's entries, sorted by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    entries: BTreeMap<EntryName, NodeId>,
    /// Layer trees only: hides every entry of the layers below.
    pub opaque: bool,
    /// Layer trees only: the layer names entries of this directory, but not
    /// the directory itself; where a layer below has it, that one's metadata
    /// stays.
    pub implicit: bool,
}

impl Directory {
    /// Entries in byte order of their names.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (&EntryName, NodeId)> + '_ {
        self.entries.iter().map(|(name, &id)| (name, id))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Device {
    /// Major number, below 4096.
    pub major: u32,
    /// Minor number, below 1,048,576.
    pub minor: u32,
}

/// A regular file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Length in bytes.
    pub size: u64,
    /// Where they are.
    pub data: FileData,
}

impl FileContent {
    /// A file whose bytes are in the flist itself.
    pub fn inline(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self {
            size: bytes.len() as u64,
            data: FileData::Inline(bytes),
        }
    }
}

/// Where a regular file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileData {
    /// Here: at most [`crate::INLINE_MAX`] bytes; the empty file is this.
    Inline(Vec<u8>),
    /// One run of a blob, as long as the file.
    Extent(Extent),
    /// Runs of a blob between holes.
    Sparse {
        /// Index in the flist's blob table.
        blob: u16,
        /// Runs with data, sorted, not overlapping.
        segments: Vec<Segment>,
    },
}

/// A run of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Index in the flist's blob table.
    pub blob: u16,
    /// First byte, a multiple of 4096.
    pub offset: u64,
}

/// A run of a sparse file that has data.
///
/// Offsets are multiples of the file's [`crate::blob::sparse_unit`], the
/// length too unless the run ends the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// First byte in the file.
    pub file_offset: u64,
    /// Bytes.
    pub len: u64,
    /// First byte in the blob, a multiple of 4096.
    pub blob_offset: u64,
}

/// Names a node of one [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

impl NodeId {
    /// The node's slot in the arena, below [`Tree::slots`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Why a tree refused a change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The parent is not a directory.
    #[error("cannot add {0}: the parent is not a directory")]
    NotADirectory(EntryName),
    /// The name is taken.
    #[error("cannot add {0}: the name exists")]
    Exists(EntryName),
    /// A directory cannot have a second name.
    #[error("cannot link {0}: the target is a directory")]
    LinkToDirectory(EntryName),
    /// A node that is inserted as a directory must be empty.
    #[error("cannot add {0}: a directory is inserted empty")]
    NotEmpty(EntryName),
    /// More than 2^32 nodes.
    #[error("the tree has too many nodes")]
    Full,
}

#[derive(Debug, Clone)]
struct Slot {
    node: Node,
    /// Names of the node.
    links: u32,
    /// Directories only: subdirectories, for the link count.
    subdirs: u32,
}

/// A directory tree.
#[derive(Debug, Clone)]
pub struct Tree {
    slots: Vec<Option<Slot>>,
    live: usize,
}

impl Tree {
    /// The root directory.
    pub const ROOT: NodeId = NodeId(0);

    /// A tree with only a root.
    pub fn new(root_meta: Metadata) -> Self {
        let root = Slot {
            node: Node {
                meta: root_meta,
                kind: NodeKind::directory(),
            },
            links: 1,
            subdirs: 0,
        };
        Self {
            slots: vec![Some(root)],
            live: 1,
        }
    }

    /// Number of nodes, the root included (hard links count once).
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.live == 1
    }

    /// An upper bound of [`NodeId::index`], for side tables.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, id: NodeId) -> &Slot {
        let slot = self.slots.get(id.index()).and_then(Option::as_ref);
        slot.expect("node id of this tree, not removed")
    }

    fn slot_mut(&mut self, id: NodeId) -> &mut Slot {
        let slot = self.slots.get_mut(id.index()).and_then(Option::as_mut);
        slot.expect("node id of this tree, not removed")
    }

    /// A node.
    ///
    /// # Panics
    /// If `id` is of another tree or was removed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.slot(id).node
    }

    /// A node's metadata, to change.
    pub fn meta_mut(&mut self, id: NodeId) -> &mut Metadata {
        &mut self.slot_mut(id).node.meta
    }

    /// A regular file's content, to change; `None` if it is something else.
    pub fn file_mut(&mut self, id: NodeId) -> Option<&mut FileContent> {
        match &mut self.slot_mut(id).node.kind {
            NodeKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Marks a directory (not) opaque; false if it is not a directory.
    pub fn set_opaque(&mut self, id: NodeId, opaque: bool) -> bool {
        let directory = self.directory_mut(id);
        directory.map(|d| d.opaque = opaque).is_some()
    }

    /// Marks a directory (not) implicit; false if it is not a directory.
    pub fn set_implicit(&mut self, id: NodeId, implicit: bool) -> bool {
        let directory = self.directory_mut(id);
        directory.map(|d| d.implicit = implicit).is_some()
    }

    /// Renumbers the blobs that files refer to, each file once.
    pub fn map_blobs(&mut self, new: impl Fn(u16) -> u16) {
        for slot in self.slots.iter_mut().flatten() {
            let NodeKind::File(file) = &mut slot.node.kind else {
                continue;
            };
            match &mut file.data {
                FileData::Inline(_) => {}
                FileData::Extent(extent) => extent.blob = new(extent.blob),
                FileData::Sparse { segments, .. } if segments.is_empty() => {}
                FileData::Sparse { blob, .. } => *blob = new(*blob),
            }
        }
    }

    /// The node as a directory.
    pub fn directory(&self, id: NodeId) -> Option<&Directory> {
        match &self.node(id).kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> Option<&mut Directory> {
        match &mut self.slot_mut(id).node.kind {
            NodeKind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Link count as `stat` shows it: names, or 2 + subdirectories.
    pub fn nlink(&self, id: NodeId) -> u32 {
        let slot = self.slot(id);
        if slot.node.kind.is_directory() {
            slot.subdirs.saturating_add(2)
        } else {
            slot.links
        }
    }

    /// Adds a node below `parent`. A directory is inserted empty.
    pub fn insert(
        &mut self,
        parent: NodeId,
        name: EntryName,
        node: Node,
    ) -> Result<NodeId, TreeError> {
        if matches!(&node.kind, NodeKind::Directory(d) if !d.is_empty()) {
            return Err(TreeError::NotEmpty(name));
        }
        let id = u32::try_from(self.slots.len()).map_err(|_| TreeError::Full)?;
        let (id, is_directory) = (NodeId(id), node.kind.is_directory());
        self.add_name(parent, name, id)?;
        self.slot_mut(parent).subdirs += u32::from(is_directory);
        self.slots.push(Some(Slot {
            node,
            links: 1,
            subdirs: 0,
        }));
        self.live += 1;
        Ok(id)
    }

    /// Gives `existing` (not a directory) one more name: a hard link.
    pub fn link(
        &mut self,
        parent: NodeId,
        name: EntryName,
        existing: NodeId,
    ) -> Result<(), TreeError> {
        if self.node(existing).kind.is_directory() {
            return Err(TreeError::LinkToDirectory(name));
        }
        if self.slot(existing).links == u32::MAX {
            return Err(TreeError::Full);
        }
        self.add_name(parent, name, existing)?;
        self.slot_mut(existing).links += 1;
        Ok(())
    }

    fn add_name(&mut self, parent: NodeId, name: EntryName, id: NodeId) -> Result<(), TreeError> {
        let Some(directory) = self.directory_mut(parent) else {
            return Err(TreeError::NotADirectory(name));
        };
        match directory.entries.entry(name) {
            std::collections::btree_map::Entry::Occupied(taken) => {
                Err(TreeError::Exists(taken.key().clone()))
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(id);
                Ok(())
            }
        }
    }

    /// Removes a name; the node goes with its last name, a directory with
    /// everything below. Gives whether there was such a name.
    pub fn remove(&mut self, parent: NodeId, name: &[u8]) -> bool {
        let Some(id) = self
            .directory_mut(parent)
            .and_then(|d| d.entries.remove(name))
        else {
            return false;
        };
        if self.node(id).kind.is_directory() {
            self.slot_mut(parent).subdirs -= 1;
        }
        self.release(id);
        true
    }

    /// Drops one link of `id`, and the node with its last; not recursive, so
    /// that depth costs no stack.
    pub(crate) fn release(&mut self, id: NodeId) {
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            let slot = self.slot_mut(id);
            slot.links -= 1;
            if slot.links > 0 {
                continue;
            }
            let slot = self.slots[id.index()].take().expect("slot is live");
            self.live -= 1;
            if let NodeKind::Directory(directory) = slot.node.kind {
                pending.extend(directory.entries.into_values());
            }
        }
    }

    /// Holds `id` although its names may go, until [`Tree::release`].
    pub(crate) fn pin(&mut self, id: NodeId) {
        self.slot_mut(id).links += 1;
    }

    /// The entry `name` of a directory.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.directory(parent)?.entries.get(name).copied()
    }

    /// The node at `path`; empty components and `.` are skipped, `..` and
    /// symbolic links are not followed (gives `None`).
    pub fn resolve(&self, path: &[u8]) -> Option<NodeId> {
        path.split(|&b| b == b'/')
            .filter(|part| !part.is_empty() && part != b".")
            .try_fold(Self::ROOT, |at, part| self.lookup(at, part))
    }

    /// A directory's entries, sorted; nothing if it is not a directory.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = (&EntryName, NodeId)> + '_ {
        self.directory(id).into_iter().flat_map(Directory::entries)
    }

    /// Every name in the tree: `(path, node)`, a directory before its
    /// entries, entries in byte order. Paths have no leading `/`; the root's
    /// is empty. A node with several names comes once for each.
    pub fn walk(&self) -> Walk<'_> {
        Walk {
            tree: self,
            root_pending: true,
            path: Vec::new(),
            stack: Vec::new(),
        }
    }
}

type Entries<'a> = std::collections::btree_map::Iter<'a, EntryName, NodeId>;

/// Iterator of [`Tree::walk`].
pub struct Walk<'a> {
    tree: &'a Tree,
    root_pending: bool,
    path: Vec<u8>,
    /// Directories being listed, and the length of each one's path.
    stack: Vec<(Entries<'a>, usize)>,
}

impl Walk<'_> {
    fn descend(&mut self, id: NodeId) {
        if let Some(directory) = self.tree.directory(id) {
            self.stack.push((directory.entries.iter(), self.path.len()));
        }
    }

    /// As `next`, but lends the path instead of copying it.
    pub fn next_entry(&mut self) -> Option<(&[u8], NodeId)> {
        if std::mem::take(&mut self.root_pending) {
            self.descend(Tree::ROOT);
            return Some((&self.path, Tree::ROOT));
        }
        loop {
            let (entries, path_len) = self.stack.last_mut()?;
            self.path.truncate(*path_len);
            let Some((name, &id)) = entries.next() else {
                self.stack.pop();
                continue;
            };
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            self.descend(id);
            return Some((&self.path, id));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = (Vec<u8>, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().map(|(path, id)| (path.to_vec(), id))
    }
}

/// Same names, same nodes, same hard links; node ids may differ.
impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Node, b: &Node| {
            a.meta == b.meta
                && match (&a.kind, &b.kind) {
                    (NodeKind::Directory(a), NodeKind::Directory(b)) => {
                        (a.opaque, a.implicit, a.len()) == (b.opaque, b.implicit, b.len())
                    }
                    (a, b) => a == b,
                }
        };
        if self.len() != other.len() {
            return false;
        }
        let mut twin: Vec<Option<NodeId>> = vec![None; self.slots.len()];
        let (mut left, mut right) = (self.walk(), other.walk());
        loop {
            match (left.next_entry(), right.next_entry()) {
                (None, None) => return true,
                (Some((path_a, a)), Some((path_b, b))) => {
                    let known = twin[a.index()].replace(b);
                    let linked = known.is_none_or(|known| known == b);
                    if path_a != path_b || !linked || !same(self.node(a), other.node(b)) {
                        return false;
                    }
                }
                _ => return false,
            }
        }
    }
}

impl Eq for Tree {}

#[cfg(test)]
mod tests;
