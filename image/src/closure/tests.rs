//! What is found in small hand-made file systems.

use std::collections::HashMap;

use lamina_flist::{EntryName, FileContent, FileData, Metadata, Node, NodeKind};
use serde_json::json;

use super::*;

#[derive(Default)]
struct Files(HashMap<NodeId, Vec<u8>>);

impl ReadFile for Files {
    fn read_at(&mut self, file: NodeId, offset: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = self.0.get(&file)?;
        let start = usize::try_from(offset).ok()?.min(bytes.len());
        Some(bytes[start..start.saturating_add(len).min(bytes.len())].to_vec())
    }
}

struct Root {
    tree: Tree,
    files: Files,
}

impl Root {
    fn new() -> Self {
        Self {
            tree: Tree::new(Metadata::default()),
            files: Files::default(),
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
        let data = FileData::Inline(Vec::new());
        let content = FileContent {
            size: bytes.len() as u64,
            data,
        };
        let id = self.put(path, NodeKind::File(content));
        self.files.0.insert(id, bytes.to_vec());
        self
    }

    fn link(&mut self, path: &str, to: &str) -> &mut Self {
        self.put(path, NodeKind::Symlink(to.as_bytes().to_vec()));
        self
    }

    fn closure(&mut self, command: &[&str]) -> Vec<String> {
        let config = json!({ "config": {
            "Entrypoint": command, "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/app",
        }});
        let needed = closure(&self.tree, &config, &mut self.files);
        needed.into_iter().map(|n| n.path).collect()
    }
}

/// An ELF file with these strings: interpreter, needed, runpath.
fn elf(interpreter: &str, needed: &[&str], runpath: &str) -> Vec<u8> {
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
        "/usr/lib/x86_64-linux-gnu/libc.so.6",
        "/usr/app/lib/libb.so",
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
    large.resize(WHOLE_BYTES_MAX as usize + 1, 0);
    root.file("/usr/bin/large", &large);
    let config = json!({ "config": { "Cmd": ["/usr/bin/large"] } });
    let needed = closure(&root.tree, &config, &mut root.files);
    assert_eq!(needed.len(), 1);
    assert_eq!(needed[0].range, 0..HEAD_BYTES);
}

#[test]
fn configs_without_sense_give_nothing() {
    let mut root = Root::new();
    for config in [
        json!(null),
        json!({ "config": { "Cmd": 3, "Env": [1] } }),
        json!([]),
    ] {
        assert!(closure(&root.tree, &config, &mut root.files).is_empty());
    }
    assert!(root.closure(&["/no/such", "../../etc", ""]).is_empty());
}
