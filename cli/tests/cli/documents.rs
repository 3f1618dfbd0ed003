//! What documents tell people to type is typed: console blocks, a page after the other, in a scratch machine.
//!
//! A block is run unless `<!-- not run: why -->` stands above it. Lines that begin with `$ ` are commands of one
//! shell, from the first block of a page to its last; what stands below one is what it prints, first of all its first
//! line. Pages about Kubernetes are run by a story (`e2e/stories/documents.py`).

use std::collections::BTreeSet;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::{Machine, text};
use crate::node::images::server::Server;

/// Where no cluster is needed.
const HERE: [&str; 3] = ["README.md", "docs/getting-started.md", "docs/run.md"];
/// Where one is: by the story of documents.
const ON_A_CLUSTER: [&str; 3] = [
    "docs/cluster.md",
    "docs/kubectl-lamina.md",
    "docs/kubernetes.md",
];
/// The image that pages convert.
const IMAGE: &str = "registry.example/python-data:1";

/// A command and what it is said to print.
#[derive(Debug, Default, PartialEq)]
struct Step {
    command: String,
    printed: Vec<String>,
}

/// The blocks of a page that are run, one after the other, and how many are not.
fn steps(page: &str) -> (Vec<Step>, usize) {
    let (mut steps, mut left_out) = (Vec::new(), 0);
    let mut lines = page.lines();
    let mut above = "";
    while let Some(line) = lines.next() {
        if line == "```console" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if above.starts_with("<!-- not run: ") {
                left_out += 1;
            } else {
                steps.extend(commands(&block));
            }
        }
        if !line.is_empty() {
            above = line;
        }
    }
    (steps, left_out)
}

fn commands(block: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                ..Step::default()
            }),
            (None, Some(step)) => step.printed.push((*line).to_owned()),
            (None, None) => panic!("a console block begins with a prompt, not with {line:?}"),
        }
    }
    steps
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap()
}

#[test]
fn every_page_with_commands_is_run_somewhere() {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()));
    let pages = docs.chain(["README.md".into(), "ARCHITECTURE.md".into()]);
    let is_page = |name: &String| Path::new(name).extension().is_some_and(|kind| kind == "md");
    for name in pages.filter(is_page) {
        let known = HERE.contains(&name.as_str()) || ON_A_CLUSTER.contains(&name.as_str());
        let has_commands = page(&name).contains("```console\n");
        assert_eq!(
            has_commands, known,
            "{name}: name it in HERE or ON_A_CLUSTER"
        );
    }
}

#[test]
fn blocks_are_read_with_what_they_print() {
    let page = "a\n```console\n$ one | two\nprinted\n\nmore\n$ three\n```\n\n<!-- not run: no bucket -->\n\
                ```console\n$ four\n```\n```\n$ no console\n```\n";
    let step = |command: &str, printed: &[&str]| Step {
        command: command.into(),
        printed: printed.iter().map(|line| (*line).into()).collect(),
    };
    let (found, left_out) = steps(page);
    let expected = [
        step("one | two", &["printed", "", "more"]),
        step("three", &[]),
    ];
    assert_eq!((found.as_slice(), left_out), (expected.as_slice(), 1));
}

/// A root file system with a `python3` that does as it is told here, and what it runs on.
fn image(machine: &Machine) -> Vec<u8> {
    let script = r"
        set -e
        mkdir -p root/bin root/etc root/usr/bin
        cp /bin/busybox root/bin/busybox
        for name in sh echo cat; do ln -s busybox root/bin/$name; done
        printf '#!/bin/sh\necho hello\n' > root/usr/bin/python3; chmod 755 root/usr/bin/python3
        tar -C root -cf layer.tar .
    ";
    let made = Command::new("bash")
        .args(["-c", script])
        .current_dir(machine.path(""))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    std::fs::read(machine.path("layer.tar")).unwrap()
}

/// A text of a page as it is in this machine: directories and image are the test's own.
fn here(machine: &Machine, server: &Server, text: &str) -> String {
    let own = |name: &str| machine.path(name).display().to_string();
    let text = text.replace(IMAGE, &server.image(":t"));
    let text = text.replace("/srv", &own("srv"));
    text.replace("/mnt", &own("mnt"))
}

/// The commands as one script, which says on a line of its own where each begins.
fn script(steps: &[Step]) -> String {
    let commands = steps.iter().enumerate().map(|(number, step)| {
        let command = &step.command;
        format!("echo '==== {number}'\n{command}\n")
    });
    iter::once("set -e\n".to_owned()).chain(commands).collect()
}

fn type_in(machine: &Machine, script: &str) -> (bool, String, String) {
    let bin = machine.dir("bin");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lamina"), bin.join("lamina")).unwrap();
    machine.dir("mnt");
    let path = std::env::var("PATH").unwrap();
    let typed = Command::new("bash")
        .args(["-c", script])
        .current_dir(machine.dir("work"))
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("HOME", machine.path(""))
        .env("LAMINA_RUN_DIR", machine.path("run"))
        .env("LAMINA_STATE_DIR", machine.path("state"))
        .env("LAMINA_CACHE_DIR", machine.path("cache"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, error) = (text(&typed.stdout), text(&typed.stderr));
    (typed.status.success(), out, error)
}

/// As people read it: columns may be wider.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn check(name: &str, steps: &[Step], out: &str) {
    let outputs: Vec<&str> = out.split("==== ").skip(1).collect();
    for (step, output) in steps.iter().zip(outputs) {
        let lines: Vec<&str> = output.lines().skip(1).collect();
        let Some(first) = step.printed.first() else {
            continue;
        };
        let command = &step.command;
        let got = lines.first().copied().unwrap_or_default();
        assert_eq!(words(got), words(first), "{name}: {command}: {output}");
        assert_eq!(
            lines.len(),
            step.printed.len(),
            "{name}: {command}: {output}"
        );
    }
}

#[test]
fn what_pages_tell_people_to_type_works() {
    for name in HERE {
        let machine = Machine::new();
        let server = Server::start();
        server.push("t", &[image(&machine)]);
        let (steps, _) = steps(&here(&machine, &server, &page(name)));
        assert!(steps.len() > 3, "{name}: {steps:?}");
        let script = script(&steps);
        let (done, out, error) = type_in(&machine, &script);
        let log = machine.log();
        assert!(done, "{name}: typed\n{script}\nsaw\n{out}\n{error}\n{log}");
        check(name, &steps, &out);
    }
}

/// Words of a text that are options.
fn options(text: &str) -> BTreeSet<&str> {
    let is_word = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c| !is_word(c));
    words
        .filter(|word| word.starts_with("--") && word.len() > 4)
        .collect()
}

/// Checks that a page, up to a sentence, has every option of a role and no other.
fn check_options(role: &str, name: &str, end: &str) {
    let machine = Machine::new();
    let help = machine.ok(&[role, "--help"]);
    let page = page(name);
    let table = page.split(end).next().unwrap();
    let mut known = options(&help);
    // Those of every verb.
    for common in ["--help", "--version", "--verbose"] {
        known.remove(common);
    }
    assert_eq!(options(table), known, "{name}");
}

#[test]
fn pages_of_roles_have_every_option_of_them() {
    check_options("node", "docs/kubernetes-node.md", "On SIGTERM");
    check_options("afslet", "docs/afslet.md", "The contract is");
}
