//! A tree as a starting program sees it: paths followed, short files read.

use std::cell::Cell;

use lamina_flist::{FileData, NodeId, NodeKind, Tree};

use crate::stack::{STEPS_MAX, resolve_within};

/// Names looked at in all look-ups, which take some seconds. A start that
/// imports 2,000 modules, each sought in 60 places of 8 names, looks at a
/// million; long names and links can ask for any number.
const LOOKUP_STEPS_MAX: usize = 16 << 20;

/// A regular file with the path it really has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// Paths of a tree, with a budget for names looked at.
pub(super) struct View<'a> {
    tree: &'a Tree,
    steps: Cell<usize>,
}

impl<'a> View<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self {
            tree,
            steps: Cell::new(LOOKUP_STEPS_MAX),
        }
    }

    /// The tree.
    pub(super) fn tree(&self) -> &'a Tree {
        self.tree
    }

    /// The real path of whatever is at `path`, links followed inside the root.
    fn real(&self, path: &str) -> Option<(Vec<Vec<u8>>, NodeId)> {
        let allowed = self.steps.get().min(STEPS_MAX);
        if allowed == 0 {
            return None;
        }
        let names: Vec<Vec<u8>> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .map(|part| part.as_bytes().to_vec())
            .collect();
        let mut left = allowed;
        let names = resolve_within(self.tree, &names, &mut left);
        self.spend(allowed - left);
        let names = names?;
        let node = names
            .iter()
            .try_fold(Tree::ROOT, |at, name| self.tree.lookup(at, name))?;
        Some((names, node))
    }

    /// Whether nothing will be found any more.
    pub(super) fn is_exhausted(&self) -> bool {
        self.steps.get() == 0
    }

    fn spend(&self, steps: usize) {
        self.steps.set(self.steps.get().saturating_sub(steps));
    }

    /// The regular file at `path`.
    pub(super) fn file(&self, path: &str) -> Option<Found> {
        let (names, node) = self.real(path)?;
        let NodeKind::File(content) = &self.tree.node(node).kind else {
            return None;
        };
        Some(Found {
            node,
            path: format!("/{}", String::from_utf8(names.join(&b'/')).ok()?),
            size: content.size,
            executable: self.tree.node(node).meta.perm & 0o111 != 0,
        })
    }

    /// The directory at `path`.
    pub(super) fn directory(&self, path: &str) -> Option<NodeId> {
        let (_, node) = self.real(path)?;
        self.tree.directory(node)?;
        Some(node)
    }

    /// Names in the directory at `path`, sorted; those that are no text are
    /// left out.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Some((_, node)) = self.real(path) else {
            return Vec::new();
        };
        let names: Vec<String> = self
            .tree
            .children(node)
            .take(self.steps.get())
            .filter_map(|(name, _)| String::from_utf8(name.as_bytes().to_vec()).ok())
            .collect();
        self.spend(names.len());
        names
    }

    /// The text of a file that is in the tree itself: configuration is short.
    pub(super) fn text(&self, file: &Found) -> Option<String> {
        let NodeKind::File(content) = &self.tree.node(file.node).kind else {
            return None;
        };
        match &content.data {
            FileData::Inline(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lamina_flist::{EntryName, Metadata, Node};

    use super::*;

    #[test]
    fn look_ups_end_when_their_budget_does() {
        let mut tree = Tree::new(Metadata::default());
        let name = EntryName::try_from("a").unwrap();
        let node = Node {
            meta: Metadata::default(),
            kind: NodeKind::directory(),
        };
        tree.insert(Tree::ROOT, name, node).unwrap();
        let view = View::new(&tree);
        view.steps.set(5);
        assert!(view.directory("a/../a").is_some());
        assert_eq!(view.directory("a/../a"), None);
        assert_eq!(view.directory("a"), None);
        assert!(view.names("/").is_empty() && view.is_exhausted());
    }
}
