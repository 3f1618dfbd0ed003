//! Module names among the strings of a compiled Python extension.
//!
//! What Cython compiled imports modules by name, and the names lie as constants
//! in the data of the file: dotted, between two zero bytes. Which of them are
//! modules shows when they are looked up. Found while the bytes pass by.

use std::collections::HashSet;
use std::ops::Range;

/// Bytes of a name.
const NAME_MAX: usize = 96;
/// Names of one file; large modules have a hundred.
const NAMES_MAX: usize = 1024;
/// What is no import of the module: sources and pieces of Cython itself.
const SUFFIXES: [&str; 7] = ["c", "cold", "cpp", "h", "pxd", "py", "pyx"];

/// Looks through the data of one file.
pub(super) struct Names {
    /// `.name.`, for what the module says about itself.
    own: String,
    /// Where data is; in order and apart.
    areas: Vec<Range<u64>>,
    /// Where the next bytes continue.
    next: u64,
    /// The bytes since the last zero, while they may become a name.
    token: Vec<u8>,
    in_token: bool,
    seen: HashSet<String>,
    list: String,
}

impl Names {
    /// For an extension of that file name; `None` if it is none.
    pub(super) fn new(file: &str, areas: Vec<Range<u64>>) -> Option<Self> {
        let (stem, rest) = file.split_once('.')?;
        let is_extension = rest.starts_with("cpython-") || rest == "abi3.so";
        is_extension.then(|| Self {
            own: format!(".{stem}."),
            areas,
            next: 0,
            token: Vec::new(),
            in_token: false,
            seen: HashSet::new(),
            list: String::new(),
        })
    }

    /// Bytes at `offset`; offsets only grow.
    pub(super) fn feed(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        for at in 0..self.areas.len() {
            let area = &self.areas[at];
            let (from, to) = (area.start.max(offset), area.end.min(end));
            if from < to {
                if from != self.next {
                    self.in_token = false;
                }
                self.next = to;
                self.run(&data[(from - offset) as usize..(to - offset) as usize]);
            }
        }
    }

    fn run(&mut self, mut data: &[u8]) {
        let is_part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
        loop {
            if !self.in_token {
                let Some(zero) = data.iter().position(|b| *b == 0) else {
                    return;
                };
                data = &data[zero + 1..];
                self.in_token = true;
                self.token.clear();
            }
            let len = data.iter().position(|b| !is_part(b)).unwrap_or(data.len());
            self.in_token = self.token.len() + len <= NAME_MAX;
            if self.in_token {
                self.token.extend_from_slice(&data[..len]);
            }
            data = &data[len..];
            match data.first() {
                None => return,
                Some(0) if self.in_token => {
                    self.take();
                    self.token.clear();
                    data = &data[1..];
                }
                Some(_) => self.in_token = false,
            }
        }
    }

    /// Takes the token, if it may name a module.
    fn take(&mut self) {
        if !self.token.contains(&b'.') {
            return;
        }
        let Ok(name) = std::str::from_utf8(&self.token) else {
            return;
        };
        let is_dotted = name.split('.').all(|part| {
            let first = part.as_bytes().first();
            first.is_some_and(|b| !b.is_ascii_digit())
        });
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_noise = name.contains("__")
            || name.contains(&self.own)
            || name.starts_with("View.")
            || name == "asyncio.coroutines"
            || SUFFIXES.contains(&last);
        if is_dotted && !is_noise && self.seen.len() < NAMES_MAX {
            let new = self.seen.insert(name.to_owned());
            if new {
                self.list.push_str(name);
                self.list.push('\n');
            }
        }
    }

    /// The names, a line each, as imports are listed.
    pub(super) fn finish(self) -> Option<String> {
        (!self.list.is_empty()).then_some(self.list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(data: &[u8], step: usize) -> Option<String> {
        let all = Vec::from([Range { start: 2, end: 900 }]);
        let mut names = Names::new("mod.cpython-311-x86_64-linux-gnu.so", all).unwrap();
        for (number, piece) in data.chunks(step).enumerate() {
            names.feed((number * step) as u64, piece);
        }
        names.finish()
    }

    #[test]
    fn dotted_constants_are_names_and_other_bytes_are_not() {
        let long = "a.".repeat(NAME_MAX);
        let data = format!(
            "\0x.outside\0a.b\0plain\0d.e-f\0pkg.mod.own\0v1.2\0.g\0h..i\0a.b\0x.pyx\0\
             {long}\0View.x\0asyncio.coroutines\0c.__d__\0pkg.mod2\0unended.name"
        );
        let want = Some("a.b\npkg.mod2\n".to_owned());
        for step in [1, 7, 4096] {
            assert_eq!(names(data.as_bytes(), step), want);
        }
        assert_eq!(names(&[b'a'; 2000], 64), None);
        assert!(Names::new("libx.so", Vec::new()).is_none());
        assert!(Names::new("_x.abi3.so", Vec::new()).is_some());
    }
}
