//! What people forget, kept by a test: files nobody compiles, dependencies that point upwards, links
//! that lead nowhere, `unsafe` outside `sys` modules, to-dos without an owner.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// Files below `dir` with this extension, without build output.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !path.is_symlink() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, extension));
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Workspace members in the order in which Cargo.toml lists them.
fn members() -> Vec<String> {
    let manifest = read(&root().join("Cargo.toml"));
    let list = manifest
        .split("members = [")
        .nth(1)
        .unwrap()
        .split(']')
        .next()
        .unwrap();
    list.lines()
        .filter_map(|line| line.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_depend_only_on_crates_listed_before_them() {
    let members = members();
    for (place, member) in members.iter().enumerate() {
        let manifest = read(&root().join(member).join("Cargo.toml"));
        let shipped = manifest.split("[dev-dependencies]").next().unwrap();
        for (other_place, other) in members.iter().enumerate() {
            let depends = shipped
                .lines()
                .any(|line| line.starts_with(&format!("lamina-{other}.")));
            assert!(
                !depends || other_place < place,
                "{member} depends on {other}, listed after it"
            );
        }
    }
}

#[test]
fn every_rust_file_is_compiled() {
    for member in members() {
        let src = root().join(&member).join("src");
        for path in files(&src, "rs") {
            assert!(
                is_declared(&src, &path),
                "{} is in no `mod` declaration",
                path.display()
            );
        }
    }
}

/// Whether the parent module of `path` says `mod name;`, or it is a crate root.
fn is_declared(src: &Path, path: &Path) -> bool {
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let dir = path.parent().unwrap();
    if dir == src && (stem == "lib" || stem == "main") || dir == src.join("bin") {
        return true;
    }
    let (name, home) = if stem == "mod" {
        (
            dir.file_name().unwrap().to_string_lossy().into_owned(),
            dir.parent().unwrap(),
        )
    } else {
        (stem, dir)
    };
    let mut parents = vec![home.join("mod.rs"), home.with_extension("rs")];
    if home == src || home == src.join("bin") {
        parents.extend([src.join("lib.rs"), src.join("main.rs")]);
        parents.extend(
            files(src, "rs")
                .into_iter()
                .filter(|file| file.parent() == Some(&src.join("bin"))),
        );
    }
    let declarations = [format!("mod {name};"), format!("mod r#{name};")];
    parents
        .iter()
        .filter(|parent| parent.is_file())
        .any(|parent| {
            read(parent).lines().any(|line| {
                declarations
                    .iter()
                    .any(|d| line.trim_end().ends_with(d.as_str()))
            })
        })
}

#[test]
fn unsafe_code_is_allowed_only_in_sys_modules() {
    for member in members() {
        for path in files(&root().join(&member).join("src"), "rs") {
            let relative = path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            let is_sys = relative.contains("/sys/") || relative.ends_with("/sys.rs");
            let text = read(&path);
            assert!(
                is_sys || !text.contains("allow(unsafe_code)"),
                "{relative} allows unsafe code"
            );
            let blocks = text.matches("unsafe {").count() + text.matches("unsafe impl").count();
            assert!(
                text.matches("SAFETY:").count() >= blocks,
                "{relative} has unsafe without SAFETY"
            );
        }
    }
}

#[test]
fn links_in_documents_resolve() {
    let mut documents = files(&root().join("docs"), "md");
    documents
        .extend(["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name)));
    for document in documents {
        let text = read(&document);
        for target in links(&text) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                document.clone()
            } else {
                document.parent().unwrap().join(file)
            };
            assert!(
                path.exists(),
                "{} links to {target}, which is not there",
                document.display()
            );
            if !anchor.is_empty() && path.extension().is_some_and(|found| found == "md") {
                assert!(
                    anchors(&read(&path)).contains(anchor),
                    "{}: no heading {target}",
                    document.display()
                );
            }
        }
    }
}

/// Relative link targets of a Markdown text, outside code blocks.
fn links(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (place, part) in text.split("```").enumerate() {
        if place % 2 == 1 {
            continue;
        }
        for after in part.split("](").skip(1) {
            let target = after.split([')', ' ']).next().unwrap();
            if !target.contains("://") && !target.starts_with("mailto:") {
                found.push(target);
            }
        }
    }
    found
}

/// Anchors of a Markdown text's headings, as the common renderers make them.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

#[test]
fn no_todo_is_left_without_an_owner() {
    let word = ["TO", "DO"].concat();
    for extension in ["rs", "py", "sh", "md"] {
        for path in files(&root(), extension) {
            for (number, line) in read(&path).lines().enumerate() {
                let owned = line.contains(&format!("{word}("));
                assert!(
                    !line.contains(&word) || owned,
                    "{}:{}: {line}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn unfinished_code_is_not_committed() {
    let words = [["to", "do!("].concat(), ["unimpl", "emented!("].concat()];
    for member in members() {
        for path in files(&root().join(&member), "rs") {
            let text = read(&path);
            assert!(
                !words.iter().any(|word| text.contains(word.as_str())),
                "{}",
                path.display()
            );
        }
    }
}
