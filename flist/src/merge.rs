//! Puts one layer over another, as kernel overlayfs shows it.
//!
//! On trees, before anything is encoded: no file is ever extracted. A name of
//! the upper layer hides the same name below, unless both are directories,
//! which merge; a whiteout hides and is itself not shown; an opaque directory
//! hides everything below it. Hard links of one layer stay hard links.

use std::collections::HashMap;

use crate::tree::{Metadata, Node, NodeId, NodeKind, Tree, TreeError};

/// Most symbolic links followed to find a hard link's target, as Linux.
const LINKS_MAX: u32 = 40;

/// Why layers do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// A hard link to something no layer below has.
    #[error("hard link to {target}, which no lower layer has")]
    DanglingLink {
        /// The path it names.
        target: String,
    },
    /// A hard link to a directory.
    #[error("hard link to {target}, which is a directory")]
    LinkToDirectory {
        /// The path it names.
        target: String,
    },
    /// The merged tree has too many nodes.
    #[error("the merged tree cannot be built")]
    Tree(#[source] TreeError),
}

/// `upper` over `lower`. The result has no whiteouts, opaque or implicit
/// directories and no links to other trees.
///
/// `lower` is such a result (or [`Tree::new`] for the lowest layer). Blob
/// numbers are taken as they are: see [`Tree::map_blobs`].
pub fn merge_layers(lower: Tree, upper: &Tree) -> Result<Tree, MergeError> {
    let mut merger = Merger {
        tree: lower,
        upper,
        twins: HashMap::new(),
    };
    let pinned = merger.find_link_targets()?;
    merger.merge()?;
    let mut tree = merger.tree;
    for id in pinned {
        tree.release(id);
    }
    Ok(tree)
}

/// All layers, lowest first.
pub fn merge_all<'a>(layers: impl IntoIterator<Item = &'a Tree>) -> Result<Tree, MergeError> {
    let empty = Tree::new(Metadata {
        perm: 0o755,
        ..Metadata::default()
    });
    layers.into_iter().try_fold(empty, merge_layers)
}

struct Merger<'a> {
    tree: Tree,
    upper: &'a Tree,
    /// Nodes of `upper` that have a place in `tree` and may get more names.
    twins: HashMap<NodeId, NodeId>,
}

impl Merger<'_> {
    /// Finds what the upper layer links to below, as it was before the upper
    /// layer hid anything, and keeps it alive.
    fn find_link_targets(&mut self) -> Result<Vec<NodeId>, MergeError> {
        let upper = self.upper;
        let mut pinned = Vec::new();
        let mut walk = upper.walk();
        while let Some((_, id)) = walk.next_entry() {
            let NodeKind::LinkTo(path) = &upper.node(id).kind else {
                continue;
            };
            let target = || path.escape_ascii().to_string();
            let found = find(&self.tree, path);
            let found = found.ok_or_else(|| MergeError::DanglingLink { target: target() })?;
            if self.tree.node(found).kind.is_directory() {
                return Err(MergeError::LinkToDirectory { target: target() });
            }
            self.tree.pin(found);
            pinned.push(found);
            self.twins.insert(id, found);
        }
        Ok(pinned)
    }

    fn merge(&mut self) -> Result<(), MergeError> {
        let upper = self.upper;
        let mut pending = vec![(Tree::ROOT, Tree::ROOT)];
        while let Some((below, above)) = pending.pop() {
            self.merge_directory(below, above);
            for (name, id) in upper.children(above) {
                let known = self.tree.lookup(below, name.as_bytes());
                match &upper.node(id).kind {
                    NodeKind::Whiteout => {
                        self.tree.remove(below, name.as_bytes());
                    }
                    NodeKind::Directory(_) => {
                        let child = match known {
                            Some(child) if self.tree.node(child).kind.is_directory() => child,
                            _ => self.replace(below, name, id)?,
                        };
                        pending.push((child, id));
                    }
                    _ => {
                        self.replace(below, name, id)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn merge_directory(&mut self, below: NodeId, above: NodeId) {
        let Some(directory) = self.upper.directory(above) else {
            return;
        };
        if !directory.implicit {
            *self.tree.meta_mut(below) = self.upper.node(above).meta.clone();
        }
        if directory.opaque {
            let names: Vec<_> = self.tree.children(below).map(|(n, _)| n.clone()).collect();
            for name in names {
                self.tree.remove(below, name.as_bytes());
            }
        }
    }

    /// Puts the upper node in the place of whatever had its name; a directory
    /// comes without entries.
    fn replace(
        &mut self,
        parent: NodeId,
        name: &crate::EntryName,
        id: NodeId,
    ) -> Result<NodeId, MergeError> {
        self.tree.remove(parent, name.as_bytes());
        if let Some(&twin) = self.twins.get(&id) {
            let linked = self.tree.link(parent, name.clone(), twin);
            return linked.map(|()| twin).map_err(MergeError::Tree);
        }
        let node = self.upper.node(id);
        let node = Node {
            meta: node.meta.clone(),
            kind: match &node.kind {
                NodeKind::Directory(_) => NodeKind::directory(),
                kind => kind.clone(),
            },
        };
        let linked = !node.kind.is_directory() && self.upper.nlink(id) > 1;
        let twin = self.tree.insert(parent, name.clone(), node);
        let twin = twin.map_err(MergeError::Tree)?;
        if linked {
            self.twins.insert(id, twin);
        }
        Ok(twin)
    }
}

/// The node at `path`; links in parent directories are followed within the
/// tree (archives name paths as their writer saw them), the last is not.
fn find(tree: &Tree, path: &[u8]) -> Option<NodeId> {
    let mut at = vec![Tree::ROOT];
    let mut todo: Vec<&[u8]> = path.rsplit(|&b| b == b'/').collect();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        let here = *at.last()?;
        match part {
            b"" | b"." => {}
            b".." => at.truncate((at.len() - 1).max(1)),
            name => {
                let id = tree.lookup(here, name)?;
                let last = todo.iter().all(|rest| rest.is_empty());
                match &tree.node(id).kind {
                    NodeKind::Symlink(target) if !last => {
                        links += 1;
                        if links > LINKS_MAX {
                            return None;
                        }
                        if target.starts_with(b"/") {
                            at.truncate(1);
                        }
                        todo.extend(target.rsplit(|&b| b == b'/'));
                    }
                    _ => at.push(id),
                }
            }
        }
    }
    at.last().copied()
}

#[cfg(test)]
mod tests;
