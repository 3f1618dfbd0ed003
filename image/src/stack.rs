//! Layers on top of each other: what a layer leaves to the layers below.
//!
//! Merging itself is [`lamina_flist::merge_layers`] (kernel overlayfs). Before
//! it, an *implicit* directory of a layer that would cover a symbolic link
//! below gives its entries to where the link points, inside the root: what
//! containerd does when it extracts `lib/x` over `lib -> usr/lib`. Always:
//! nothing that an entry described is changed.

use std::collections::VecDeque;

use lamina_flist::{EntryName, MergeError, Node, NodeId, NodeKind, Tree, TreeError, merge_layers};

use crate::layer::implicit_metadata;

/// Links followed for one path, as in the kernel.
const LINKS_MAX: usize = 40;
/// Components visited for one path.
pub(crate) const STEPS_MAX: usize = 8192;
/// Moves can uncover further links; each round settles at least one level.
const ROUNDS_MAX: usize = 64;

/// Why layers cannot be stacked.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The merge refused.
    #[error("merge layer {layer}")]
    Merge {
        /// Which, from 0.
        layer: usize,
        /// Why.
        source: MergeError,
    },
    /// The tree refused a move.
    #[error("merge layer {layer}")]
    Tree {
        /// Which, from 0.
        layer: usize,
        /// Why.
        source: TreeError,
    },
}

/// Merges layer trees, lowest first.
///
/// # Errors
/// When a layer links to a file no lower layer has.
pub fn stack_layers(layers: impl IntoIterator<Item = Tree>) -> Result<Tree, StackError> {
    let mut merged = Tree::new(implicit_metadata());
    for (layer, mut upper) in layers.into_iter().enumerate() {
        settle(&merged, &mut upper).map_err(|source| StackError::Tree { layer, source })?;
        merged =
            merge_layers(merged, &upper).map_err(|source| StackError::Merge { layer, source })?;
    }
    Ok(merged)
}

/// An implicit directory over a symbolic link.
struct Graft {
    parent: NodeId,
    name: Vec<u8>,
    directory: NodeId,
    /// Path of the link in the lower tree.
    path: Vec<Vec<u8>>,
}

fn settle(lower: &Tree, upper: &mut Tree) -> Result<(), TreeError> {
    for _ in 0..ROUNDS_MAX {
        let grafts = find_grafts(lower, upper);
        if grafts.is_empty() {
            break;
        }
        for graft in grafts {
            if !move_entries(lower, upper, &graft)? {
                // It stays a directory of its own.
                upper.set_implicit(graft.directory, false);
            }
        }
    }
    Ok(())
}

fn find_grafts(lower: &Tree, upper: &Tree) -> Vec<Graft> {
    let mut grafts = Vec::new();
    let mut todo = vec![(Tree::ROOT, Tree::ROOT, Vec::<Vec<u8>>::new())];
    while let Some((up, low, path)) = todo.pop() {
        for (name, id) in upper.children(up) {
            let Some(directory) = upper.directory(id).filter(|d| !d.opaque) else {
                continue;
            };
            let Some(below) = lower.lookup(low, name.as_bytes()) else {
                continue;
            };
            let mut path = path.clone();
            path.push(name.as_bytes().to_vec());
            match &lower.node(below).kind {
                NodeKind::Directory(_) => todo.push((id, below, path)),
                NodeKind::Symlink(_) if directory.implicit => {
                    let name = name.as_bytes().to_vec();
                    grafts.push(Graft {
                        parent: up,
                        name,
                        directory: id,
                        path,
                    });
                }
                _ => {}
            }
        }
    }
    grafts
}

/// Moves a graft's entries to where the link points; false if that is no
/// place for entries.
fn move_entries(lower: &Tree, upper: &mut Tree, graft: &Graft) -> Result<bool, TreeError> {
    let Some(target) = resolve(lower, &graft.path) else {
        return Ok(false);
    };
    let below = target
        .iter()
        .try_fold(Tree::ROOT, |at, name| lower.lookup(at, name));
    let blocked = below.is_some_and(|id| lower.directory(id).is_none());
    if blocked || target.starts_with(&graft.path) {
        return Ok(false);
    }
    let mut at = Tree::ROOT;
    for name in &target {
        at = match upper.lookup(at, name) {
            Some(id) if upper.directory(id).is_some() => id,
            Some(_) => return Ok(false),
            None => {
                let Ok(name) = EntryName::new(name.as_slice()) else {
                    return Ok(false);
                };
                let node = Node {
                    meta: implicit_metadata(),
                    kind: NodeKind::directory(),
                };
                let id = upper.insert(at, name, node)?;
                upper.set_implicit(id, true);
                id
            }
        };
    }
    let mut todo = vec![(graft.directory, at)];
    while let Some((from, to)) = todo.pop() {
        let entries: Vec<(EntryName, NodeId)> = upper
            .children(from)
            .map(|(name, id)| (name.clone(), id))
            .collect();
        for (name, id) in entries {
            todo.extend(move_entry(upper, id, to, name)?);
        }
    }
    upper.remove(graft.parent, &graft.name);
    Ok(true)
}

/// Moves one entry; of a directory, gives where its entries go. What is at the
/// target already was named there, and stays.
fn move_entry(
    upper: &mut Tree,
    id: NodeId,
    to: NodeId,
    name: EntryName,
) -> Result<Option<(NodeId, NodeId)>, TreeError> {
    let existing = upper.lookup(to, name.as_bytes());
    let Some(directory) = upper.directory(id) else {
        if existing.is_none() {
            upper.link(to, name, id)?;
        }
        return Ok(None);
    };
    let (opaque, implicit) = (directory.opaque, directory.implicit);
    if let Some(there) = existing {
        return Ok(upper.directory(there).is_some().then_some((id, there)));
    }
    let meta = upper.node(id).meta.clone();
    let new = upper.insert(
        to,
        name,
        Node {
            meta,
            kind: NodeKind::directory(),
        },
    )?;
    upper.set_opaque(new, opaque);
    upper.set_implicit(new, implicit);
    Ok(Some((id, new)))
}

fn split(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> + '_ {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".")
        .map(<[u8]>::to_vec)
}

/// The path without symbolic links, confined to the root; what does not exist
/// stays as written. `None` for loops and for `..` out of what is missing.
pub(crate) fn resolve(tree: &Tree, path: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
    resolve_within(tree, path, &mut { STEPS_MAX })
}

/// As [`resolve`]; each name looked at is taken from `steps`.
pub(crate) fn resolve_within(
    tree: &Tree,
    path: &[Vec<u8>],
    steps: &mut usize,
) -> Option<Vec<Vec<u8>>> {
    let mut todo: VecDeque<Vec<u8>> = path.iter().cloned().collect();
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut stack: Vec<Option<NodeId>> = vec![Some(Tree::ROOT)];
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        *steps = steps.checked_sub(1)?;
        let at = *stack.last()?;
        if name == b".." {
            at?;
            if stack.len() > 1 {
                stack.pop();
                names.pop();
            }
            continue;
        }
        let next = at.and_then(|at| tree.lookup(at, &name));
        if let Some(NodeKind::Symlink(target)) = next.map(|id| &tree.node(id).kind) {
            links += 1;
            if links > LINKS_MAX {
                return None;
            }
            if target.starts_with(b"/") {
                stack.truncate(1);
                names.clear();
            }
            for part in split(target).rev() {
                todo.push_front(part);
            }
            continue;
        }
        names.push(name);
        stack.push(next);
    }
    Some(names)
}
