//! The imports that running a Python source executes, without running it.
//!
//! A line scanner, not a parser: it knows strings, brackets, continuation
//! lines and indentation, and leaves out function bodies (imported later, if
//! ever) and `if TYPE_CHECKING:`. What it misses only makes the list shorter.
//! Every source of an image goes through it, so it allocates only for lines
//! that begin like an import.
//!
//! The list is text, a line per import: `!` if only the main program does it,
//! the dots of a relative import, the module, and after a space the names
//! behind `from … import`, with commas between them.

use std::fmt::Write as _;

/// Imports and imported names of one source; the largest generated modules
/// have hundreds.
const NAMES_MAX: usize = 10_000;
/// Bytes of a dotted name: it becomes a path.
const NAME_BYTES_MAX: usize = 1024;
/// Bytes of a statement that is looked at.
const STATEMENT_MAX: usize = 256 << 10;

/// One imported name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import<'a> {
    /// Only under `if __name__ == …`.
    pub(super) main_only: bool,
    /// Leading dots of a relative import.
    pub(super) level: usize,
    /// `a.b.c`; may be empty for a relative import.
    pub(super) module: &'a str,
    names: &'a str,
}

impl<'a> Import<'a> {
    /// Names after `from … import`: attributes or submodules.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.names.split(',').filter(|name| !name.is_empty())
    }
}

/// Reads a list that [`scan`] made. Lists in a record of somebody else's may
/// say anything; so may sources.
pub(super) fn list(text: &str) -> impl Iterator<Item = Import<'_>> {
    text.lines().take(NAMES_MAX).map(|line| {
        let (module, names) = line.split_once(' ').unwrap_or((line, ""));
        let main_only = module.starts_with('!');
        let dotted = module.trim_start_matches('!');
        let module = dotted.trim_start_matches('.');
        Import {
            main_only,
            level: dotted.len() - module.len(),
            module,
            names,
        }
    })
}

/// The imports of a source in order.
pub(super) fn scan(source: &[u8]) -> String {
    let mut lines = Lines { source, at: 0 };
    let mut list = List {
        out: String::new(),
        left: NAMES_MAX,
    };
    // Indentation of a block that is left out, while in it; and of the block
    // that is for the main program only.
    let (mut skipping, mut main): (Option<usize>, Option<usize>) = (None, None);
    let mut statement = Vec::new();
    while let Some(indent) = lines.indent() {
        if skipping.is_some_and(|block| indent > block) {
            lines.skip_line();
            continue;
        }
        skipping = None;
        main = main.filter(|block| indent > *block);
        let mut first = true;
        loop {
            statement.clear();
            let more = lines.statement(&mut statement);
            let text = String::from_utf8_lossy(&statement);
            let text = text.trim();
            if std::mem::take(&mut first) {
                if is_left_out(text) {
                    skipping = Some(indent);
                    if more {
                        lines.skip_line();
                    }
                    break;
                }
                if text.starts_with("if __name__") {
                    main = Some(indent);
                }
            }
            list.statement(body(text), main.is_some());
            if !more {
                break;
            }
            lines.blanks();
        }
    }
    list.out
}

fn is_left_out(statement: &str) -> bool {
    statement.starts_with("def ")
        || statement.starts_with("async def ")
        || (statement.starts_with("if ")
            && statement.contains("TYPE_CHECKING")
            && !statement.contains("not "))
}

/// `try: import x` on one line.
fn body(statement: &str) -> &str {
    let split = statement.split_once(": ").filter(|(head, _)| {
        ["try", "else", "finally"].contains(head)
            || head.starts_with("except")
            || head.starts_with("if ")
    });
    split.map_or(statement, |(_, body)| body.trim())
}

/// Statements that may be, or may hold, or may leave out an import.
const STARTS: [&[u8]; 9] = [
    b"import", b"from", b"def", b"async", b"if", b"try", b"else", b"except", b"finally",
];

/// A cursor over logical lines.
struct Lines<'s> {
    source: &'s [u8],
    at: usize,
}

impl Lines<'_> {
    fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    /// Skips to the next line with something on it; how far it is indented.
    fn indent(&mut self) -> Option<usize> {
        loop {
            let start = self.at;
            self.blanks();
            match self.peek()? {
                b'\n' | b'\r' => self.at += 1,
                b'#' => self.skip_comment(),
                _ => return Some(self.at - start),
            }
        }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\x0c')) {
            self.at += 1;
        }
    }

    fn skip_comment(&mut self) {
        while self.peek().is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        while self.run(None) {}
    }

    /// Goes behind the statement here and, if it may be of interest, copies
    /// it, the insides of strings left out; whether more follow on the line.
    fn statement(&mut self, out: &mut Vec<u8>) -> bool {
        let rest = &self.source[self.at..];
        let wanted = STARTS.iter().any(|start| rest.starts_with(start));
        self.run(wanted.then_some(out))
    }

    /// To the end of the statement; whether it ended with a semicolon.
    fn run(&mut self, mut out: Option<&mut Vec<u8>>) -> bool {
        let mut depth = 0usize;
        loop {
            let start = self.at;
            let rest = &self.source[start..];
            let plain = rest.iter().position(|b| SPECIAL[usize::from(*b)]);
            self.at = start + plain.unwrap_or(rest.len());
            if let Some(out) = &mut out
                && out.len() < STATEMENT_MAX
            {
                out.extend_from_slice(&self.source[start..self.at]);
            }
            let Some(byte) = self.peek() else {
                return false;
            };
            let mut push = |byte| {
                if let Some(out) = &mut out {
                    out.push(byte);
                }
            };
            self.at += 1;
            match byte {
                b'"' | b'\'' => {
                    push(b'_');
                    self.skip_string(byte);
                }
                b'#' => self.skip_comment(),
                b'\\' => {
                    if self.peek() == Some(b'\r') {
                        self.at += 1;
                    }
                    if self.peek() == Some(b'\n') {
                        self.at += 1;
                    }
                }
                b'\n' if depth == 0 => return false,
                b';' if depth == 0 => return true,
                b'\n' => push(b' '),
                b'(' | b'[' | b'{' => {
                    depth += 1;
                    push(byte);
                }
                b')' | b']' | b'}' => {
                    depth = depth.saturating_sub(1);
                    push(byte);
                }
                _ => push(byte),
            }
        }
    }

    /// Goes behind the string that began with `quote`.
    fn skip_string(&mut self, quote: u8) {
        let triple = self.source[self.at..].starts_with(&[quote, quote]);
        if triple {
            self.at += 2;
        }
        loop {
            let rest = &self.source[self.at.min(self.source.len())..];
            let ends = |b: &u8| *b == quote || *b == b'\\' || (*b == b'\n' && !triple);
            let Some(len) = rest.iter().position(ends) else {
                break;
            };
            self.at += len + 1;
            match rest[len] {
                b'\\' => self.at += 1,
                // A single-quoted string does not span lines: the source is
                // broken here.
                b'\n' => {
                    self.at -= 1;
                    return;
                }
                _ if !triple => return,
                _ if rest[len..].starts_with(&[quote; 3]) => {
                    self.at += 2;
                    return;
                }
                _ => {}
            }
        }
        // An escape at the very end led outside.
        self.at = self.source.len();
    }
}

/// Bytes that end a plain run of source.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let special = b"\"'#\\\n;()[]{}";
    let mut at = 0;
    while at < special.len() {
        table[special[at] as usize] = true;
        at += 1;
    }
    table
};

/// The list being written.
struct List {
    out: String,
    /// How many more names there may be.
    left: usize,
}

impl List {
    fn one_more(&mut self) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        Some(())
    }

    fn statement(&mut self, statement: &str, main_only: bool) {
        let main = if main_only { "!" } else { "" };
        if let Some(list) = statement.strip_prefix("import ") {
            for item in list.split(',') {
                if self.one_more().is_none() {
                    return;
                }
                let module = first_word(item);
                if is_dotted(module) {
                    let _ = writeln!(self.out, "{main}{module}");
                }
            }
        } else if let Some(rest) = statement.strip_prefix("from ") {
            self.from(rest, main);
        }
    }

    fn from(&mut self, rest: &str, main: &str) -> Option<()> {
        let (module, names) = rest.split_once(" import")?;
        let module = module.trim();
        let dots = &module[..module.len() - module.trim_start_matches('.').len()];
        let module = module.trim_start_matches('.').trim();
        let is_relative = module.is_empty() && !dots.is_empty();
        let is_deep = dots.len() > NAME_BYTES_MAX;
        if is_deep || !(is_dotted(module) || is_relative) {
            return None;
        }
        self.one_more()?;
        let _ = write!(self.out, "{main}{dots}{module}");
        let mut before = ' ';
        for name in names.trim().trim_matches(['(', ')']).split(',') {
            if self.one_more().is_none() {
                break;
            }
            let name = first_word(name);
            if is_dotted(name) {
                self.out.push(std::mem::replace(&mut before, ','));
                self.out.push_str(name);
            }
        }
        self.out.push('\n');
        Some(())
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn is_dotted(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with(|c: char| c.is_ascii_digit())
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(source: &str) -> Vec<String> {
        scan(source.as_bytes()).lines().map(str::to_owned).collect()
    }

    #[test]
    fn executed_imports_are_found_and_others_are_not() {
        let source = r#"
"""import nothing
from nothing import x"""
import os, sys as system
from a.b import (
    c,  # import comment
    d as e,
)
from . import f
from ..g import *
try: import h
except ImportError:
    import i
if TYPE_CHECKING:
    import j
def function():
    import k
    if x:
        import l
class C:
    import m
x = "it's"; import n
s = '#'; from o import p \
    , q
if __name__ == "__main__":
    import r
"#;
        let want = [
            "os", "sys", "a.b c,d", ". f", "..g", "h", "i", "m", "n", "o p,q", "!r",
        ];
        assert_eq!(lines(source), want);
        assert_eq!(lines(&source.replace('\n', "\r\n")), want);
        let list = list("!..a.b c,d\n").next().unwrap();
        assert_eq!((list.main_only, list.level, list.module), (true, 2, "a.b"));
        assert_eq!(list.names().collect::<Vec<_>>(), ["c", "d"]);
    }

    #[test]
    fn blocks_end_where_their_indentation_does() {
        let source = "\
if not TYPE_CHECKING:
    import a
if __name__ == 'x': import b
import c
class D:
    def e(self): import f; import g
    # import h
    def i(self):
        \"\"\"
import j
\"\"\"
        x = {
import k
}
    import l
if typing.TYPE_CHECKING: import m; import n
else: import o; import p
important = from_here
";
        assert_eq!(lines(source), ["a", "!b", "c", "l", "o", "p"]);
    }

    #[test]
    fn names_without_end_are_cut() {
        // Each prefix of a name is looked up: fuzzing found one of 2 KiB that took seconds.
        assert_eq!(lines(&format!("import {}b, c", "a.".repeat(2000))), ["c"]);
        assert_eq!(lines(&"import a, b\n".repeat(NAMES_MAX)).len(), NAMES_MAX);
        let many = scan(format!("from a import {}", "b,".repeat(NAMES_MAX)).as_bytes());
        assert_eq!(list(&many).next().unwrap().names().count(), NAMES_MAX - 1);
        let dots = format!("from {}a import b", ".".repeat(NAME_BYTES_MAX + 1));
        assert_eq!(scan(dots.as_bytes()), "");
    }

    #[test]
    fn broken_sources_end() {
        for source in [
            "'", "\"\"\"", "(((\n", "import", "from x", "\\", "é\\", "'\\",
        ] {
            let _ = scan(source.as_bytes());
        }
    }
}
