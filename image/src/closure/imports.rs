//! The part of the graph that follows Python's imports.

use lamina_flist::{NodeId, Tree};

use super::graph::{Builder, NEEDS_MAX, has_suffix};
use super::listing::Minor;
use super::modules::Place;
use super::pyscan;
use super::view::View;

impl Builder<'_> {
    /// Tells the modules what else is in `sys.path`: `PYTHONPATH`, the lines
    /// of `.pth` files, the working directory.
    pub(super) fn add_module_roots(&mut self) {
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

    /// Adds every Python source of the tree.
    pub(super) fn sources(&mut self) {
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
    pub(super) fn compiled_imports(&self, place: &Place, list: &str) -> Vec<NodeId> {
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
    pub(super) fn startup(&mut self, minor: Minor) -> Vec<NodeId> {
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
