//! Which file of an image needs which others, directly.
//!
//! A program needs its loader and libraries, a script what runs it, a Python
//! module what it imports, an interpreter what it opens before any program.
//! Computed from the merged tree and what the layers' content showed when it
//! passed ([`Scans`]); never fails, only gets smaller; every part of it is
//! bounded, since all of its input comes from the image.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use lamina_flist::{FileContent, FileData, NodeId, NodeKind, Tree};
use serde_json::Value;

use super::elf::Elf;
use super::libraries::Libraries;
use super::modules::{Minor, Modules, Place, python_minor};
use super::pyscan;
use super::scan::{FileScan, Scans, scan_whole};
use super::start::{Start, env_target};
use super::view::{Found, View};

/// Files of a graph; as many as a flist's hints may have.
const FILES_MAX: usize = 1 << 20;
/// What one file needs.
const NEEDS_MAX: usize = 4096;
/// What all files need.
const NEEDS_TOTAL_MAX: usize = 6 << 20;
/// Bytes of import lists that are looked through, those of equal files each
/// time; a large image has a few MiB.
const LISTS_BYTES_MAX: usize = 256 << 20;
/// A file up to this size is taken whole; of a larger one what loading touches.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// Of larger files that nothing is known of.
const HEAD_BYTES: u64 = 2 << 20;

/// A file of the graph.
pub(super) struct GraphFile {
    pub(super) node: NodeId,
    /// What is read of it, in order.
    pub(super) parts: Vec<Range<u64>>,
    /// Indexes of files, in order of first use.
    pub(super) needs: Vec<u32>,
}

/// The graph of one tree.
pub struct Graph {
    pub(super) files: Vec<GraphFile>,
    /// Where the image's command starts, in order.
    pub(super) starts: Vec<u32>,
}

impl Graph {
    /// The graph of `tree`, whose files' content was scanned into `scans` (one
    /// per blob) or is in the tree; `config` is the image config.
    pub fn new(tree: &Tree, scans: &[Scans], config: &Value) -> Self {
        let view = View::new(tree);
        let start = Start::of(config);
        let libraries = Libraries::new(&view, start.variable("LD_LIBRARY_PATH"));
        let mut builder = Builder {
            modules: Modules::new(&view),
            view,
            libraries,
            start,
            scans,
            files: Vec::new(),
            index: HashMap::new(),
            needs_left: NEEDS_TOTAL_MAX,
            programs: HashMap::new(),
            startups: HashMap::new(),
            lists_left: Cell::new(LISTS_BYTES_MAX),
        };
        builder.add_module_roots();
        // A script needs what runs it before what it imports.
        builder.programs_and_libraries();
        builder.sources();
        let starts = super::command::starts(&mut builder);
        let starts = starts.into_iter().filter_map(|node| builder.id(node));
        Self {
            starts: starts.collect(),
            files: builder.files,
        }
    }
}

/// The graph under construction.
pub(super) struct Builder<'a> {
    pub(super) view: View<'a>,
    pub(super) modules: Modules<'a>,
    pub(super) start: Start,
    libraries: Libraries,
    scans: &'a [Scans],
    files: Vec<GraphFile>,
    index: HashMap<NodeId, u32>,
    needs_left: usize,
    /// Interpreters of scripts, by first line.
    programs: HashMap<String, Vec<NodeId>>,
    /// What interpreters open first, by version.
    startups: HashMap<Minor, Vec<NodeId>>,
    lists_left: Cell<usize>,
}

impl<'a> Builder<'a> {
    fn content(&self, node: NodeId) -> Option<&FileContent> {
        match &self.view.tree().node(node).kind {
            NodeKind::File(content) => Some(content),
            _ => None,
        }
    }

    /// What the content of a file says.
    pub(super) fn scan(&self, node: NodeId, name: &str) -> Option<Cow<'a, FileScan>> {
        match &self.content(node)?.data {
            FileData::Inline(bytes) => scan_whole(name.as_bytes(), bytes).map(Cow::Owned),
            FileData::Extent(extent) => {
                let scans = self.scans.get(usize::from(extent.blob))?;
                scans.get(extent.offset).map(Cow::Borrowed)
            }
            FileData::Sparse { .. } => None,
        }
    }

    /// A file's index; it gets one now if it has none.
    fn id(&mut self, node: NodeId) -> Option<u32> {
        if let Some(id) = self.index.get(&node) {
            return Some(*id);
        }
        let size = self.content(node)?.size;
        let id = u32::try_from(self.files.len()).ok()?;
        if self.files.len() >= FILES_MAX {
            return None;
        }
        let end = if size <= WHOLE_BYTES_MAX {
            size
        } else {
            HEAD_BYTES
        };
        self.files.push(GraphFile {
            node,
            parts: Vec::from([Range { start: 0, end }]),
            needs: Vec::new(),
        });
        self.index.insert(node, id);
        Some(id)
    }

    /// Adds what a file needs behind what it is known to need.
    fn need(&mut self, node: NodeId, needs: impl IntoIterator<Item = NodeId>) {
        let Some(id) = self.id(node) else { return };
        let mut known = std::mem::take(&mut self.files[id as usize].needs);
        let mut seen: HashSet<u32> = known.iter().copied().chain([id]).collect();
        for node in needs {
            if known.len() >= NEEDS_MAX || self.needs_left == 0 {
                break;
            }
            if let Some(need) = self.id(node).filter(|need| seen.insert(*need)) {
                known.push(need);
                self.needs_left -= 1;
            }
        }
        self.files[id as usize].needs = known;
    }

    // --- Python ---

    fn add_module_roots(&mut self) {
        let view = &self.view;
        let listed = self.start.variable("PYTHONPATH").split(':');
        let before = listed.filter(|path| !path.is_empty());
        let before = before.filter_map(|path| view.directory(path)).collect();
        let mut after = Vec::new();
        for (_, path, _) in self.modules.sites() {
            for (_, text) in pth_files(view, path) {
                let lines = text.lines().map(str::trim);
                let is_path =
                    |l: &&str| !l.is_empty() && !l.starts_with('#') && !l.starts_with("import");
                let paths = lines.filter(is_path);
                after.extend(paths.filter_map(|line| match line.strip_prefix('/') {
                    Some(_) => view.directory(line),
                    None => view.directory(&format!("{path}/{line}")),
                }));
            }
        }
        after.extend(
            view.directory(self.start.directory())
                .filter(|d| *d != Tree::ROOT),
        );
        self.modules.add_roots(before, after);
    }

    fn sources(&mut self) {
        for source in self.modules.sources() {
            let Some(scan) = self.scan(source.file, ".py") else {
                continue;
            };
            let list = scan.imports.as_deref().unwrap_or_default();
            let needs = self.imports(&source.place, list);
            // A program is opened itself, with or without bytecode beside it.
            if source.file != source.opened && source.place.own_root.is_some() {
                self.need(source.file, needs.iter().copied());
            }
            if !needs.is_empty() {
                self.need(source.opened, needs);
            }
        }
    }

    /// The files that a list of imports opens.
    pub(super) fn imports(&self, place: &Place, list: &str) -> Vec<NodeId> {
        let mut out = Vec::new();
        for import in pyscan::list(self.paid(list)) {
            if out.len() >= NEEDS_MAX || (import.main_only && !place.may_be_main) {
                continue;
            }
            let chain = match import.level {
                0 => self.modules.import(place, import.module),
                level => self.modules.import_relative(place, level, import.module),
            };
            out.extend(chain.iter().filter_map(|module| module.opened));
            let depth = import.module.split('.').filter(|part| !part.is_empty());
            let depth = depth.count() + usize::from(import.level > 0);
            let Some(last) = chain.last().filter(|_| chain.len() == depth) else {
                continue;
            };
            let named = import.names();
            let found = |name| self.modules.submodule(*last, name, place);
            let submodules = named.filter_map(found);
            out.extend(submodules.filter_map(|module| module.opened));
        }
        out
    }

    /// A list, as long as the budget for lists lasts.
    fn paid<'l>(&self, list: &'l str) -> &'l str {
        let left = self.lists_left.get().checked_sub(list.len());
        self.lists_left.set(left.unwrap_or(0));
        left.map_or("", |_| list)
    }

    /// The modules among the names in an extension.
    fn compiled_imports(&self, place: &Place, list: &str) -> Vec<NodeId> {
        let mut out = Vec::new();
        for import in pyscan::list(self.paid(list)) {
            let chain = self.modules.import(place, import.module);
            if chain.len() == import.module.split('.').count() {
                out.extend(chain.iter().filter_map(|module| module.opened));
            }
        }
        out.truncate(NEEDS_MAX);
        out
    }

    /// What an interpreter of version 3.`minor` opens before any program.
    fn startup(&mut self, minor: Minor) -> Vec<NodeId> {
        if let Some(known) = self.startups.get(&minor) {
            return known.clone();
        }
        let place = interpreter_place(minor);
        let mut out = Vec::new();
        for name in super::python::startup(minor) {
            let chain = self.modules.import(&place, name);
            out.extend(chain.iter().filter_map(|module| module.opened));
        }
        let sites = self.modules.sites();
        let sites = sites.filter(|site| site.2.is_none_or(|m| m == minor));
        let sites: Vec<String> = sites.map(|site| site.1.to_owned()).collect();
        let files = sites.iter().flat_map(|path| pth_files(&self.view, path));
        for (file, text) in files.collect::<Vec<_>>() {
            out.push(file);
            let lines = text.lines().filter(|line| line.starts_with("import "));
            let list: String = lines.map(|line| pyscan::scan(line.as_bytes())).collect();
            let needs = self.imports(&place, &list);
            self.need(file, needs);
        }
        self.startups.insert(minor, out.clone());
        out
    }

    // --- ELF files and scripts ---

    fn programs_and_libraries(&mut self) {
        let mut todo = vec![(Tree::ROOT, String::new())];
        while let Some((directory, path)) = todo.pop() {
            let tree = self.view.tree();
            for (name, node) in tree.children(directory) {
                let Ok(name) = std::str::from_utf8(name.as_bytes()) else {
                    continue;
                };
                let path = format!("{path}/{name}");
                match &tree.node(node).kind {
                    NodeKind::Directory(_) => todo.push((node, path)),
                    NodeKind::File(content) => {
                        let file = Found {
                            node,
                            path,
                            size: content.size,
                            executable: tree.node(node).meta.perm & 0o111 != 0,
                        };
                        self.program_or_library(&file, name, directory);
                    }
                    _ => {}
                }
            }
        }
    }

    fn program_or_library(&mut self, file: &Found, name: &str, directory: NodeId) {
        let Some(scan) = self.scan(file.node, name) else {
            return;
        };
        if let Some(elf) = &scan.elf {
            let names = scan.imports.as_deref();
            let modules = names.map(|names| {
                let place = self.modules.place(directory);
                self.compiled_imports(&place, names)
            });
            self.elf(file, name, elf, modules.unwrap_or_default());
        } else if let Some(line) = scan.shebang.as_deref().filter(|_| file.executable) {
            let mut needs = self.interpreters(line);
            if let Some(list) = scan.imports.as_deref().filter(|_| !has_suffix(name, "py")) {
                let mut place = self.modules.place(directory);
                place.may_be_main = true;
                needs.extend(self.imports(&place, list));
            }
            self.need(file.node, needs);
        }
    }

    fn elf(&mut self, file: &Found, name: &str, elf: &Elf, modules: Vec<NodeId>) {
        let mut needs = Vec::new();
        if let Some(interpreter) = &elf.interpreter {
            needs.extend(self.view.file(interpreter));
            needs.extend(self.view.file("/etc/ld.so.cache"));
        }
        for library in &elf.needed {
            if self.view.is_exhausted() {
                break;
            }
            needs.extend(self.libraries.find(&self.view, library, file, elf));
        }
        let mut needs: Vec<NodeId> = needs.into_iter().map(|found| found.node).collect();
        if file.executable
            && let Some(minor) = self.interpreter_minor(name, &file.path)
        {
            needs.extend(self.startup(minor));
        }
        needs.extend(modules);
        self.need(file.node, needs);
        if file.size > WHOLE_BYTES_MAX
            && let Some(id) = self.id(file.node)
        {
            let parts = elf.loaded.iter();
            let parts = parts.map(|part| part.start..part.end.min(file.size));
            self.files[id as usize].parts = parts.filter(|p| p.start < p.end).collect();
        }
    }

    /// The version of a Python interpreter, from its name or from the library
    /// beside it.
    pub(super) fn interpreter_minor(&self, name: &str, path: &str) -> Option<Minor> {
        if let Some(minor) = python_minor(name) {
            return Some(minor);
        }
        if name != "python3" && name != "python" {
            return None;
        }
        let base = path.rsplit('/').nth(2).map(|_| parent(parent(path)))?;
        let names = self.view.names(&format!("{base}/lib"));
        names.iter().find_map(|name| python_minor(name))
    }

    /// The programs a script's first line names: the interpreter, and behind
    /// `env` the real one.
    fn interpreters(&mut self, line: &str) -> Vec<NodeId> {
        if let Some(known) = self.programs.get(line) {
            return known.clone();
        }
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut out = Vec::new();
        if let Some((word, rest)) = words.split_first()
            && let Some((called, interpreter)) = self.start.program(&self.view, word)
        {
            out.push(interpreter.node);
            if called.ends_with("/env")
                && let Some((target, _)) = env_target(rest)
            {
                let target = self.start.program(&self.view, target);
                out.extend(target.map(|(_, file)| file.node));
            }
        }
        self.programs.insert(line.to_owned(), out.clone());
        out
    }
}

/// Imports of the interpreter itself.
pub(super) fn interpreter_place(minor: Minor) -> Place {
    Place {
        minor: Some(minor),
        own_root: None,
        packages: Vec::new(),
        may_be_main: true,
    }
}

/// The `.pth` files of a site directory, with their text.
fn pth_files(view: &View<'_>, site: &str) -> Vec<(NodeId, String)> {
    let names = view.names(site);
    let names = names.iter().filter(|name| has_suffix(name, "pth"));
    let files = names.filter_map(|name| view.file(&format!("{site}/{name}")));
    let files = files.take(64);
    files
        .map(|file| (file.node, view.text(&file).unwrap_or_default()))
        .collect()
}

fn has_suffix(name: &str, suffix: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end == suffix)
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
