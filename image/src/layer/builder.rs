//! Tar entries, one after the other -> the layer's tree.
//!
//! Order counts as when containerd extracts: a later entry replaces an earlier
//! one of the same name, a directory over a directory only changes its
//! metadata. Whiteouts follow the OCI text instead: they hide what lies in
//! lower layers, never what this layer brings. Always: a directory that took
//! the place of anything else is opaque, since that thing hid the lower one.

use lamina_flist::{
    Device, EntryName, FileContent, FileData, Metadata, Node, NodeId, NodeKind, Tree,
};

use super::resolve::{Resolver, Target, implicit_metadata};
use super::{LayerError, LayerStats, Note, NoteKind};
use crate::limits::TarLimits;
use crate::tar::{Entry, EntryKind, EntryPath};

/// Notes kept; a hostile layer could have millions.
const NOTES_MAX: usize = 100;

/// The layer under construction.
pub(super) struct LayerBuilder {
    pub(super) tree: Tree,
    pub(super) stats: LayerStats,
    limits: TarLimits,
}

impl LayerBuilder {
    pub(super) fn new(limits: TarLimits) -> Self {
        let mut tree = Tree::new(implicit_metadata());
        tree.set_implicit(Tree::ROOT, true);
        Self {
            tree,
            stats: LayerStats::default(),
            limits,
        }
    }

    /// Adds an entry; gives the node whose content follows in the stream.
    pub(super) fn apply(&mut self, mut entry: Entry) -> Result<Option<NodeId>, LayerError> {
        self.stats.entries += 1;
        self.filter_xattrs(&mut entry);
        let Some((parent, base)) = entry.path.split_last() else {
            return self.root(&entry);
        };
        let parent = Resolver {
            tree: &mut self.tree,
            limits: &self.limits,
            path: &entry.path,
        }
        .make_directory(parent)?;
        if let Some(hidden) = base.strip_prefix(b".wh.") {
            self.whiteout(parent, hidden, &entry.path)?;
            return Ok(None);
        }
        let name = EntryName::new(base).expect("a component of a parsed path is a name");
        match &entry.kind {
            EntryKind::CharDevice { major: 0, minor: 0 } => {
                self.note(&entry.path, NoteKind::DeviceWhiteout);
                self.tree.remove(parent, base);
                self.insert(parent, name, &entry, NodeKind::Whiteout)
                    .map(|_| None)
            }
            EntryKind::Directory => self.directory(parent, name, &entry).map(|()| None),
            EntryKind::HardLink(target) => {
                self.hard_link(parent, name, &entry, target).map(|()| None)
            }
            _ => {
                self.tree.remove(parent, base);
                let kind = node_kind(&entry.kind);
                let is_file = matches!(kind, NodeKind::File(_));
                let id = self.insert(parent, name, &entry, kind)?;
                Ok(is_file.then_some(id))
            }
        }
    }

    fn root(&mut self, entry: &Entry) -> Result<Option<NodeId>, LayerError> {
        if entry.kind != EntryKind::Directory {
            return Err(LayerError::RootNotADirectory);
        }
        *self.tree.meta_mut(Tree::ROOT) = metadata(entry);
        self.tree.set_implicit(Tree::ROOT, false);
        Ok(None)
    }

    fn directory(
        &mut self,
        parent: NodeId,
        name: EntryName,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let existing = self.tree.lookup(parent, name.as_bytes());
        if let Some(id) = existing.filter(|id| self.tree.node(*id).kind.is_directory()) {
            *self.tree.meta_mut(id) = metadata(entry);
            self.tree.set_implicit(id, false);
            return Ok(());
        }
        self.tree.remove(parent, name.as_bytes());
        let id = self.insert(parent, name, entry, NodeKind::directory())?;
        self.tree.set_opaque(id, existing.is_some());
        Ok(())
    }

    fn hard_link(
        &mut self,
        parent: NodeId,
        name: EntryName,
        entry: &Entry,
        target: &EntryPath,
    ) -> Result<(), LayerError> {
        let dangling = || LayerError::DanglingHardLink {
            path: entry.path.clone(),
            target: target.clone(),
        };
        if let Some(bad) = target.components().find(|c| c.starts_with(b".wh.")) {
            let name = String::from_utf8_lossy(bad).into_owned();
            return Err(LayerError::WhiteoutAsFile {
                path: entry.path.clone(),
                name,
            });
        }
        let find = |this: &mut Self| {
            Resolver {
                tree: &mut this.tree,
                limits: &this.limits,
                path: &entry.path,
            }
            .find(target)
        };
        let replaced = self.tree.lookup(parent, name.as_bytes());
        if let (Some(old), Target::Here(id)) = (replaced, find(self)?)
            && old == id
        {
            // Already a name of that file; the file itself would vanish otherwise.
            return if target == &entry.path {
                Err(dangling())
            } else {
                Ok(())
            };
        }
        self.tree.remove(parent, name.as_bytes());
        let path = &entry.path;
        match find(self)? {
            Target::Here(id) if self.tree.node(id).kind.is_directory() => {
                Err(LayerError::HardLinkToDirectory {
                    path: path.clone(),
                    target: target.clone(),
                })
            }
            Target::Here(id) => {
                self.tree
                    .link(parent, name, id)
                    .map_err(|source| LayerError::Tree {
                        path: path.clone(),
                        source,
                    })?;
                self.refresh(id, entry);
                Ok(())
            }
            // The place the link itself takes cannot be its target.
            Target::Below(below) if below == path.as_bytes() => Err(dangling()),
            Target::Below(below) => self
                .insert(parent, name, entry, NodeKind::LinkTo(below))
                .map(|_| ()),
            Target::Nowhere => Err(dangling()),
        }
    }

    /// As containerd does, a link's header sets owner, mode and time of the
    /// file it names (they agree unless somebody forged them).
    fn refresh(&mut self, id: NodeId, entry: &Entry) {
        if matches!(self.tree.node(id).kind, NodeKind::Symlink(_)) {
            return;
        }
        let meta = self.tree.meta_mut(id);
        (meta.perm, meta.uid, meta.gid, meta.mtime) =
            (entry.perm, entry.uid, entry.gid, entry.mtime);
    }

    fn whiteout(
        &mut self,
        parent: NodeId,
        hidden: &[u8],
        path: &EntryPath,
    ) -> Result<(), LayerError> {
        if hidden == b".wh..opq" {
            self.tree.set_opaque(parent, true);
            return Ok(());
        }
        if hidden.starts_with(b".wh.") {
            self.note(path, NoteKind::AufsFileDropped);
            return Ok(());
        }
        let name =
            EntryName::new(hidden).map_err(|_| LayerError::BadWhiteout { path: path.clone() })?;
        if let Some(id) = self.tree.lookup(parent, hidden) {
            // What this layer brings stays; a directory no longer merges.
            self.tree.set_opaque(id, true);
        } else {
            let node = Node {
                meta: Metadata::default(),
                kind: NodeKind::Whiteout,
            };
            self.add(parent, name, node, path)?;
        }
        Ok(())
    }

    fn insert(
        &mut self,
        parent: NodeId,
        name: EntryName,
        entry: &Entry,
        kind: NodeKind,
    ) -> Result<NodeId, LayerError> {
        let meta = match kind {
            NodeKind::Whiteout => Metadata::default(),
            _ => metadata(entry),
        };
        self.add(parent, name, Node { meta, kind }, &entry.path)
    }

    fn add(
        &mut self,
        parent: NodeId,
        name: EntryName,
        node: Node,
        path: &EntryPath,
    ) -> Result<NodeId, LayerError> {
        if self.tree.len() as u64 >= self.limits.entries_max {
            return Err(LayerError::TooManyNodes {
                max: self.limits.entries_max,
            });
        }
        self.tree
            .insert(parent, name, node)
            .map_err(|source| LayerError::Tree {
                path: path.clone(),
                source,
            })
    }

    fn filter_xattrs(&mut self, entry: &mut Entry) {
        let mut notes = Vec::new();
        entry.xattrs.retain(|name, _| {
            let verdict = judge_xattr(name);
            notes.extend(verdict.map(|to_note| to_note(String::from_utf8_lossy(name).into())));
            verdict.is_none()
        });
        for note in notes {
            self.note(&entry.path, note);
        }
    }

    fn note(&mut self, path: &EntryPath, what: NoteKind) {
        self.stats.notes_total += 1;
        if self.stats.notes.len() < NOTES_MAX {
            self.stats.notes.push(Note {
                path: path.to_string(),
                what,
            });
        }
    }
}

/// Why an xattr is dropped, or `None` to keep it.
fn judge_xattr(name: &[u8]) -> Option<fn(String) -> NoteKind> {
    // The last one marks our own layer files.
    let overlay: [&[u8]; 3] = [b"trusted.overlay.", b"user.overlay.", b"trusted.lamina."];
    if overlay.iter().any(|p| name.starts_with(p)) {
        return Some(NoteKind::OverlayXattrDropped);
    }
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let known = spaces
        .iter()
        .any(|p| name.len() > p.len() && name.starts_with(p))
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default";
    (!known).then_some(NoteKind::ForeignXattrDropped)
}

fn metadata(entry: &Entry) -> Metadata {
    // A symbolic link's mode is always this on Linux.
    let perm = if matches!(entry.kind, EntryKind::Symlink(_)) {
        0o777
    } else {
        entry.perm
    };
    Metadata {
        perm,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
    }
}

fn node_kind(kind: &EntryKind) -> NodeKind {
    match kind {
        EntryKind::File { size, .. } => {
            // The content is filled in when it has been read.
            NodeKind::File(FileContent {
                size: *size,
                data: FileData::Inline(Vec::new()),
            })
        }
        EntryKind::Symlink(target) => NodeKind::Symlink(target.clone()),
        EntryKind::CharDevice { major, minor } => NodeKind::CharDevice(Device {
            major: *major,
            minor: *minor,
        }),
        EntryKind::BlockDevice { major, minor } => NodeKind::BlockDevice(Device {
            major: *major,
            minor: *minor,
        }),
        EntryKind::Fifo => NodeKind::Fifo,
        EntryKind::Directory => NodeKind::directory(),
        EntryKind::HardLink(target) => NodeKind::LinkTo(target.as_bytes().to_vec()),
    }
}
