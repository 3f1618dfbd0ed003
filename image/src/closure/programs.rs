//! The part of the graph that follows the ELF loader and first lines of scripts.

use lamina_flist::{NodeId, NodeKind, Tree};

use super::elf::Elf;
use super::graph::{Builder, WHOLE_BYTES_MAX, has_suffix, parent};
use super::listing::{Minor, python_minor};
use super::start::env_target;
use super::view::Found;

impl Builder<'_> {
    /// Adds every ELF file and script of the tree.
    pub(super) fn programs_and_libraries(&mut self) {
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
