//! The files a container will open first, from the image alone.
//!
//! Follows what starting the image's command does: PATH look-up, shebangs,
//! the ELF loader, and for Python the import graph. The result is a guess in
//! likely order of first use, good enough to fetch ahead; it never fails, it
//! only gets shorter, and every part of it is bounded, since all of its input
//! comes from the image.

mod elf;
mod libraries;
mod profile;
mod pyscan;
mod python;
mod view;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;

use lamina_flist::{NodeId, Tree};
use serde_json::Value;

use libraries::{Libraries, inherited_by};
pub use profile::{StaticProfileError, static_profile};
use python::{Module, Python, parent, source_text};
pub use view::ReadFile;
use view::{Found, View};

/// Files of a closure.
const FILES_MAX: usize = 20_000;
/// Bytes read to find them.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Imports that wait for those before them.
const PENDING_MAX: usize = 100_000;
/// Scripts that start scripts.
const SHEBANGS_MAX: usize = 8;
/// Words of the command that are looked up as programs.
const WORDS_MAX: usize = 16;
/// A file up to this size is taken whole; of a larger one what loading touches.
const WHOLE_BYTES_MAX: u64 = 24 << 20;
/// Of larger files: headers and symbols are in front.
const HEAD_BYTES: u64 = 2 << 20;

/// A file, or a part of one, that a start reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The file.
    pub node: NodeId,
    /// Its real path.
    pub path: String,
    /// The bytes.
    pub range: Range<u64>,
}

/// What a start of an image reads, in likely order.
///
/// `config` is the image config; `files` reads content.
pub fn closure(tree: &Tree, config: &Value, files: &mut dyn ReadFile) -> Vec<Needed> {
    let mut view = View::new(tree, files, READ_BYTES_MAX);
    let start = Start::of(config);
    let libraries = Libraries::new(&mut view, start.variable("LD_LIBRARY_PATH"));
    let mut closure = Closure {
        view,
        libraries,
        start,
        out: Vec::new(),
        taken: HashSet::new(),
        modules: HashSet::new(),
    };
    closure.command();
    closure.out
}

/// The parts of an image config that decide what runs.
struct Start {
    command: Vec<String>,
    environment: Vec<String>,
    directory: String,
}

impl Start {
    fn of(config: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            let words = config["config"][key].as_array().into_iter().flatten();
            words.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let directory = config["config"]["WorkingDir"].as_str().unwrap_or_default();
        Self {
            command: [list("Entrypoint"), list("Cmd")].concat(),
            environment: list("Env"),
            directory: directory.to_owned(),
        }
    }

    fn variable(&self, name: &str) -> &str {
        let value = |v: &'_ String| v.strip_prefix(name)?.strip_prefix('=').map(str::len);
        let found = self.environment.iter().find_map(|v| Some((v, value(v)?)));
        found.map_or("", |(v, len)| &v[v.len() - len..])
    }

    fn path(&self) -> &str {
        match self.variable("PATH") {
            "" => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            path => path,
        }
    }

    /// A word of the command as a path.
    fn absolute(&self, word: &str) -> String {
        if word.starts_with('/') {
            word.to_owned()
        } else {
            format!("{}/{word}", self.directory)
        }
    }
}

struct Closure<'a> {
    view: View<'a>,
    libraries: Libraries,
    start: Start,
    out: Vec<Needed>,
    taken: HashSet<NodeId>,
    modules: HashSet<String>,
}

impl Closure<'_> {
    fn command(&mut self) {
        let mut words = self.start.command.clone();
        // `sh -c "exec a b"`: the words inside count too.
        if let Some(at) = words.iter().position(|w| w == "-c")
            && let Some(script) = words.get(at + 1).cloned()
            && words.first().is_some_and(|w| w.ends_with("sh"))
        {
            let inside = script.split(|c: char| c.is_whitespace() || "'\"();&|".contains(c));
            let inside: Vec<String> = inside
                .filter(|w| !w.is_empty())
                .map(str::to_owned)
                .collect();
            words.splice(at..at + 2, inside);
        }
        // `env`, `tini --`, `entrypoint.sh` run what follows them.
        for at in 0..words.len().min(WORDS_MAX) {
            let word = &words[at];
            if at > 0 && (word.starts_with('-') || word.contains('=')) {
                continue;
            }
            if let Some((called, program)) = self.program(word) {
                self.run(&called, program, &words[at + 1..], 0);
            }
        }
    }

    /// Looks a program up as the shell does: path as called, and the file.
    fn program(&self, word: &str) -> Option<(String, Found)> {
        let candidates: Vec<String> = if word.contains('/') {
            vec![self.start.absolute(word)]
        } else {
            self.start
                .path()
                .split(':')
                .map(|dir| format!("{dir}/{word}"))
                .collect()
        };
        candidates.into_iter().find_map(|path| {
            let file = self.view.file(&path).filter(|f| f.executable)?;
            Some((path, file))
        })
    }

    fn run(&mut self, called: &str, program: Found, arguments: &[String], depth: usize) {
        if depth > SHEBANGS_MAX {
            return;
        }
        let head = self
            .view
            .read_at(program.node, 0, 256.min(program.size as usize));
        let Some(head) = head else { return };
        if let Some(line) = head.strip_prefix(b"#!") {
            self.take(&program);
            let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            let mut words = line.split_whitespace().map(str::to_owned);
            let Some(interpreter) = words.next() else {
                return;
            };
            let rest: Vec<String> = words
                .chain([called.to_owned()])
                .chain(arguments.iter().cloned())
                .collect();
            if let Some((called, interpreter)) = self.program(&interpreter) {
                let is_env = interpreter.path.ends_with("/env") || called.ends_with("/env");
                self.run(&called, interpreter, &rest, depth + 1);
                if is_env && let Some((called, program)) = self.env_target(&rest) {
                    let after = rest.iter().position(|w| called.ends_with(w.as_str()));
                    let after = after.map_or(&[][..], |at| &rest[at + 1..]);
                    self.run(&called, program, after, depth + 1);
                }
            }
            return;
        }
        let name = called.rsplit('/').next().unwrap_or_default();
        let is_python = name.starts_with("python");
        let real = program.path.clone();
        self.load(program);
        if is_python {
            self.python(called, &real, arguments);
        }
    }

    /// The program `env` runs: the first word that is no option or variable.
    fn env_target(&self, words: &[String]) -> Option<(String, Found)> {
        let word = words
            .iter()
            .find(|w| !w.starts_with('-') && !w.contains('='))?;
        self.program(word)
    }

    /// An ELF file with its interpreter and libraries, breadth first.
    fn load(&mut self, file: Found) {
        let mut todo = VecDeque::from([(file, Vec::new())]);
        while let Some((file, inherited)) = todo.pop_front() {
            if self.taken.contains(&file.node) {
                continue;
            }
            let view = &mut self.view;
            let Some(elf) = elf::parse(&mut |at, len| view.read_at(file.node, at, len)) else {
                self.take(&file);
                continue;
            };
            self.take_parts(&file, &elf.writable);
            if let Some(interpreter) = &elf.interpreter
                && let Some(found) = self.view.file(&String::from_utf8_lossy(interpreter))
            {
                self.take(&found);
                if let Some(cache) = self.view.file("/etc/ld.so.cache") {
                    self.take(&cache);
                }
            }
            let below = inherited_by(&file, &elf, &inherited);
            for name in &elf.needed {
                let name = String::from_utf8_lossy(name);
                let found = self
                    .libraries
                    .find(&self.view, &name, &file, &elf, &inherited);
                todo.extend(found.map(|f| (f, below.clone())));
            }
        }
    }

    fn python(&mut self, called: &str, interpreter: &str, arguments: &[String]) {
        let Some(mut python) = Python::new(&mut self.view, called, interpreter) else {
            return;
        };
        python.put_environment(self.start.variable("PYTHONPATH"));
        for name in python.startup() {
            self.import(&python, name);
        }
        for (file, imported) in python.read_pth(&mut self.view) {
            self.take(&file);
            for name in &imported {
                self.import(&python, name);
            }
        }
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-c" => {
                    let source = words.next().cloned().unwrap_or_default();
                    return self.follow(&python, "", false, &source, true);
                }
                "-m" => {
                    let name = words.next().cloned().unwrap_or_default();
                    self.import(&python, "runpy");
                    self.import(&python, &name);
                    return self.import_as_main(&python, &format!("{name}.__main__"));
                }
                "-W" | "-X" => drop(words.next()),
                option if option.starts_with('-') => {}
                script => {
                    let path = self.start.absolute(script);
                    let Some(file) = self.view.file(&path) else {
                        return;
                    };
                    python.put_first(parent(&file.path).to_owned());
                    self.take(&file);
                    let source = self.view.text(&file, 4 << 20).unwrap_or_default();
                    return self.follow(&python, "", false, &source, true);
                }
            }
        }
    }

    /// Imports `a.b.c`: `a`, then `a.b`, then `a.b.c`, each with its own
    /// imports first, as executing it would.
    fn import(&mut self, python: &Python, name: &str) {
        let mut todo = vec![name.to_owned()];
        // A stack of names, not recursion: import chains are long.
        while let Some(name) = todo.pop() {
            let ends = name
                .match_indices('.')
                .map(|(at, _)| at)
                .chain([name.len()]);
            for end in ends {
                let Some(module) = self.enter(python, &name[..end]) else {
                    continue;
                };
                let below = self.imports_of(python, &name[..end], &module, false);
                if todo.len() < PENDING_MAX {
                    todo.extend(below.into_iter().rev());
                }
            }
        }
    }

    fn import_as_main(&mut self, python: &Python, name: &str) {
        if let Some(module) = self.enter(python, name) {
            for name in self.imports_of(python, name, &module, true) {
                self.import(python, &name);
            }
        }
    }

    /// Takes a module's file, once.
    fn enter(&mut self, python: &Python, name: &str) -> Option<Module> {
        if self.modules.len() >= FILES_MAX || !self.modules.insert(name.to_owned()) {
            return None;
        }
        let module = python.find(&self.view, name)?;
        if module.is_extension {
            self.load(module.opened.clone());
        } else {
            self.take(&module.opened);
        }
        Some(module)
    }

    fn imports_of(
        &mut self,
        python: &Python,
        name: &str,
        module: &Module,
        is_main: bool,
    ) -> Vec<String> {
        let source = source_text(&mut self.view, module).unwrap_or_default();
        self.resolved(python, name, module.is_package, &source, is_main)
    }

    fn follow(&mut self, python: &Python, name: &str, package: bool, source: &str, main: bool) {
        for name in self.resolved(python, name, package, source, main) {
            self.import(python, &name);
        }
    }

    /// Absolute names of what a source imports.
    fn resolved(
        &self,
        python: &Python,
        name: &str,
        is_package: bool,
        source: &str,
        is_main: bool,
    ) -> Vec<String> {
        let mut out = Vec::new();
        for import in pyscan::imports(source, is_main) {
            let base = match import.level {
                0 => import.module.clone(),
                level => {
                    // One dot is the package itself, each further one its parent.
                    let up = level - usize::from(is_package);
                    let parts: Vec<&str> = name.split('.').collect();
                    let Some(keep) = parts.len().checked_sub(up) else {
                        continue;
                    };
                    let mut parts = parts[..keep].to_vec();
                    parts.extend(Some(import.module.as_str()).filter(|m| !m.is_empty()));
                    parts.join(".")
                }
            };
            if base.is_empty() {
                continue;
            }
            let submodules = import.names.iter().map(|n| format!("{base}.{n}"));
            let known = submodules.filter(|n| python.find(&self.view, n).is_some());
            let known: Vec<String> = known.collect();
            out.push(base);
            out.extend(known);
        }
        out
    }

    fn take(&mut self, file: &Found) {
        self.take_parts(file, &[]);
    }

    /// Takes a file: whole, or of a large one its head and `parts`.
    fn take_parts(&mut self, file: &Found, parts: &[Range<u64>]) {
        if self.out.len() >= FILES_MAX || !self.taken.insert(file.node) {
            return;
        }
        let needed = |range| Needed {
            node: file.node,
            path: file.path.clone(),
            range,
        };
        if file.size <= WHOLE_BYTES_MAX {
            self.out.push(needed(0..file.size));
            return;
        }
        self.out.push(needed(0..HEAD_BYTES));
        for part in parts {
            let (start, end) = (part.start.max(HEAD_BYTES), part.end.min(file.size));
            if start < end {
                self.out.push(needed(start..end));
            }
        }
    }
}

#[cfg(test)]
mod tests;
