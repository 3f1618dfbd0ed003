//! The Python modules of a tree: which files make up each, and where an
//! import finds them.
//!
//! One walk over the tree notes every source, bytecode file and extension by
//! its directory and name. A *root* is a directory of `sys.path`: the image's
//! own (`lib/python3.X`, `lib-dynload`, `site-packages`, `dist-packages`), and
//! for files elsewhere the directory above their topmost package. Of a module
//! with a current `.pyc` only that is opened; extensions come before sources.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use lamina_flist::{NodeId, NodeKind, Tree};

use super::python::is_frozen;
use super::view::View;

/// Directories of one search path.
const ROOTS_MAX: usize = 64;
/// Roots of an image; each environment has three.
const IMAGE_ROOTS_MAX: usize = 256;
/// Packages in packages.
const DEPTH_MAX: usize = 64;
/// Names looked up in all searches; a large image looks up a million.
const LOOKUPS_MAX: usize = 16 << 20;

/// `3.X`
pub(super) type Minor = u8;

/// The files of one module in one directory.
#[derive(Debug, Default)]
struct Slot {
    source: Option<NodeId>,
    /// Bytecode; without a version, beside where the source would be.
    compiled: Vec<(Option<Minor>, NodeId)>,
    /// Without a version: for any.
    extensions: Vec<(Option<Minor>, NodeId)>,
}

/// A module that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Module {
    /// What the interpreter opens; nothing for a directory without `__init__`.
    pub(super) opened: Option<NodeId>,
    /// A package's directory.
    pub(super) directory: Option<NodeId>,
}

/// A source with what is opened in its stead.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) file: NodeId,
    pub(super) opened: NodeId,
    pub(super) place: Place,
}

/// Where a source is, which decides what its imports mean.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) minor: Option<Minor>,
    /// Its own root, if that is none of the image's.
    pub(super) own_root: Option<NodeId>,
    /// Directories from its root down to its own, for relative imports.
    pub(super) packages: Vec<NodeId>,
    /// Whether it may be run as a program.
    pub(super) may_be_main: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum RootKind {
    Library,
    Extensions,
    Site,
}

#[derive(Debug, Clone)]
struct Root {
    kind: RootKind,
    minor: Option<Minor>,
    directory: NodeId,
    path: String,
}

type Chain = Rc<[Module]>;

/// The modules of a tree.
pub(super) struct Modules<'a> {
    tree: &'a Tree,
    slots: HashMap<NodeId, BTreeMap<String, Slot>>,
    roots: Vec<Root>,
    /// In front of and behind the image's own roots.
    before: Vec<NodeId>,
    after: Vec<NodeId>,
    /// Directories from the root of the tree down, of those with modules.
    parents: HashMap<NodeId, (NodeId, String)>,
    searches: RefCell<HashMap<Option<Minor>, Search>>,
    lookups: Cell<usize>,
}

#[derive(Default)]
struct Search {
    roots: Vec<NodeId>,
    found: HashMap<String, Chain>,
}

impl<'a> Modules<'a> {
    pub(super) fn new(view: &View<'a>) -> Self {
        let mut modules = Self {
            tree: view.tree(),
            slots: HashMap::new(),
            roots: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            parents: HashMap::new(),
            searches: RefCell::default(),
            lookups: Cell::new(LOOKUPS_MAX),
        };
        modules.walk(view);
        modules
    }

    fn walk(&mut self, view: &View<'_>) {
        let mut todo = vec![(Tree::ROOT, String::new())];
        while let Some((directory, path)) = todo.pop() {
            if let Some(root) = root(directory, &path) {
                self.roots.push(root);
            }
            for (name, id) in self.tree.children(directory) {
                let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
                    continue;
                };
                let full = || format!("{path}/{name}");
                match &self.tree.node(id).kind {
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

    /// Adds directories of `PYTHONPATH` (in front) and what else may be one.
    pub(super) fn add_roots(&mut self, before: Vec<NodeId>, after: Vec<NodeId>) {
        self.before = before;
        self.after = after;
        self.before.truncate(ROOTS_MAX);
        self.after.truncate(ROOTS_MAX);
    }

    /// Site directories, with their paths.
    pub(super) fn sites(&self) -> impl Iterator<Item = (NodeId, &str, Option<Minor>)> {
        let sites = self.roots.iter().filter(|r| r.kind == RootKind::Site);
        sites.map(|r| (r.directory, r.path.as_str(), r.minor))
    }

    /// Every source of the tree, in the order of directories.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut directories: Vec<&NodeId> = self.slots.keys().collect();
        directories.sort();
        let mut out = Vec::new();
        for directory in directories {
            let place = self.place(*directory);
            for (stem, slot) in &self.slots[directory] {
                let Some(file) = slot.source else { continue };
                let opened = slot.opened(self.minor(place.minor)).unwrap_or(file);
                let mut place = place.clone();
                place.may_be_main = place.own_root.is_some() || stem == "__main__";
                out.push(Source {
                    file,
                    opened,
                    place,
                });
            }
        }
        out
    }

    /// Where the sources of a directory are.
    pub(super) fn place(&self, directory: NodeId) -> Place {
        let mut packages = vec![directory];
        let mut at = directory;
        let mut known = self.root_of(at);
        while known.is_none() && packages.len() < DEPTH_MAX && self.has(at, "__init__") {
            let Some((parent, _)) = self.parents.get(&at) else {
                break;
            };
            at = *parent;
            packages.push(at);
            known = self.root_of(at);
        }
        // A package without `__init__` below a root of the image.
        if known.is_none() {
            let mut above = at;
            let mut more = Vec::new();
            while let Some((parent, name)) = self.parents.get(&above) {
                if !is_identifier(name) || known.is_some() || more.len() >= DEPTH_MAX {
                    break;
                }
                above = *parent;
                more.push(above);
                known = self.root_of(above);
            }
            if known.is_some() {
                packages.extend(more);
            }
        }
        packages.reverse();
        Place {
            minor: known.and_then(|root| root.minor),
            own_root: known.is_none().then_some(at),
            packages,
            may_be_main: false,
        }
    }

    fn root_of(&self, directory: NodeId) -> Option<&Root> {
        self.roots.iter().find(|root| root.directory == directory)
    }

    fn has(&self, directory: NodeId, stem: &str) -> bool {
        let slots = self.slots.get(&directory);
        slots.is_some_and(|slots| slots.contains_key(stem))
    }

    /// The version meant where none is said: that of the first library.
    fn minor(&self, minor: Option<Minor>) -> Option<Minor> {
        let libraries = self.roots.iter().filter(|r| r.kind == RootKind::Library);
        minor.or_else(|| libraries.filter_map(|root| root.minor).max())
    }

    /// The modules that importing `name` (`a.b.c`) executes: `a`, `a.b`,
    /// `a.b.c`, as far as they are there.
    pub(super) fn import(&self, place: &Place, name: &str) -> Chain {
        let minor = self.minor(place.minor);
        let Some(left) = self.lookups.get().checked_sub(1) else {
            return Rc::new([]);
        };
        self.lookups.set(left);
        let own = place.own_root.map(|own| self.search(&[own], name, minor));
        let own = own.unwrap_or_else(|| Rc::new([]));
        if own.iter().any(|module| module.opened.is_some()) {
            return own;
        }
        let mut searches = self.searches.borrow_mut();
        let search = searches.entry(minor).or_insert_with(|| Search {
            roots: self.search_path(minor),
            found: HashMap::new(),
        });
        let chain = if let Some(chain) = search.found.get(name) {
            Rc::clone(chain)
        } else {
            let chain = self.search(&search.roots, name, minor);
            search.found.insert(name.to_owned(), Rc::clone(&chain));
            chain
        };
        // A directory of that name without `__init__` comes last.
        if chain.is_empty() { own } else { chain }
    }

    /// Relative imports: `level` dots and then `name`, which may be empty.
    pub(super) fn import_relative(&self, place: &Place, level: usize, name: &str) -> Chain {
        let up = place.packages.len().checked_sub(level);
        let Some(package) = up.and_then(|at| place.packages.get(at)) else {
            return Rc::new([]);
        };
        let minor = self.minor(place.minor);
        let mut chain = vec![self.package(*package, minor)];
        if !name.is_empty() && !self.is_frozen_in(*package, name, minor) {
            self.follow(*package, name, minor, &mut chain);
        }
        chain.into()
    }

    /// The module `name` of a package.
    pub(super) fn submodule(&self, package: Module, name: &str, place: &Place) -> Option<Module> {
        let directory = package.directory?;
        let minor = self.minor(place.minor);
        let frozen = self.is_frozen_in(directory, name, minor);
        (!frozen).then(|| self.find(directory, name, minor))?
    }

    /// Whether a package's module is frozen; there is one such package.
    fn is_frozen_in(&self, directory: NodeId, name: &str, minor: Option<Minor>) -> bool {
        let parent = self.parents.get(&directory).map(|(_, parent)| parent);
        parent.is_some_and(|parent| parent == "importlib")
            && minor.is_some_and(|minor| is_frozen(minor, &format!("importlib.{name}")))
    }

    fn package(&self, directory: NodeId, minor: Option<Minor>) -> Module {
        let init = self.slots.get(&directory).and_then(|s| s.get("__init__"));
        Module {
            opened: init.and_then(|slot| slot.opened(minor)),
            directory: Some(directory),
        }
    }

    /// Directories in `sys.path` order.
    fn search_path(&self, minor: Option<Minor>) -> Vec<NodeId> {
        let fits = |root: &&Root| root.minor.is_none() || root.minor == minor;
        let before = self.before.iter().copied();
        let image = self.roots.iter().filter(fits).map(|root| root.directory);
        let mut out = Vec::new();
        for directory in before.chain(image).chain(self.after.iter().copied()) {
            if out.len() < ROOTS_MAX && !out.contains(&directory) {
                out.push(directory);
            }
        }
        out
    }

    fn search(&self, roots: &[NodeId], name: &str, minor: Option<Minor>) -> Chain {
        let mut plain = Vec::new();
        for root in roots {
            let mut chain = Vec::new();
            let whole = self.follow(*root, name, minor, &mut chain);
            let is_regular = chain.first().is_some_and(|m| m.opened.is_some());
            let is_module = chain.last().is_some_and(|m| m.opened.is_some());
            if is_regular || (whole && is_module) {
                leave_out_frozen(&mut chain, name, minor);
                return chain.into();
            }
            if whole && plain.is_empty() {
                plain = chain;
            }
        }
        plain.into()
    }

    /// Goes down from a directory; whether it got to the end.
    fn follow(
        &self,
        directory: NodeId,
        name: &str,
        minor: Option<Minor>,
        chain: &mut Vec<Module>,
    ) -> bool {
        let mut at = Some(directory);
        for part in name.split('.') {
            let found = at.and_then(|directory| self.find(directory, part, minor));
            let Some(module) = found else { return false };
            chain.push(module);
            at = module.directory;
        }
        true
    }

    fn find(&self, directory: NodeId, name: &str, minor: Option<Minor>) -> Option<Module> {
        self.lookups.set(self.lookups.get().checked_sub(1)?);
        let sub = self.tree.lookup(directory, name.as_bytes());
        let sub = sub.filter(|id| self.tree.directory(*id).is_some());
        if let Some(sub) = sub.filter(|id| self.has(*id, "__init__")) {
            return Some(self.package(sub, minor));
        }
        let slot = self.slots.get(&directory).and_then(|s| s.get(name));
        if let Some(opened) = slot.and_then(|slot| slot.opened(minor)) {
            return Some(Module {
                opened: Some(opened),
                directory: None,
            });
        }
        sub.map(|directory| Module {
            opened: None,
            directory: Some(directory),
        })
    }
}

impl Slot {
    /// What an interpreter of this version opens.
    fn opened(&self, minor: Option<Minor>) -> Option<NodeId> {
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

/// Takes the files of frozen modules out.
fn leave_out_frozen(chain: &mut [Module], name: &str, minor: Option<Minor>) {
    let dots = name.match_indices('.').map(|(at, _)| at);
    for (module, end) in chain.iter_mut().zip(dots.chain([name.len()])) {
        if minor.is_some_and(|minor| is_frozen(minor, &name[..end])) {
            module.opened = None;
        }
    }
}

fn has_suffix(name: &str) -> bool {
    let suffix = name.rsplit_once('.').map(|(_, suffix)| suffix);
    matches!(suffix, Some("py" | "so" | "pyc"))
}

fn is_identifier(name: &str) -> bool {
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
