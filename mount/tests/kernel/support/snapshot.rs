//! A directory tree as text, one line per entry, for comparing two of them.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat};

/// Which properties are described.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Detail {
    /// Modification times.
    pub(crate) mtime: bool,
    /// Where files have data (`SEEK_DATA`/`SEEK_HOLE`).
    pub(crate) holes: bool,
    /// Overlay's own xattrs, of which only `opaque` is described.
    pub(crate) overlay: bool,
}

/// Every entry below `root` and the root itself, sorted by path.
pub(crate) fn snapshot(root: &Path, detail: Detail) -> Vec<String> {
    let mut snapshot = Snapshot {
        root,
        detail,
        first_names: HashMap::new(),
        lines: Vec::new(),
    };
    snapshot.visit(root);
    snapshot.lines
}

/// Fails with the lines that differ, not with two whole trees.
#[track_caller]
pub(crate) fn assert_same(what: &str, left: &[String], right: &[String]) {
    if left == right {
        return;
    }
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let there: std::collections::HashSet<&String> = b.iter().collect();
        a.iter()
            .filter(|line| !there.contains(line))
            .take(20)
            .cloned()
            .collect()
    };
    panic!(
        "{what} differ ({} and {} entries)\nonly in the first:\n  {}\nonly in the second:\n  {}",
        left.len(),
        right.len(),
        only(left, right).join("\n  "),
        only(right, left).join("\n  ")
    );
}

struct Snapshot<'a> {
    root: &'a Path,
    detail: Detail,
    /// Hard links are described by the first name of the file.
    first_names: HashMap<(u64, u64), PathBuf>,
    lines: Vec<String>,
}

impl Snapshot<'_> {
    fn visit(&mut self, path: &Path) {
        let stat = rustix::fs::lstat(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let kind = FileType::from_raw_mode(stat.st_mode);
        let relative = path
            .strip_prefix(self.root)
            .expect("below the root")
            .to_owned();
        let mut line = format!(
            "{} {kind:?} {:o} {}:{}",
            relative.as_os_str().as_bytes().escape_ascii(),
            stat.st_mode & 0o7777,
            stat.st_uid,
            stat.st_gid
        );
        self.describe(path, &relative, &stat, kind, &mut line);
        self.lines.push(line);
        if kind == FileType::Directory {
            let mut names: Vec<_> = std::fs::read_dir(path)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
                .map(|entry| entry.expect("an entry").path())
                .collect();
            names.sort_unstable();
            for name in names {
                self.visit(&name);
            }
        }
    }

    fn describe(
        &mut self,
        path: &Path,
        relative: &Path,
        stat: &Stat,
        kind: FileType,
        line: &mut String,
    ) {
        let mut add = |text: String| {
            line.push(' ');
            line.push_str(&text);
        };
        if self.detail.mtime {
            add(format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec));
        }
        if kind != FileType::Directory {
            let first = self
                .first_names
                .entry((stat.st_dev, stat.st_ino))
                .or_insert_with(|| relative.to_owned());
            add(format!("links={}", stat.st_nlink));
            if first != relative {
                add(format!("same-as={}", first.display()));
            }
        }
        match kind {
            FileType::RegularFile => add(content(path, stat.st_size.cast_unsigned(), self.detail)),
            FileType::Symlink => {
                let target = rustix::fs::readlink(path, Vec::new()).expect("readlink");
                add(format!("-> {}", target.as_bytes().escape_ascii()));
            }
            FileType::CharacterDevice | FileType::BlockDevice => add(format!(
                "{}:{}",
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev)
            )),
            _ => {}
        }
        for xattr in xattrs(path, self.detail.overlay) {
            add(xattr);
        }
    }
}

fn content(path: &Path, size: u64, detail: Detail) -> String {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hasher = blake3::Hasher::new();
    // Small for small files: there are many of them.
    let mut buffer = vec![0_u8; size.clamp(1, 256 * 1024) as usize];
    let mut total = 0_u64;
    loop {
        let len = rustix::io::read(&fd, &mut buffer)
            .unwrap_or_else(|e| panic!("reading {}: {e}", path.display()));
        if len == 0 {
            break;
        }
        total += len as u64;
        hasher.update(&buffer[..len]);
    }
    assert_eq!(total, size, "{}: size and content", path.display());
    let mut text = format!("size={size} {}", &hasher.finalize().to_hex()[..16]);
    if detail.holes {
        write!(text, " data={:?}", data_runs(&fd)).expect("writing to a string");
    }
    text
}

fn data_runs(fd: &std::os::fd::OwnedFd) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(fd, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(fd, SeekFrom::Hole(start)).expect("the end of data");
        runs.push((start, end));
        at = end;
    }
    runs
}

fn xattrs(path: &Path, overlay: bool) -> Vec<String> {
    let mut nothing: [u8; 0] = [];
    let size = rustix::fs::llistxattr(path, &mut nothing).unwrap_or(0);
    if size == 0 {
        return Vec::new();
    }
    let mut names = vec![0_u8; size];
    let len = rustix::fs::llistxattr(path, &mut names).expect("listxattr");
    let mut found = Vec::new();
    for name in names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let text = String::from_utf8_lossy(name).into_owned();
        let of_overlay = text.starts_with("trusted.overlay.");
        if of_overlay && !(overlay && text == "trusted.overlay.opaque") {
            continue; // origin and impure name inodes and say nothing of content
        }
        let mut value = vec![0_u8; 64 * 1024];
        let len = rustix::fs::lgetxattr(path, &text[..], &mut value)
            .unwrap_or_else(|e| panic!("{}: {text}: {e}", path.display()));
        found.push(format!("{text}={}", value[..len].escape_ascii()));
    }
    found.sort_unstable();
    found
}
