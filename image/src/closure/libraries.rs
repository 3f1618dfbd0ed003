//! Where the dynamic loader finds a library.
//!
//! glibc's order: RPATH of the file if it has no RUNPATH, `LD_LIBRARY_PATH`,
//! RUNPATH, what `ldconfig` was told (`ld.so.conf`), the default directories.
//! musl's: its path file, its defaults. Not modelled: hardware capability
//! subdirectories, which images rarely have, and the RPATH of whoever needed
//! the file before; the file's own directory stands for it. Source: ld.so(8).

use super::elf::Elf;
use super::graph::parent;
use super::view::{Found, View};

const CONF_FILES_MAX: usize = 64;
const DIRECTORIES_MAX: usize = 128;

/// The loader's directories in one image.
pub(super) struct Libraries {
    from_environment: Vec<String>,
    system: Vec<String>,
}

impl Libraries {
    /// Reads the loader's configuration.
    pub(super) fn new(view: &View<'_>, ld_library_path: &str) -> Self {
        let mut system = Vec::new();
        let mut files = CONF_FILES_MAX;
        conf(view, "/etc/ld.so.conf", &mut system, &mut files);
        for arch in ["x86_64", "aarch64", "i386", "armhf"] {
            let path = format!("/etc/ld-musl-{arch}.path");
            if let Some(text) = view.file(&path).and_then(|f| view.text(&f)) {
                system.extend(text.split([':', '\n']).map(str::to_owned));
            }
        }
        let triples = [
            "x86_64-linux-gnu",
            "aarch64-linux-gnu",
            "arm-linux-gnueabihf",
        ];
        for triple in triples {
            system.extend([format!("/lib/{triple}"), format!("/usr/lib/{triple}")]);
        }
        let defaults = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];
        system.extend(defaults.map(str::to_owned));
        system.retain(|dir| dir.starts_with('/') && view.directory(dir).is_some());
        system.truncate(DIRECTORIES_MAX);
        let from_environment = ld_library_path
            .split(':')
            .filter(|d| !d.is_empty())
            .take(DIRECTORIES_MAX)
            .map(str::to_owned)
            .collect();
        Self {
            from_environment,
            system,
        }
    }

    /// The library `name` that `file` needs.
    pub(super) fn find(
        &self,
        view: &View<'_>,
        name: &str,
        file: &Found,
        elf: &Elf,
    ) -> Option<Found> {
        if name.contains('/') {
            return view.file(name);
        }
        let own = |path: &Option<String>| search_path(path.as_deref().unwrap_or_default(), file);
        let (rpath, runpath) = match &elf.runpath {
            Some(_) => (Vec::new(), own(&elf.runpath)),
            None => (own(&elf.rpath), Vec::new()),
        };
        // Where the RPATH of whoever needed this file led, in wheels.
        let beside = [parent(&file.path).to_owned()];
        rpath
            .iter()
            .chain(&self.from_environment)
            .chain(&runpath)
            .chain(&self.system)
            .chain(&beside)
            .find_map(|dir| view.file(&format!("{dir}/{name}")))
    }
}

fn search_path(path: &str, file: &Found) -> Vec<String> {
    let origin = parent(&file.path);
    path.split(':')
        .filter(|dir| !dir.is_empty())
        .take(DIRECTORIES_MAX)
        .map(|dir| dir.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
        .collect()
}

/// One `ld.so.conf`: directories, comments and `include PATTERN`.
fn conf(view: &View<'_>, path: &str, out: &mut Vec<String>, files: &mut usize) {
    let Some(left) = files.checked_sub(1) else {
        return;
    };
    *files = left;
    let Some(file) = view.file(path) else { return };
    let Some(text) = view.text(&file) else {
        return;
    };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        match line.strip_prefix("include ") {
            None if line.is_empty() => {}
            None => out.push(line.to_owned()),
            Some(pattern) => {
                let pattern = pattern.trim();
                let Some((dir, name)) = pattern.rsplit_once('/') else {
                    continue;
                };
                let (before, after) = name.split_once('*').unwrap_or((name, ""));
                for name in view.names(dir) {
                    if name.starts_with(before) && name.ends_with(after) {
                        conf(view, &format!("{dir}/{name}"), out, files);
                    }
                }
            }
        }
    }
}
