//! Paths inside a layer's tree, symbolic links followed but never out of it.
//!
//! containerd's rule: an entry `link/x` lands where `link` points, with `..`
//! and absolute targets confined to the root. What the layer does not contain
//! yet is created as an *implicit* directory: only a place to hang entries on,
//! whose metadata and even kind the layers below decide.

use std::collections::VecDeque;

use lamina_flist::{EntryName, Metadata, Node, NodeId, NodeKind, Tree};

use super::LayerError;
use crate::limits::TarLimits;
use crate::tar::EntryPath;

/// Components one entry may visit; bounds what nested links can cost.
const STEPS_MAX: usize = 8192;

/// A directory reached, with the length of its path.
#[derive(Clone, Copy)]
struct Step {
    node: NodeId,
    path_len: usize,
}

/// A walk from the root.
pub(super) struct Resolver<'a> {
    pub(super) tree: &'a mut Tree,
    pub(super) limits: &'a TarLimits,
    pub(super) path: &'a EntryPath,
}

/// Where a hard link's target is.
pub(super) enum Target {
    /// In this layer.
    Here(NodeId),
    /// Not in this layer; below, it has this path.
    Below(Vec<u8>),
    /// Neither here nor visible below.
    Nowhere,
}

/// Metadata of a directory no entry describes.
pub(crate) fn implicit_metadata() -> Metadata {
    Metadata {
        perm: 0o755,
        ..Metadata::default()
    }
}

impl Resolver<'_> {
    /// The directory for an entry at `components`; creates what is missing.
    pub(super) fn make_directory(&mut self, components: &[u8]) -> Result<NodeId, LayerError> {
        let (mut stack, mut todo) = start(components);
        let mut budget = Budget::new(self.limits);
        while let Some(name) = todo.pop_front() {
            budget.step(self.path)?;
            let at = *stack.last().expect("the root stays");
            if name == b".." {
                pop(&mut stack);
                continue;
            }
            let next = match self.tree.lookup(at.node, &name) {
                None => self.implicit_directory(at.node, &name, false)?,
                Some(id) => match &self.tree.node(id).kind {
                    NodeKind::Directory(_) => id,
                    NodeKind::Symlink(target) => {
                        budget.follow(self.path)?;
                        follow(target, &mut stack, &mut todo);
                        continue;
                    }
                    NodeKind::Whiteout => {
                        self.tree.remove(at.node, &name);
                        self.implicit_directory(at.node, &name, true)?
                    }
                    _ => return Err(self.not_a_directory(&name)),
                },
            };
            self.push(&mut stack, next, &name)?;
        }
        Ok(stack.last().expect("the root stays").node)
    }

    /// Finds `target`; its last component is not followed.
    pub(super) fn find(&self, target: &EntryPath) -> Result<Target, LayerError> {
        let Some((parent, base)) = target.split_last() else {
            return Ok(Target::Here(Tree::ROOT));
        };
        let (mut stack, mut todo) = start(parent);
        let mut names: Vec<Vec<u8>> = Vec::new();
        // The nearest directory of this layer, and whether it hides what is below.
        let mut below = false;
        let mut hidden = self.is_opaque(Tree::ROOT);
        let mut budget = Budget::new(self.limits);
        while let Some(name) = todo.pop_front() {
            budget.step(self.path)?;
            if name == b".." {
                if below {
                    return Ok(Target::Nowhere);
                }
                pop(&mut stack);
                names.pop();
                continue;
            }
            let at = stack.last().expect("the root stays").node;
            let found = if below {
                None
            } else {
                self.tree.lookup(at, &name)
            };
            match found.map(|id| (id, &self.tree.node(id).kind)) {
                None => below = true,
                Some((id, NodeKind::Directory(directory))) => {
                    hidden |= directory.opaque;
                    self.push(&mut stack, id, &name)?;
                }
                Some((_, NodeKind::Symlink(to))) => {
                    budget.follow(self.path)?;
                    if to.starts_with(b"/") {
                        names.clear();
                    }
                    follow(to, &mut stack, &mut todo);
                    continue;
                }
                Some(_) => return Ok(Target::Nowhere),
            }
            names.push(name);
        }
        let at = stack.last().expect("the root stays").node;
        match if below {
            None
        } else {
            self.tree.lookup(at, base)
        } {
            Some(id) if matches!(self.tree.node(id).kind, NodeKind::Whiteout) => {
                Ok(Target::Nowhere)
            }
            Some(id) => Ok(Target::Here(id)),
            None if hidden => Ok(Target::Nowhere),
            None => {
                names.push(base.to_vec());
                Ok(Target::Below(names.join(&b'/')))
            }
        }
    }

    fn is_opaque(&self, id: NodeId) -> bool {
        self.tree.directory(id).is_some_and(|d| d.opaque)
    }

    fn implicit_directory(
        &mut self,
        parent: NodeId,
        name: &[u8],
        opaque: bool,
    ) -> Result<NodeId, LayerError> {
        if name.starts_with(b".wh.") {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(LayerError::WhiteoutAsFile {
                path: self.path.clone(),
                name,
            });
        }
        if self.tree.len() as u64 >= self.limits.entries_max {
            return Err(LayerError::TooManyNodes {
                max: self.limits.entries_max,
            });
        }
        let too_long = |_| LayerError::PathTooLong {
            path: self.path.clone(),
        };
        let name = EntryName::new(name).map_err(too_long)?;
        let node = Node {
            meta: implicit_metadata(),
            kind: NodeKind::directory(),
        };
        let id = self
            .tree
            .insert(parent, name, node)
            .map_err(|source| LayerError::Tree {
                path: self.path.clone(),
                source,
            })?;
        self.tree.set_opaque(id, opaque);
        self.tree.set_implicit(id, true);
        Ok(id)
    }

    fn push(&self, stack: &mut Vec<Step>, node: NodeId, name: &[u8]) -> Result<(), LayerError> {
        let path_len = stack.last().expect("the root stays").path_len + name.len() + 1;
        if path_len > self.limits.path_bytes_max || stack.len() > self.limits.depth_max {
            return Err(LayerError::PathTooLong {
                path: self.path.clone(),
            });
        }
        stack.push(Step { node, path_len });
        Ok(())
    }

    fn not_a_directory(&self, name: &[u8]) -> LayerError {
        LayerError::NotADirectory {
            path: self.path.clone(),
            at: String::from_utf8_lossy(name).into_owned(),
        }
    }
}

fn start(components: &[u8]) -> (Vec<Step>, VecDeque<Vec<u8>>) {
    (
        vec![Step {
            node: Tree::ROOT,
            path_len: 0,
        }],
        split(components).collect(),
    )
}

fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
}

/// `..` of the root is the root.
fn pop(stack: &mut Vec<Step>) {
    if stack.len() > 1 {
        stack.pop();
    }
}

fn follow(target: &[u8], stack: &mut Vec<Step>, todo: &mut VecDeque<Vec<u8>>) {
    if target.starts_with(b"/") {
        stack.truncate(1);
    }
    for component in split(target).rev() {
        todo.push_front(component);
    }
}

/// What one path may cost.
struct Budget {
    links: usize,
    steps: usize,
}

impl Budget {
    fn new(limits: &TarLimits) -> Self {
        Self {
            links: limits.symlinks_followed_max,
            steps: STEPS_MAX,
        }
    }

    fn step(&mut self, path: &EntryPath) -> Result<(), LayerError> {
        spend(&mut self.steps, path)
    }

    fn follow(&mut self, path: &EntryPath) -> Result<(), LayerError> {
        spend(&mut self.links, path)
    }
}

fn spend(left: &mut usize, path: &EntryPath) -> Result<(), LayerError> {
    match left.checked_sub(1) {
        Some(n) => *left = n,
        None => return Err(LayerError::SymlinkLoop { path: path.clone() }),
    }
    Ok(())
}
