//! The imports that running a Python source executes, without running it.
//!
//! A line scanner, not a parser: it knows strings, brackets, continuation
//! lines and indentation, and leaves out function bodies (imported later, if
//! ever) and `if TYPE_CHECKING:`. What it misses only makes the list shorter.

/// Imports and imported names of one source; the largest generated modules
/// have hundreds.
const NAMES_MAX: usize = 10_000;
/// Bytes of a dotted name: it becomes a path.
const NAME_BYTES_MAX: usize = 1024;

/// One imported name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Import {
    /// Leading dots of a relative import.
    pub(super) level: usize,
    /// `a.b.c`; may be empty for a relative import.
    pub(super) module: String,
    /// Names after `from … import`: attributes or submodules.
    pub(super) names: Vec<String>,
}

/// Imports of a source in order; `is_main` says whether it is the program.
pub(super) fn imports(source: &str, is_main: bool) -> Vec<Import> {
    let mut out = Vec::new();
    // Indentation of a block that is left out, while in it.
    let mut skipping: Option<usize> = None;
    let mut names = NAMES_MAX;
    for line in logical_lines(source) {
        let indent = line.len() - line.trim_start().len();
        if skipping.is_some_and(|block| indent > block) {
            continue;
        }
        skipping = None;
        for (i, statement) in line.split(';').enumerate() {
            let statement = statement.trim();
            if i == 0 && is_left_out(statement, is_main) {
                skipping = Some(indent);
                break;
            }
            // `try: import x` on one line.
            let body = statement
                .split_once(": ")
                .filter(|(head, _)| {
                    ["try", "else", "finally"].contains(head)
                        || head.starts_with("except")
                        || head.starts_with("if ")
                })
                .map_or(statement, |(_, body)| body.trim());
            parse(body, &mut names, &mut out);
        }
    }
    out
}

fn is_left_out(statement: &str, is_main: bool) -> bool {
    statement.starts_with("def ")
        || statement.starts_with("async def ")
        || statement.starts_with("if TYPE_CHECKING")
        || statement.starts_with("if typing.TYPE_CHECKING")
        || (!is_main && statement.starts_with("if __name__"))
}

/// Takes a statement's imports; `names` is how many more there may be.
fn parse(statement: &str, names_left: &mut usize, out: &mut Vec<Import>) {
    let mut one_more = || {
        *names_left = names_left.checked_sub(1)?;
        Some(())
    };
    if let Some(list) = statement.strip_prefix("import ") {
        for item in list.split(',').map_while(|item| one_more().map(|()| item)) {
            let module = first_word(item);
            if is_dotted(module) {
                out.push(Import {
                    level: 0,
                    module: module.to_owned(),
                    names: Vec::new(),
                });
            }
        }
    } else if let Some(rest) = statement.strip_prefix("from ") {
        let Some((module, names)) = rest.split_once(" import") else {
            return;
        };
        let module = module.trim();
        let level = module.len() - module.trim_start_matches('.').len();
        let module = module.trim_start_matches('.').trim();
        let is_relative = module.is_empty() && level > 0;
        if !(is_dotted(module) || is_relative) || one_more().is_none() {
            return;
        }
        let names = names
            .trim()
            .trim_matches(['(', ')'])
            .split(',')
            .map_while(|name| one_more().map(|()| first_word(name)))
            .filter(|name| is_dotted(name))
            .map(str::to_owned)
            .collect();
        out.push(Import {
            level,
            module: module.to_owned(),
            names,
        });
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

/// Source lines with continuations joined; comments and the insides of strings
/// are gone.
fn logical_lines(source: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut depth = 0usize;
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        if let Some(quote) = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|q| rest.starts_with(q))
        {
            line.push('_');
            rest = after_string(&rest[quote.len()..], quote);
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            '#' => rest = &rest[rest.find('\n').unwrap_or(rest.len())..],
            '\\' if rest.starts_with('\n') => rest = &rest[1..],
            '\n' if depth > 0 => line.push(' '),
            '\n' => {
                if !line.trim().is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                line.clear();
            }
            _ => {
                match c {
                    '(' | '[' | '{' => depth += 1,
                    ')' | ']' | '}' => depth = depth.saturating_sub(1),
                    _ => {}
                }
                line.push(c);
            }
        }
    }
    if !line.trim().is_empty() {
        lines.push(line);
    }
    lines
}

/// What follows the string that ends with `quote`.
fn after_string<'s>(text: &'s str, quote: &str) -> &'s str {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' {
            at += 2;
            continue;
        }
        if bytes[at..].starts_with(quote.as_bytes()) {
            return &text[at + quote.len()..];
        }
        // A single-quoted string does not span lines: the source is broken here.
        if quote.len() == 1 && bytes[at] == b'\n' {
            return &text[at..];
        }
        at += 1;
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(source: &str) -> Vec<String> {
        imports(source, false)
            .into_iter()
            .map(|i| format!("{}{} {}", ".".repeat(i.level), i.module, i.names.join(",")))
            .collect()
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
            "os ", "sys ", "a.b c,d", ". f", "..g ", "h ", "i ", "m ", "n ", "o p,q",
        ];
        assert_eq!(scan(source), want);
        assert_eq!(imports("if __name__ == 'x':\n  import r", true).len(), 1);
    }

    #[test]
    fn names_without_end_are_cut() {
        // Each prefix of a name is looked up: fuzzing found one of 2 KiB that took seconds.
        assert_eq!(scan(&format!("import {}b, c", "a.".repeat(2000))), ["c "]);
        assert_eq!(scan(&"import a, b\n".repeat(NAMES_MAX)).len(), NAMES_MAX);
        let many = imports(&format!("from a import {}", "b,".repeat(NAMES_MAX)), false);
        assert_eq!(many[0].names.len(), NAMES_MAX - 1);
    }

    #[test]
    fn broken_sources_end() {
        for source in [
            "'", "\"\"\"", "(((\n", "import", "from x", "\\", "é\\", "'\\",
        ] {
            let _ = scan(source);
        }
    }
}
