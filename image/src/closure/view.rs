//! A tree as a starting program sees it: paths followed, files read in pieces.

use lamina_flist::{NodeId, NodeKind, Tree};

use crate::stack::resolve;

/// Reads file content: for a closure, a fraction of what an image holds.
pub trait ReadFile {
    /// Up to `len` bytes of `file` at `offset`; fewer only at its end. `None`
    /// if it cannot be read, which makes the closure shorter, not fail.
    fn read_at(&mut self, file: NodeId, offset: u64, len: usize) -> Option<Vec<u8>>;
}

/// A regular file with the path it really has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// Paths and contents, with a budget for bytes read.
pub(super) struct View<'a> {
    tree: &'a Tree,
    files: &'a mut dyn ReadFile,
    budget: u64,
}

impl<'a> View<'a> {
    pub(super) fn new(tree: &'a Tree, files: &'a mut dyn ReadFile, budget: u64) -> Self {
        Self {
            tree,
            files,
            budget,
        }
    }

    /// The real path of whatever is at `path`, links followed inside the root.
    fn real(&self, path: &str) -> Option<(Vec<Vec<u8>>, NodeId)> {
        let names: Vec<Vec<u8>> = path
            .split('/')
            .filter(|part| !part.is_empty() && *part != ".")
            .map(|part| part.as_bytes().to_vec())
            .collect();
        let names = resolve(self.tree, &names)?;
        let node = names
            .iter()
            .try_fold(Tree::ROOT, |at, name| self.tree.lookup(at, name))?;
        Some((names, node))
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

    /// The real path of the directory at `path`.
    pub(super) fn directory(&self, path: &str) -> Option<String> {
        let (names, node) = self.real(path)?;
        self.tree.directory(node)?;
        Some(format!("/{}", String::from_utf8(names.join(&b'/')).ok()?))
    }

    /// Names in the directory at `path`, sorted; those that are no text are
    /// left out.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Some((_, node)) = self.real(path) else {
            return Vec::new();
        };
        self.tree
            .children(node)
            .filter_map(|(name, _)| String::from_utf8(name.as_bytes().to_vec()).ok())
            .collect()
    }

    /// Up to `len` bytes at `offset`, within the budget.
    pub(super) fn read_at(&mut self, file: NodeId, offset: u64, len: usize) -> Option<Vec<u8>> {
        self.budget = self.budget.checked_sub(len as u64)?;
        self.files.read_at(file, offset, len)
    }

    /// A whole text file of at most `max` bytes; other bytes become `U+FFFD`.
    pub(super) fn text(&mut self, file: &Found, max: u64) -> Option<String> {
        if file.size > max {
            return None;
        }
        let bytes = self.read_at(file.node, 0, file.size as usize)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}
