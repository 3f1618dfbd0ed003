//! What a file's content says about which other files it needs, found while
//! the bytes pass by on their way into chunks.
//!
//! Of a Python source its imports, of an ELF file what the dynamic loader
//! looks at, of a script its first line. Always: memory is bounded (a few MiB
//! of the file being scanned), the result depends on name and bytes alone, not
//! on how they are cut, and nothing is ever read again.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::elf::{self, Elf};
use super::names::Names;
use super::pyscan;

/// Larger Python sources are data.
const PYTHON_BYTES_MAX: u64 = 4 << 20;
/// Kept from the start of an ELF file; linkers put what the loader needs there.
const ELF_PREFIX_MAX: usize = 8 << 20;
/// Kept of what lies behind that, where patchelf puts it.
const ELF_REST_MAX: usize = 4 << 20;
/// What a file is, is decided on so many bytes (program headers are in them).
const HEAD: usize = 4096;
/// A kernel reads so many of a script's first line.
const SHEBANG_MAX: usize = 256;
/// Memory for the scans of one layer; real ones take some MiB.
const SCANS_BYTES_MAX: usize = 32 << 20;

/// What was found in one file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileScan {
    /// The rest of a first line `#!…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shebang: Option<String>,
    /// A Python source's imports, as [`pyscan::scan`] writes them; of an
    /// extension the names it may import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) imports: Option<String>,
    /// An ELF file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) elf: Option<Elf>,
}

impl FileScan {
    /// About how much memory it takes.
    fn cost(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let elf = self.elf.as_ref().map_or(0, Elf::cost);
        size_of::<Self>() + text(&self.shebang) + text(&self.imports) + elf
    }

    /// Adds what equal content under another name showed.
    fn add(&mut self, other: Self) {
        self.shebang = self.shebang.take().or(other.shebang);
        self.imports = self.imports.take().or(other.imports);
        self.elf = self.elf.take().or(other.elf);
    }
}

/// The scans of one layer by where the file's content begins in the layer's
/// blob; content of inline files is in the tree and scanned there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scans {
    by_offset: BTreeMap<u64, FileScan>,
}

impl Scans {
    /// Scans with their places; those that fit the memory for them.
    pub(crate) fn new(placed: impl IntoIterator<Item = (u64, FileScan)>) -> Self {
        let mut scans = Self::default();
        let mut left = SCANS_BYTES_MAX;
        for (offset, scan) in placed {
            let Some(rest) = left.checked_sub(scan.cost()) else {
                break;
            };
            left = rest;
            scans.by_offset.entry(offset).or_default().add(scan);
        }
        scans
    }

    pub(super) fn get(&self, offset: u64) -> Option<&FileScan> {
        self.by_offset.get(&offset)
    }

    /// For a layer's record.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("maps and strings encode")
    }

    /// From a layer's record.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// Scans a file of `size` bytes that are all at hand.
pub(super) fn scan_whole(name: &[u8], bytes: &[u8]) -> Option<FileScan> {
    let mut scanner = Scanner::new(name, bytes.len() as u64);
    scanner.feed(0, bytes);
    scanner.finish()
}

/// Watches one file's bytes go by.
pub(crate) struct Scanner {
    name: String,
    may_be_python: bool,
    size: u64,
    kind: Kind,
    kept: Kept,
    names: Option<Names>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Too few bytes seen.
    Unknown,
    Script,
    Python,
    Elf,
    /// Nothing to learn.
    Other,
}

impl Scanner {
    /// For a file called `name` (its last component).
    pub(crate) fn new(name: &[u8], size: u64) -> Self {
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            may_be_python: name.ends_with(b".py") && size <= PYTHON_BYTES_MAX,
            size,
            kind: Kind::Unknown,
            kept: Kept::new(HEAD),
            names: None,
        }
    }

    /// Bytes at `offset`; offsets only grow.
    pub(crate) fn feed(&mut self, offset: u64, data: &[u8]) {
        if matches!(self.kind, Kind::Other | Kind::Script) {
            return;
        }
        let taken = self.kept.feed(offset, data);
        if self.kind == Kind::Unknown && self.kept.prefix.len() == HEAD {
            self.decide();
            let (offset, data) = (offset + taken as u64, &data[taken..]);
            self.kept.feed(offset, data);
            self.names_in(offset, data);
        } else {
            self.names_in(offset, data);
        }
    }

    fn names_in(&mut self, offset: u64, data: &[u8]) {
        if let Some(names) = &mut self.names {
            names.feed(offset, data);
        }
    }

    fn decide(&mut self) {
        let head = &self.kept.prefix;
        let shebang = shebang(head);
        let is_python_script = shebang.is_some_and(|line| find(line, b"python").is_some());
        self.kind = if head.starts_with(elf::MAGIC) {
            Kind::Elf
        } else if self.may_be_python || (is_python_script && self.size <= PYTHON_BYTES_MAX) {
            Kind::Python
        } else if shebang.is_some() {
            Kind::Script
        } else {
            Kind::Other
        };
        match self.kind {
            Kind::Python => self.kept.prefix_max = PYTHON_BYTES_MAX as usize,
            Kind::Elf => {
                self.kept.prefix_max = ELF_PREFIX_MAX;
                self.kept.windows = elf::windows(&mut |at, len| self.kept.read_at(at, len));
                let data = elf::data(&mut |at, len| self.kept.read_at(at, len));
                self.names = Names::new(&self.name, data);
                if let Some(names) = &mut self.names {
                    names.feed(0, &self.kept.prefix);
                }
            }
            _ => {}
        }
    }

    /// What was found.
    pub(crate) fn finish(mut self) -> Option<FileScan> {
        if self.kind == Kind::Unknown {
            self.decide();
        }
        let line = || Some(String::from_utf8_lossy(shebang(&self.kept.prefix)?).into_owned());
        let scan = match self.kind {
            Kind::Unknown | Kind::Other => return None,
            Kind::Script => FileScan {
                shebang: line(),
                ..FileScan::default()
            },
            Kind::Python => FileScan {
                shebang: line(),
                imports: Some(pyscan::scan(&self.kept.prefix)),
                elf: None,
            },
            Kind::Elf => FileScan {
                elf: elf::parse(&mut |at, len| self.kept.read_at(at, len)),
                imports: self.names.and_then(Names::finish),
                shebang: None,
            },
        };
        (scan != FileScan::default()).then_some(scan)
    }
}

/// The first line behind `#!`.
fn shebang(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?;
    let line = &line[..line.len().min(SHEBANG_MAX)];
    line.split(|b| *b == b'\n').next()
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|part| part == word)
}

/// The parts of a passing file that are kept: its start, and some windows.
struct Kept {
    prefix: Vec<u8>,
    prefix_max: usize,
    windows: Vec<Range<u64>>,
    /// Bytes of windows, each with its place; neighbours are joined.
    rest: Vec<(u64, Vec<u8>)>,
    rest_left: usize,
}

impl Kept {
    fn new(prefix_max: usize) -> Self {
        Self {
            prefix: Vec::new(),
            prefix_max,
            windows: Vec::new(),
            rest: Vec::new(),
            rest_left: ELF_REST_MAX,
        }
    }

    /// Keeps what is wanted; gives how many bytes went into the prefix.
    fn feed(&mut self, offset: u64, data: &[u8]) -> usize {
        let mut taken = 0;
        if offset == self.prefix.len() as u64 {
            taken = data.len().min(self.prefix_max - self.prefix.len());
            self.prefix.extend_from_slice(&data[..taken]);
        }
        let (start, end) = (offset + taken as u64, offset + data.len() as u64);
        for window in &self.windows {
            let (from, to) = (window.start.max(start), window.end.min(end));
            if from >= to {
                continue;
            }
            let bytes = &data[(from - offset) as usize..(to - offset) as usize];
            let bytes = &bytes[..bytes.len().min(self.rest_left)];
            if bytes.is_empty() {
                return taken;
            }
            self.rest_left -= bytes.len();
            match self.rest.last_mut() {
                Some((at, have)) if *at + have.len() as u64 == from => {
                    have.extend_from_slice(bytes);
                }
                _ => self.rest.push((from, bytes.to_vec())),
            }
        }
        taken
    }

    /// Up to `len` bytes at `at`, as many as were kept; `None` if none were.
    fn read_at(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let prefix = [(0, &self.prefix)].into_iter();
        let parts = prefix.chain(self.rest.iter().map(|(at, bytes)| (*at, bytes)));
        let mut found = parts.filter_map(|(start, bytes)| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            let bytes = bytes.get(from..)?;
            (!bytes.is_empty()).then_some(bytes)
        });
        let bytes = found.next()?;
        Some(bytes[..bytes.len().min(len)].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(name: &[u8], bytes: &[u8], size: usize) -> Option<FileScan> {
        let mut scanner = Scanner::new(name, bytes.len() as u64);
        for (number, piece) in bytes.chunks(size).enumerate() {
            scanner.feed((number * size) as u64, piece);
        }
        scanner.finish()
    }

    #[test]
    fn the_result_does_not_depend_on_how_bytes_arrive() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let source = b"import os\n".repeat(2000);
        for (name, bytes) in [(&b"exe"[..], &own), (b"a.py", &source)] {
            let whole = scan_whole(name, bytes).unwrap();
            for size in [1021, 4096, 65_536, 1 << 20] {
                assert_eq!(in_pieces(name, bytes, size).as_ref(), Some(&whole));
            }
        }
        let elf = scan_whole(b"exe", &own).unwrap().elf.unwrap();
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn names_and_first_bytes_decide() {
        let scan = |name: &[u8], bytes: &[u8]| scan_whole(name, bytes);
        let python = b"#!/usr/bin/env python3\nimport os\n";
        for name in [&b"tool"[..], b"tool.py"] {
            let found = scan(name, python).unwrap();
            assert_eq!(found.shebang.as_deref(), Some("/usr/bin/env python3"));
            assert_eq!(found.imports.as_deref(), Some("os\n"));
        }
        let shell = scan(b"tool", b"#! /bin/sh -e\nimport os\n").unwrap();
        assert_eq!(shell.shebang.as_deref(), Some(" /bin/sh -e"));
        assert_eq!(shell.imports, None);
        assert_eq!(scan(b"tool", b"import os\n"), None);
        assert_eq!(scan(b"a.txt", b""), None);
        assert_eq!(scan(b"broken.so", b"\x7fELF"), None);
        let large = in_pieces(b"a.py", &vec![b'\n'; PYTHON_BYTES_MAX as usize + 1], 65_536);
        assert_eq!(large, None);
    }

    #[test]
    fn strings_behind_the_prefix_are_seen_through_windows() {
        // As patchelf leaves a file: dynamic section and strings at its end.
        let small = super::super::tests::elf("/lib/ld.so", &["liba.so"], "$ORIGIN");
        let at = ELF_PREFIX_MAX as u64 + (1 << 20);
        let mut large = small.clone();
        large.resize(at as usize, 0);
        large.extend_from_slice(&small);
        for header in 0..3 {
            let place = 64 + header * 56 + 8;
            for field in [place, place + 8, place + 16] {
                let old = u64::from_le_bytes(large[field..field + 8].try_into().unwrap());
                large[field..field + 8].copy_from_slice(&(old + at).to_le_bytes());
            }
        }
        // The addresses in the dynamic section stay those of the original.
        let strings = small.windows(8).position(|w| w == b"liba.so\0").unwrap() - 1;
        let entry = [5u64.to_le_bytes(), (strings as u64).to_le_bytes()].concat();
        let place = large.windows(16).rposition(|w| w == entry).unwrap();
        let moved = strings as u64 + at;
        large[place + 8..place + 16].copy_from_slice(&moved.to_le_bytes());
        let elf = in_pieces(b"x.so", &large, 65_536).unwrap().elf.unwrap();
        assert_eq!(elf.needed, ["liba.so"]);
        assert_eq!(elf.interpreter.as_deref(), Some("/lib/ld.so"));
    }

    #[test]
    fn scans_come_back_from_their_bytes() {
        let python = scan_whole(b"a.py", b"import a\n").unwrap();
        let shell = scan_whole(b"b", b"#!/bin/sh\n").unwrap();
        let scans = Scans::new([(4096, python.clone()), (0, shell)]);
        assert_eq!(Scans::parse(&scans.to_bytes()), Some(scans));
        assert_eq!(Scans::parse(b"{}x"), None);
        // What does not fit any more is not kept.
        let long = FileScan {
            shebang: Some("x".repeat(SCANS_BYTES_MAX - 200)),
            ..FileScan::default()
        };
        let full = Scans::new([(0, long), (4096, python.clone()), (8192, python)]);
        assert!(full.get(0).is_some() && full.get(8192).is_none());
    }
}
