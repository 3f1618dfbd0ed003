//! Where a Python import finds its modules.
//!
//! A *root* is a directory of `sys.path`: the image's own, and for files
//! elsewhere the directory above their topmost package.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use lamina_flist::{NodeId, Tree};

use super::listing::{Listing, Minor, Root, RootKind, is_identifier};
use super::python::is_frozen;
use super::view::View;

/// Directories of one search path.
const ROOTS_MAX: usize = 64;
/// Packages in packages.
const DEPTH_MAX: usize = 64;
/// Names looked up in all searches; a large image looks up a million.
const LOOKUPS_MAX: usize = 16 << 20;

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

type Chain = Rc<[Module]>;

/// The modules of a tree.
pub(super) struct Modules<'a> {
    tree: &'a Tree,
    listing: Listing,
    /// In front of and behind the image's own roots.
    before: Vec<NodeId>,
    after: Vec<NodeId>,
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
        Self {
            tree: view.tree(),
            listing: Listing::new(view),
            before: Vec::new(),
            after: Vec::new(),
            searches: RefCell::default(),
            lookups: Cell::new(LOOKUPS_MAX),
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
        let sites = self
            .listing
            .roots
            .iter()
            .filter(|r| r.kind == RootKind::Site);
        sites.map(|r| (r.directory, r.path.as_str(), r.minor))
    }

    /// Every source of the tree, in the order of directories.
    pub(super) fn sources(&self) -> Vec<Source> {
        let mut out = Vec::new();
        for directory in &self.listing.directories {
            let Some(slots) = self.listing.slots.get(directory) else {
                continue;
            };
            let place = self.place(*directory);
            for (stem, slot) in slots {
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
        let mut known = self.listing.root_of(at);
        while known.is_none() && packages.len() < DEPTH_MAX && self.listing.has(at, "__init__") {
            let Some((parent, _)) = self.listing.parents.get(&at) else {
                break;
            };
            at = *parent;
            packages.push(at);
            known = self.listing.root_of(at);
        }
        // A package without `__init__` below a root of the image.
        if known.is_none() {
            let mut above = at;
            let mut more = Vec::new();
            while let Some((parent, name)) = self.listing.parents.get(&above) {
                if !is_identifier(name) || known.is_some() || more.len() >= DEPTH_MAX {
                    break;
                }
                above = *parent;
                more.push(above);
                known = self.listing.root_of(above);
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

    /// The version meant where none is said: that of the first library.
    fn minor(&self, minor: Option<Minor>) -> Option<Minor> {
        let libraries = self
            .listing
            .roots
            .iter()
            .filter(|r| r.kind == RootKind::Library);
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
        let parent = self
            .listing
            .parents
            .get(&directory)
            .map(|(_, parent)| parent);
        parent.is_some_and(|parent| parent == "importlib")
            && minor.is_some_and(|minor| is_frozen(minor, &format!("importlib.{name}")))
    }

    fn package(&self, directory: NodeId, minor: Option<Minor>) -> Module {
        let init = self
            .listing
            .slots
            .get(&directory)
            .and_then(|s| s.get("__init__"));
        Module {
            opened: init.and_then(|slot| slot.opened(minor)),
            directory: Some(directory),
        }
    }

    /// Directories in `sys.path` order.
    fn search_path(&self, minor: Option<Minor>) -> Vec<NodeId> {
        let fits = |root: &&Root| root.minor.is_none() || root.minor == minor;
        let before = self.before.iter().copied();
        let image = self
            .listing
            .roots
            .iter()
            .filter(fits)
            .map(|root| root.directory);
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
        if let Some(sub) = sub.filter(|id| self.listing.has(*id, "__init__")) {
            return Some(self.package(sub, minor));
        }
        let slot = self.listing.slots.get(&directory).and_then(|s| s.get(name));
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

/// Takes the files of frozen modules out.
fn leave_out_frozen(chain: &mut [Module], name: &str, minor: Option<Minor>) {
    let dots = name.match_indices('.').map(|(at, _)| at);
    for (module, end) in chain.iter_mut().zip(dots.chain([name.len()])) {
        if minor.is_some_and(|minor| is_frozen(minor, &name[..end])) {
            module.opened = None;
        }
    }
}
