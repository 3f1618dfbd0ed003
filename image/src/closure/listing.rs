//! The files of a tree that make up Python modules.
//!
//! One walk notes every source, bytecode file and extension by its directory
//! and name, and the image's roots: `lib/python3.X`, `lib-dynload`,
//! `site-packages`, `dist-packages`. Of a module with a current `.pyc` only
//! that is opened; extensions come before sources.

use std::collections::{BTreeMap, HashMap};

use lamina_flist::{NodeId, NodeKind, Tree};

use super::view::View;

/// Roots of an image; each environment has three.
const IMAGE_ROOTS_MAX: usize = 256;

/// `3.X`
pub(super) type Minor = u8;

/// The files of one module in one directory.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) source: Option<NodeId>,
    /// Bytecode; without a version, beside where the source would be.
    pub(super) compiled: Vec<(Option<Minor>, NodeId)>,
    /// Without a version: for any.
    pub(super) extensions: Vec<(Option<Minor>, NodeId)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RootKind {
    Library,
    Extensions,
    Site,
}

#[derive(Debug, Clone)]
pub(super) struct Root {
    pub(super) kind: RootKind,
    pub(super) minor: Option<Minor>,
    pub(super) directory: NodeId,
    pub(super) path: String,
}

/// What the walk found.
#[derive(Default)]
pub(super) struct Listing {
    /// By directory and name without suffix.
    pub(super) slots: HashMap<NodeId, BTreeMap<String, Slot>>,
    /// All directories, in the order of the walk.
    pub(super) directories: Vec<NodeId>,
    /// In the order they are looked through.
    pub(super) roots: Vec<Root>,
    /// Every directory's parent, and its name there.
    pub(super) parents: HashMap<NodeId, (NodeId, String)>,
}

impl Listing {
    pub(super) fn new(view: &View<'_>) -> Self {
        let mut listing = Self::default();
        listing.walk(view);
        listing
    }

    fn walk(&mut self, view: &View<'_>) {
        let tree = view.tree();
        let mut todo = vec![(Tree::ROOT, String::new())];
        while let Some((directory, path)) = todo.pop() {
            self.directories.push(directory);
            if let Some(root) = root(directory, &path) {
                self.roots.push(root);
            }
            for (name, id) in tree.children(directory) {
                let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
                    continue;
                };
                let full = || format!("{path}/{name}");
                match &tree.node(id).kind {
                    NodeKind::Directory(_) => {
                        self.parents.insert(id, (directory, name.to_owned()));
                        todo.push((id, full()));
                    }
                    NodeKind::File(_) => self.note(directory, name, id),
                    NodeKind::Symlink(_) if has_suffix(name) => {
                        if let Some(found) = view.file(&full()) {
                            self.note(directory, name, found.node);
                        }
                    }
                    _ => {}
                }
            }
        }
        self.roots
            .sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
        self.roots.truncate(IMAGE_ROOTS_MAX);
    }

    /// Notes a file that belongs to a module.
    fn note(&mut self, directory: NodeId, name: &str, id: NodeId) {
        let Some((stem, suffix)) = name.rsplit_once('.') else {
            return;
        };
        let mut slot = |directory, stem: &str, put: &mut dyn FnMut(&mut Slot)| {
            let in_directory = self.slots.entry(directory).or_default();
            put(in_directory.entry(stem.to_owned()).or_default());
        };
        match suffix {
            "py" => slot(directory, stem, &mut |slot| slot.source = Some(id)),
            "so" => {
                // `base.cpython-311-x86_64-linux-gnu.so`, `base.abi3.so`, `base.so`
                let (base, tag) = stem.split_once('.').unwrap_or((stem, ""));
                let minor = tag.strip_prefix("cpython-3").map(|rest| {
                    let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
                });
                slot(directory, base, &mut |slot| {
                    slot.extensions.push((minor, id));
                });
            }
            "pyc" => {
                let parent = self.parents.get(&directory);
                let cache = parent
                    .filter(|(_, name)| name == "__pycache__")
                    .map(|p| p.0);
                let tagged = stem.rsplit_once(".cpython-3");
                match (cache, tagged) {
                    (Some(parent), Some((base, minor))) => {
                        // Not `.opt-1`.
                        let Ok(minor) = minor.parse() else { return };
                        slot(parent, base, &mut |slot| {
                            slot.compiled.push((Some(minor), id));
                        });
                    }
                    (None, _) => slot(directory, stem, &mut |slot| slot.compiled.push((None, id))),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// The root that a directory is.
    pub(super) fn root_of(&self, directory: NodeId) -> Option<&Root> {
        self.roots.iter().find(|root| root.directory == directory)
    }

    /// Whether a directory has a module of that name.
    pub(super) fn has(&self, directory: NodeId, stem: &str) -> bool {
        let slots = self.slots.get(&directory);
        slots.is_some_and(|slots| slots.contains_key(stem))
    }
}

impl Slot {
    /// What an interpreter of this version opens.
    pub(super) fn opened(&self, minor: Option<Minor>) -> Option<NodeId> {
        let pick = |files: &[(Option<Minor>, NodeId)]| {
            let fits = |file: &&(Option<Minor>, NodeId)| file.0.is_none() || file.0 == minor;
            let mut fitting = files.iter().filter(|f| minor.is_none() || fits(f));
            fitting.next_back().map(|file| file.1)
        };
        let cached = pick(&self.compiled).filter(|_| self.source.is_some());
        pick(&self.extensions)
            .or(cached)
            .or(self.source)
            .or_else(|| pick(&self.compiled))
    }
}

fn has_suffix(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    matches!(suffix, Some("py" | "so" | "pyc"))
}

pub(super) fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_alphanumeric() || c == '_')
}

/// Whether a directory is one of `sys.path`.
fn root(directory: NodeId, path: &str) -> Option<Root> {
    let mut parts = path.rsplit('/');
    let name = parts.next()?;
    let kind = match name {
        "site-packages" | "dist-packages" => RootKind::Site,
        "lib-dynload" => RootKind::Extensions,
        _ => {
            python_minor(name).filter(|_| parts.next() == Some("lib"))?;
            RootKind::Library
        }
    };
    Some(Root {
        kind,
        minor: path.rsplit('/').find_map(python_minor),
        directory,
        path: path.to_owned(),
    })
}

/// The 11 of `python3.11`.
pub(super) fn python_minor(name: &str) -> Option<Minor> {
    let minor = name.strip_prefix("python3.")?;
    minor.parse().ok().filter(|_| !minor.starts_with('+'))
}
