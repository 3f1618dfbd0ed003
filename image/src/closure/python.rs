//! Where a Python interpreter finds modules, and what it opens at start.
//!
//! Watched with strace on `CPython` 3.11: the interpreter's libraries, then
//! `encodings` (the other start-up modules are frozen since 3.11, before that
//! they are files too), `.pth` files of each site directory, `sitecustomize`,
//! then the program. Of a module with a current `.pyc` only that is opened.

use super::view::{Found, View};

const TEXT_BYTES_MAX: u64 = 4 << 20;

/// Modules every start imports; found as files or, being frozen, not at all.
const STARTUP_OLD: [&str; 16] = [
    "encodings",
    "codecs",
    "encodings.aliases",
    "encodings.utf_8",
    "encodings.latin_1",
    "io",
    "abc",
    "site",
    "os",
    "stat",
    "_collections_abc",
    "posixpath",
    "genericpath",
    "_sitebuiltins",
    "_bootlocale",
    "sitecustomize",
];
const STARTUP_NEW: [&str; 4] = [
    "encodings",
    "encodings.aliases",
    "encodings.utf_8",
    "sitecustomize",
];

/// One interpreter's module path.
pub(super) struct Python {
    /// Directories in `sys.path` order.
    path: Vec<String>,
    /// The site directories of it.
    sites: Vec<String>,
    /// `cpython-311`
    tag: String,
    minor: u32,
}

/// A module as a file.
pub(super) struct Module {
    /// What is opened: bytecode, source, or an extension.
    pub(super) opened: Found,
    /// Where its imports can be read.
    pub(super) source: Option<Found>,
    pub(super) is_package: bool,
    pub(super) is_extension: bool,
}

impl Python {
    /// The module path of the interpreter called as `called` (before links),
    /// which is really at `interpreter`.
    pub(super) fn new(view: &mut View<'_>, called: &str, interpreter: &str) -> Option<Self> {
        let mut prefixes = Vec::new();
        // A virtual environment: its own packages, the base's library.
        let environment = parent(parent(called));
        let config = format!("{environment}/pyvenv.cfg");
        let mut base = parent(parent(interpreter)).to_owned();
        if let Some(text) = view.file(&config).and_then(|f| view.text(&f, 64 << 10)) {
            prefixes.push(environment.to_owned());
            let home = text
                .lines()
                .find_map(|l| l.strip_prefix("home")?.trim().strip_prefix('='));
            if let Some(home) = home {
                parent(home.trim()).clone_into(&mut base);
            }
        }
        prefixes.push(base.clone());
        let version = version(view, interpreter, &base)?;
        let minor = version.split('.').nth(1)?.parse().ok()?;
        let library = format!("{base}/lib/python{version}");
        let mut path = vec![library.clone(), format!("{library}/lib-dynload")];
        let mut sites: Vec<String> = prefixes
            .iter()
            .map(|prefix| format!("{prefix}/lib/python{version}/site-packages"))
            .collect();
        // Debian's own places.
        sites.push(format!("/usr/local/lib/python{version}/dist-packages"));
        sites.push("/usr/lib/python3/dist-packages".to_owned());
        sites.retain(|site| view.directory(site).is_some());
        path.extend(sites.iter().cloned());
        Some(Self {
            path,
            sites,
            tag: format!("cpython-3{minor}"),
            minor,
        })
    }

    /// Adds a directory in front: the script's own.
    pub(super) fn put_first(&mut self, directory: String) {
        self.path.insert(0, directory);
    }

    /// Adds `PYTHONPATH`.
    pub(super) fn put_environment(&mut self, python_path: &str) {
        let entries = python_path
            .split(':')
            .filter(|d| !d.is_empty())
            .map(str::to_owned);
        self.path.splice(0..0, entries.take(64));
    }

    /// Modules imported before the program.
    pub(super) fn startup(&self) -> &'static [&'static str] {
        if self.minor < 11 {
            &STARTUP_OLD
        } else {
            &STARTUP_NEW
        }
    }

    /// `.pth` files, which every start reads, with what they import and add.
    pub(super) fn read_pth(&mut self, view: &mut View<'_>) -> Vec<(Found, Vec<String>)> {
        let mut out = Vec::new();
        for site in self.sites.clone() {
            for name in view
                .names(&site)
                .into_iter()
                .filter(|n| n.rsplit_once('.').is_some_and(|(_, end)| end == "pth"))
                .take(64)
            {
                let Some(file) = view.file(&format!("{site}/{name}")) else {
                    continue;
                };
                let Some(text) = view.text(&file, 64 << 10) else {
                    continue;
                };
                let mut imported = Vec::new();
                for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
                    if line.starts_with("import ") {
                        let imports = super::pyscan::imports(line, false);
                        imported.extend(imports.into_iter().map(|i| i.module));
                    } else if !line.is_empty() && self.path.len() < 256 {
                        let relative = format!("{site}/{line}");
                        let absolute = line.starts_with('/').then(|| line.to_owned());
                        self.path.push(absolute.unwrap_or(relative));
                    }
                }
                out.push((file, imported));
            }
        }
        out
    }

    /// The module called `name` (`a.b.c`).
    pub(super) fn find(&self, view: &View<'_>, name: &str) -> Option<Module> {
        let relative = name.replace('.', "/");
        self.path
            .iter()
            .find_map(|dir| self.at(view, &format!("{dir}/{relative}")))
    }

    /// The module at a path without suffix.
    fn at(&self, view: &View<'_>, stem: &str) -> Option<Module> {
        let package = format!("{stem}/__init__");
        if let Some(module) = self.source_at(view, &package, true) {
            return Some(module);
        }
        let (dir, base) = stem.rsplit_once('/')?;
        let extension = [format!("{base}.abi3.so"), format!("{base}.so")]
            .into_iter()
            .chain(self.tagged(view, dir, base))
            .find_map(|name| view.file(&format!("{dir}/{name}")));
        if let Some(opened) = extension {
            return Some(Module {
                opened,
                source: None,
                is_package: false,
                is_extension: true,
            });
        }
        self.source_at(view, stem, false)
    }

    /// `base.cpython-311-x86_64-linux-gnu.so`, whatever the machine.
    fn tagged(&self, view: &View<'_>, dir: &str, base: &str) -> Option<String> {
        let machines = [
            "x86_64-linux-gnu",
            "aarch64-linux-gnu",
            "x86_64-linux-musl",
            "aarch64-linux-musl",
        ];
        machines
            .iter()
            .map(|machine| format!("{base}.{}-{machine}.so", self.tag))
            .find(|name| view.file(&format!("{dir}/{name}")).is_some())
    }

    fn source_at(&self, view: &View<'_>, stem: &str, is_package: bool) -> Option<Module> {
        let (dir, base) = stem.rsplit_once('/')?;
        let source = view.file(&format!("{stem}.py"));
        let cached = source
            .as_ref()
            .and_then(|_| view.file(&format!("{dir}/__pycache__/{base}.{}.pyc", self.tag)));
        let opened = cached
            .or_else(|| source.clone())
            .or_else(|| view.file(&format!("{stem}.pyc")))?;
        Some(Module {
            opened,
            source,
            is_package,
            is_extension: false,
        })
    }
}

/// The source text of a module.
pub(super) fn source_text(view: &mut View<'_>, module: &Module) -> Option<String> {
    view.text(module.source.as_ref()?, TEXT_BYTES_MAX)
}

/// `3.11`, from the interpreter's name or from the library beside it.
fn version(view: &View<'_>, interpreter: &str, base: &str) -> Option<String> {
    let is_version = |v: &str| {
        v.split_once('.').is_some_and(|(major, minor)| {
            major == "3" && !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let name = interpreter.rsplit('/').next()?;
    if let Some(version) = name.strip_prefix("python").filter(|v| is_version(v)) {
        return Some(version.to_owned());
    }
    view.names(&format!("{base}/lib"))
        .iter()
        .filter_map(|name| name.strip_prefix("python"))
        .find(|version| is_version(version))
        .map(str::to_owned)
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}
