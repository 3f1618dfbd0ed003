//! The image's command -> the files its start begins with.
//!
//! Follows what starting it does: PATH look-up, shebangs, and for Python the
//! program, module or text it is given. What these files need is in the graph.

use lamina_flist::{NodeId, Tree};

use super::graph::{Builder, parent};
use super::imports::interpreter_place;
use super::pyscan;
use super::start::env_target;
use super::view::Found;

/// Scripts that start scripts.
const SHEBANGS_MAX: usize = 8;
/// Words of the command that are looked up as programs.
const WORDS_MAX: usize = 16;

/// The files the command begins with, in order.
pub(super) fn starts(builder: &mut Builder<'_>) -> Vec<NodeId> {
    let words = builder.start.words();
    let mut command = Command {
        builder,
        out: Vec::new(),
    };
    // `env`, `tini --`, `entrypoint.sh` run what follows them.
    for (at, word) in words.iter().enumerate().take(WORDS_MAX) {
        if at > 0 && (word.starts_with('-') || word.contains('=')) {
            continue;
        }
        command.program(word, &words[at + 1..], 0);
    }
    command.out
}

struct Command<'b, 'a> {
    builder: &'b mut Builder<'a>,
    out: Vec<NodeId>,
}

impl Command<'_, '_> {
    fn program(&mut self, word: &str, arguments: &[String], depth: usize) {
        let builder = &self.builder;
        if depth <= SHEBANGS_MAX
            && let Some((called, program)) = builder.start.program(&builder.view, word)
        {
            self.run(&called, &program, arguments, depth);
        }
    }

    fn run(&mut self, called: &str, program: &Found, arguments: &[String], depth: usize) {
        self.out.push(program.node);
        let name = program.path.rsplit('/').next().unwrap_or_default();
        let shebang = self.builder.scan(program.node, name);
        if let Some(line) = shebang.and_then(|scan| scan.into_owned().shebang) {
            let mut words = line.split_whitespace().map(str::to_owned);
            let Some(interpreter) = words.next() else {
                return;
            };
            let rest = words.chain([called.to_owned()]);
            let rest: Vec<String> = rest.chain(arguments.iter().cloned()).collect();
            self.program(&interpreter, &rest, depth + 1);
        } else if called.ends_with("/env") {
            if let Some((target, rest)) = env_target(arguments) {
                self.program(target, rest, depth + 1);
            }
        } else if let Some(minor) = self.builder.interpreter_minor(name, &program.path) {
            self.python(minor, arguments);
        }
    }

    fn python(&mut self, minor: u8, arguments: &[String]) {
        let mut place = interpreter_place(minor);
        let directory = self.builder.start.directory();
        let directory = self.builder.view.directory(directory);
        place.own_root = directory.filter(|directory| *directory != Tree::ROOT);
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "-c" => {
                    let source = words.next().cloned().unwrap_or_default();
                    let list = pyscan::scan(source.as_bytes());
                    return self.out.extend(self.builder.imports(&place, &list));
                }
                "-m" => {
                    let name = words.next().cloned().unwrap_or_default();
                    for name in ["runpy", &name, &format!("{name}.__main__")] {
                        let chain = self.builder.modules.import(&place, name);
                        self.out.extend(chain.iter().filter_map(|m| m.opened));
                    }
                    return;
                }
                "-W" | "-X" => drop(words.next()),
                option if option.starts_with('-') => {}
                script => {
                    let path = self.builder.start.absolute(script);
                    return self.script(minor, &path);
                }
            }
        }
    }

    /// A script as an argument; its name may be any.
    fn script(&mut self, minor: u8, path: &str) {
        let Some(file) = self.builder.view.file(path) else {
            return;
        };
        self.out.push(file.node);
        let scan = self.builder.scan(file.node, "script.py");
        if let Some(list) = scan.and_then(|scan| scan.into_owned().imports) {
            let mut place = interpreter_place(minor);
            place.own_root = self.builder.view.directory(parent(&file.path));
            self.out.extend(self.builder.imports(&place, &list));
        }
    }
}
