//! What is found in small hand-made file systems. Content is in the trees:
//! where it comes from is the business of the layers' tests.

use lamina_flist::{
    BlobEntry, BlobLayout, EntryName, Extent, FileContent, FileData, Metadata, Node, NodeKind,
    ProfileRange, Tree,
};
use serde_json::json;

use super::*;

struct Root {
    tree: Tree,
    blob: BlobLayout,
    scans: Vec<(u64, FileScan)>,
}

impl Root {
    fn new() -> Self {
        Self {
            tree: Tree::new(Metadata::default()),
            blob: BlobLayout::default(),
            scans: Vec::new(),
        }
    }

    fn put(&mut self, path: &str, kind: NodeKind) -> NodeId {
        let mut at = Tree::ROOT;
        let mut parts = path.trim_start_matches('/').split('/').peekable();
        while let Some(part) = parts.next() {
            let name = EntryName::try_from(part).unwrap();
            let meta = Metadata {
                perm: 0o755,
                ..Metadata::default()
            };
            if parts.peek().is_none() {
                return self.tree.insert(at, name, Node { meta, kind }).unwrap();
            }
            let existing = self.tree.lookup(at, part.as_bytes());
            at = existing.unwrap_or_else(|| {
                let node = Node {
                    meta,
                    kind: NodeKind::directory(),
                };
                self.tree.insert(at, name, node).unwrap()
            });
        }
        unreachable!("a path has a last part")
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> &mut Self {
        self.put(path, NodeKind::File(FileContent::inline(bytes)));
        self
    }

    /// A file whose content is in the blob, in chunks of 4 KiB.
    fn stored(&mut self, path: &str, bytes: &[u8]) -> &mut Self {
        let offset = self.blob.len;
        let size = bytes.len() as u64;
        let starts = (0..size).step_by(4096);
        self.blob.entries.extend(starts.map(|start| BlobEntry {
            offset: offset + start,
            chunk: 0,
            len: (size - start).min(4096) as u32,
        }));
        self.blob.len += size.next_multiple_of(4096);
        let data = FileData::Extent(Extent { blob: 0, offset });
        self.put(path, NodeKind::File(FileContent { size, data }));
        let name = path.rsplit('/').next().unwrap();
        if let Some(scan) = scan::scan_whole(name.as_bytes(), bytes) {
            self.scans.push((offset, scan));
        }
        self
    }

    fn link(&mut self, path: &str, to: &str) -> &mut Self {
        self.put(path, NodeKind::Symlink(to.as_bytes().to_vec()));
        self
    }

    fn graph(&self, config: &serde_json::Value) -> Graph {
        Graph::new(&self.tree, &[Scans::new(self.scans.clone())], config)
    }

    fn path(&self, node: NodeId) -> String {
        let found = self.tree.walk().find(|(_, id)| *id == node);
        format!("/{}", String::from_utf8(found.unwrap().0).unwrap())
    }

    fn closure(&self, command: &[&str]) -> Vec<String> {
        let config = json!({ "config": {
            "Entrypoint": command, "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/app",
        }});
        let needed = self.graph(&config).closure();
        needed.into_iter().map(|n| self.path(n.node)).collect()
    }

    /// What the file at `path` needs directly, by the graph.
    fn needs(&self, path: &str) -> Vec<String> {
        let graph = self.graph(&json!(null));
        let file = graph.files.iter().find(|f| self.path(f.node) == path);
        let needs = file.map(|file| file.needs.clone()).unwrap_or_default();
        let needs = needs
            .iter()
            .map(|id| self.path(graph.files[*id as usize].node));
        needs.collect()
    }
}

/// An ELF file with these strings: interpreter, needed, runpath.
pub(super) fn elf(interpreter: &str, needed: &[&str], runpath: &str) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut add = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let mut dynamic: Vec<(u64, u64)> = needed.iter().map(|n| (1, add(n))).collect();
    if !runpath.is_empty() {
        dynamic.push((29, add(runpath)));
    }
    let (phdrs, dyn_at) = (64u64, 64 + 3 * 56u64);
    let dyn_len = (dynamic.len() as u64 + 2) * 16;
    let interp_at = dyn_at + dyn_len;
    let strings_at = interp_at + interpreter.len() as u64 + 1;
    dynamic.extend([(5, strings_at), (0, 0)]);
    let len = strings_at + strings.len() as u64;
    let mut out = b"\x7fELF\x02\x01\x01".to_vec();
    out.resize(64, 0);
    out[32..40].copy_from_slice(&phdrs.to_le_bytes());
    out[54..56].copy_from_slice(&56u16.to_le_bytes());
    out[56..58].copy_from_slice(&3u16.to_le_bytes());
    let interp = if interpreter.is_empty() { 0 } else { 3 };
    for (kind, at, size) in [
        (1u32, 0, len),
        (2, dyn_at, dyn_len),
        (interp, interp_at, interpreter.len() as u64 + 1),
    ] {
        out.extend(kind.to_le_bytes());
        out.extend(4u32.to_le_bytes());
        for n in [at, at, at, size, size, 0u64] {
            out.extend(n.to_le_bytes());
        }
    }
    for (tag, value) in dynamic {
        out.extend(tag.to_le_bytes());
        out.extend(value.to_le_bytes());
    }
    out.extend(interpreter.as_bytes());
    out.push(0);
    out.extend(strings);
    out
}

const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";

#[test]
fn programs_bring_their_loader_and_libraries() {
    let mut root = Root::new();
    root.file(
        "/usr/bin/app",
        &elf(LOADER, &["liba.so", "libc.so.6"], "$ORIGIN/../app/lib"),
    )
    .file(
        "/usr/app/lib/liba.so",
        &elf("", &["libb.so", "libmissing.so"], "$ORIGIN"),
    )
    .file("/usr/app/lib/libb.so", &elf("", &["libc.so.6"], ""))
    .file("/usr/lib/x86_64-linux-gnu/libc.so.6", &elf("", &[], ""))
    .file(
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        &elf("", &[], ""),
    )
    .file("/etc/ld.so.cache", b"cache")
    .link("/lib64", "usr/lib/x86_64-linux-gnu")
    .link("/bin", "usr/bin");
    let want = [
        "/usr/bin/app",
        "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
        "/etc/ld.so.cache",
        "/usr/app/lib/liba.so",
        "/usr/app/lib/libb.so",
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
    ];
    assert_eq!(root.closure(&["app", "--flag"]), want);
}

#[test]
fn scripts_lead_to_what_runs_them_and_what_they_run() {
    let mut root = Root::new();
    root.file("/app/entry.sh", b"#!/bin/sh -e\nexec \"$@\"\n")
        .file("/usr/bin/dash", &elf("", &[], ""))
        .file("/usr/bin/server", &elf("", &[], ""))
        .link("/usr/bin/sh", "dash")
        .link("/bin", "usr/bin");
    let want = ["/app/entry.sh", "/usr/bin/dash", "/usr/bin/server"];
    assert_eq!(root.closure(&["./entry.sh", "server", "-p", "80"]), want);
    assert_eq!(root.closure(&["sh", "-c", "exec server -p 80"]), want[1..]);
    // A script that runs itself ends.
    root.file("/app/loop", b"#!/app/loop\n");
    assert_eq!(root.closure(&["/app/loop"]), ["/app/loop"]);
}

#[test]
fn python_programs_bring_their_imports_in_order() {
    let mut root = Root::new();
    let lib = "/usr/lib/python3.11";
    let site = "/usr/local/lib/python3.11/dist-packages";
    root.file("/usr/bin/python3.11", &elf("", &[], ""))
        .link("/usr/bin/python3", "python3.11")
        .file("/usr/bin/env", &elf("", &[], ""))
        .file(
            &format!("{lib}/encodings/__init__.py"),
            b"import codecs\nfrom . import aliases\n",
        )
        .file(
            &format!("{lib}/encodings/__pycache__/__init__.cpython-311.pyc"),
            b"code",
        )
        .file(&format!("{lib}/encodings/aliases.py"), b"")
        .file(
            &format!("{lib}/json/__init__.py"),
            b"from .decoder import JSONDecoder\n",
        )
        .file(
            &format!("{lib}/json/decoder.py"),
            b"import re\ndef f():\n    import unused\n",
        )
        .file(&format!("{lib}/re.py"), b"import json\n")
        .file(&format!("{lib}/unused.py"), b"")
        .file(&format!("{site}/hook.pth"), b"import hook\n")
        .file(&format!("{site}/hook.py"), b"")
        .file(&format!("{site}/pkg/__init__.py"), b"from .core import x\n")
        .file(
            &format!("{site}/pkg/core.cpython-311-x86_64-linux-gnu.so"),
            &elf("", &["libpkg.so"], "$ORIGIN/../pkg.libs"),
        )
        .file(&format!("{site}/pkg.libs/libpkg.so"), &elf("", &[], ""))
        .file(
            "/app/main.py",
            b"#!/usr/bin/env python3\nimport json, helper\nimport pkg\n",
        )
        .file("/app/helper.py", b"");
    let want = [
        "/app/main.py",
        "/usr/bin/env",
        "/usr/bin/python3.11",
        "/usr/lib/python3.11/encodings/__pycache__/__init__.cpython-311.pyc",
        "/usr/lib/python3.11/encodings/aliases.py",
        "/usr/local/lib/python3.11/dist-packages/hook.pth",
        "/usr/local/lib/python3.11/dist-packages/hook.py",
        "/usr/lib/python3.11/json/__init__.py",
        "/usr/lib/python3.11/json/decoder.py",
        "/usr/lib/python3.11/re.py",
        "/app/helper.py",
        "/usr/local/lib/python3.11/dist-packages/pkg/__init__.py",
        "/usr/local/lib/python3.11/dist-packages/pkg/core.cpython-311-x86_64-linux-gnu.so",
        "/usr/local/lib/python3.11/dist-packages/pkg.libs/libpkg.so",
    ];
    assert_eq!(root.closure(&["/app/main.py"]), want);
    let by_argument = root.closure(&["python3", "-c", "import json"]);
    assert_eq!(by_argument.last().unwrap(), "/usr/lib/python3.11/re.py");
}

#[test]
fn of_large_files_only_parts_are_wanted() {
    let mut root = Root::new();
    let mut large = elf("", &[], "");
    large.resize(9 << 20, 0);
    // Loaded: one read-only segment, before any code.
    root.stored("/usr/bin/large", &large);
    let mut noise = vec![1; 9 << 20];
    noise[0] = 0;
    root.stored("/usr/bin/noise", &noise);
    let config = json!({ "config": { "Cmd": ["/usr/bin/large", "/usr/bin/noise"] } });
    let needed = root.graph(&config).closure();
    let loaded = elf("", &[], "").len() as u64;
    let parts: Vec<_> = needed.into_iter().map(|n| n.range).collect();
    assert_eq!(parts, [0..loaded, 0..2 << 20]);
}

#[test]
fn relative_and_own_imports_are_found_where_python_finds_them() {
    let mut root = Root::new();
    let site = "/usr/lib/python3.11/site-packages";
    root.file("/usr/lib/python3.11/json.py", b"")
        .file(&format!("{site}/json.py"), b"")
        .file(
            &format!("{site}/a/__init__.py"),
            b"from . import b, attribute\nimport json\n",
        )
        .file(
            &format!("{site}/a/b/__init__.py"),
            b"from ..c import *\nfrom .. import d\n",
        )
        .file(&format!("{site}/a/c.py"), b"import a.b.nothing, os.path\n")
        .file(
            &format!("{site}/a/d.py"),
            b"from space.deep import module, none\n",
        )
        .file(
            &format!("{site}/space/deep/module.py"),
            b"from .. import other\n",
        )
        .file("/usr/lib/python3.11/os.py", b"")
        .file("/srv/x/__init__.py", b"import json, x.y, top\n")
        .file(
            "/srv/x/y.py",
            b"if __name__ == '__main__':\n    import json\n",
        )
        .file("/srv/json.py", b"")
        .file("/srv/top.py", b"");
    let needs = |path: &str| root.needs(&format!("{site}/{path}"));
    let at = |path: &str| format!("{site}/{path}");
    let library = "/usr/lib/python3.11/json.py".to_owned();
    assert_eq!(needs("a/__init__.py"), [at("a/b/__init__.py"), library]);
    let below = [at("a/__init__.py"), at("a/c.py"), at("a/d.py")];
    assert_eq!(needs("a/b/__init__.py"), below);
    // As far as it is there; and `os` is frozen.
    assert_eq!(
        needs("a/c.py"),
        [at("a/__init__.py"), at("a/b/__init__.py")]
    );
    assert_eq!(needs("a/d.py"), [at("space/deep/module.py")]);
    assert_eq!(needs("space/deep/module.py"), [""; 0]);
    let own = ["/srv/json.py", "/srv/x/y.py", "/srv/top.py"];
    assert_eq!(root.needs("/srv/x/__init__.py"), own);
    assert_eq!(root.needs("/srv/x/y.py"), own[..1]);
}

#[test]
fn extensions_need_the_modules_they_name() {
    let mut root = Root::new();
    let site = "/usr/lib/python3.11/site-packages";
    // Names in the data, as libraries that are not there.
    let names = [
        "libx.so",
        "pkg.other",
        "pkg.missing",
        "far.away.thing",
        "pkg.ext.own",
    ];
    let library = elf("", &names, "");
    root.stored(
        &format!("{site}/pkg/ext.cpython-311-x86_64-linux-gnu.so"),
        &library,
    )
    .file(&format!("{site}/pkg/plain.so"), &library)
    .file(&format!("{site}/pkg/__init__.py"), b"")
    .file(&format!("{site}/pkg/other.py"), b"")
    .file(&format!("{site}/far/away/thing.py"), b"");
    let want = ["pkg/__init__.py", "pkg/other.py", "far/away/thing.py"];
    let want = want.map(|path| format!("{site}/{path}"));
    let needs = |name: &str| root.needs(&format!("{site}/pkg/{name}"));
    assert_eq!(needs("ext.cpython-311-x86_64-linux-gnu.so"), want);
    assert_eq!(needs("plain.so"), [""; 0]);
}

#[test]
fn hints_follow_small_files_through() {
    let mut root = Root::new();
    let site = "/usr/lib/python3.11/site-packages";
    let long = |text: &str| format!("{text}#{}", " ".repeat(5000));
    root.stored(&format!("{site}/a.py"), long("import b, c\n").as_bytes())
        .file(&format!("{site}/b.py"), b"import d, b, c\n")
        .stored(&format!("{site}/c.py"), long("import a\n").as_bytes())
        .stored(&format!("{site}/d.py"), long("\n").as_bytes())
        .stored(&format!("{site}/alone.py"), long("\n").as_bytes())
        .file("/usr/bin/tool", b"#!/usr/bin/env python3\nimport a\n")
        .file("/usr/bin/env", &elf("", &[], ""))
        .stored("/usr/bin/python3", &elf("", &[], "/x"));
    let graph = root.graph(&json!({ "config": { "Cmd": ["tool"] } }));
    let blobs = [root.blob.clone()];
    let table = graph.hints(&root.tree, &blobs).unwrap();
    let entry = |first_entry, count| ProfileRange {
        blob: 0,
        first_entry,
        count,
    };
    let file_at = |first: u32| {
        let at = |file: &lamina_flist::HintFile| file.ranges == [entry(first, 2)];
        table.files.iter().position(at).map(|at| at as u32)
    };
    let [a, c, d] = [0, 2, 4].map(|first| file_at(first).unwrap());
    assert_eq!(file_at(6), None);
    assert_eq!(table.files[a as usize].needs, [d, c]);
    assert_eq!(table.files[c as usize].needs, [a]);
    assert_eq!(table.files[d as usize].needs, [0; 0]);
    // The script is in the tree, so are its first lines' programs but one.
    let profile = graph.profile(&root.tree, &blobs).unwrap();
    assert_eq!(
        profile.ranges,
        [entry(8, 1), entry(0, 2), entry(4, 2), entry(2, 2)]
    );
}

#[test]
fn configs_without_sense_give_nothing() {
    let root = Root::new();
    for config in [
        json!(null),
        json!({ "config": { "Cmd": 3, "Env": [1] } }),
        json!([]),
    ] {
        assert!(root.graph(&config).closure().is_empty());
    }
    assert!(root.closure(&["/no/such", "../../etc", ""]).is_empty());
}
