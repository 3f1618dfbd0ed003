//! A directory on disk -> a tree without file content.
//!
//! Threads take directories from one queue; what they find is put together in
//! path order afterwards, so the first name of a hard-linked file is always
//! the same one.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use lamina_flist::{
    Device, EntryName, FileContent, FileData, Metadata, Node, NodeId, NodeKind, Timestamp, Tree,
};
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::{PackDirError, PackDirOptions};
use crate::beneath;

/// Notes kept.
const NOTES_MAX: usize = 100;

/// What a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanStats {
    /// Names.
    pub entries: u64,
    /// Logical bytes of regular files, hard links once.
    pub file_bytes: u64,
    /// Entries left out by a pattern.
    pub excluded: u64,
    /// The first things that could not be kept.
    pub notes: Vec<ScanNote>,
}

/// Something that a flist cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanNote {
    /// Which file.
    pub path: PathBuf,
    /// The xattr that was left out.
    pub xattr: String,
}

/// A regular file whose content is to be read.
pub(super) struct FileToRead {
    pub(super) node: NodeId,
    pub(super) path: Vec<u8>,
    pub(super) stat: Seen,
}

/// What tells whether a file is still the one that was scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    dev: u64,
    ino: u64,
    pub(super) size: u64,
    mtime: (i64, u64),
    ctime: (i64, u64),
    pub(super) blocks: u64,
}

pub(super) struct Scanned {
    pub(super) root: OwnedFd,
    pub(super) tree: Tree,
    pub(super) files: Vec<FileToRead>,
    pub(super) stats: ScanStats,
}

struct Found {
    name: Vec<u8>,
    stat: Stat,
    meta: Metadata,
    dropped: Vec<String>,
    target: Option<Vec<u8>>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Vec<u8>>,
    busy: usize,
    found: HashMap<Vec<u8>, Vec<Found>>,
    entries: u64,
    excluded: u64,
    failed: Option<PackDirError>,
}

struct Scanner<'a> {
    root: BorrowedFd<'a>,
    shown: &'a Path,
    device: u64,
    options: &'a PackDirOptions,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Scans `path`.
pub(super) fn scan(path: &Path, options: &PackDirOptions) -> Result<Scanned, PackDirError> {
    let failed = |e| PackDirError::io("open", path, e);
    let root: OwnedFd = File::open(path).map_err(failed)?.into();
    let stat = rustix::fs::fstat(&root).map_err(|e| failed(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(failed(Errno::NOTDIR.into()));
    }
    let (meta, dropped) = metadata(root.as_fd(), b".", &stat)
        .map_err(|e| PackDirError::io("read the attributes of", path, e))?;
    let scanner = Scanner {
        root: root.as_fd(),
        shown: path,
        device: stat.st_dev,
        options,
        queue: Mutex::new(Queue {
            waiting: vec![Vec::new()],
            ..Queue::default()
        }),
        changed: Condvar::new(),
    };
    std::thread::scope(|scope| {
        for _ in 1..options.threads.max(1) {
            // With fewer threads than asked for it only takes longer.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || scanner.work());
        }
        scanner.work();
    });
    let mut queue = scanner
        .queue
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = queue.failed {
        return Err(error);
    }
    let mut stats = ScanStats {
        excluded: queue.excluded,
        ..ScanStats::default()
    };
    note(&mut stats, path, dropped);
    let mut assembly = Assembly {
        shown: path,
        tree: Tree::new(meta),
        files: Vec::new(),
        links: HashMap::new(),
        stats,
    };
    assembly.run(&mut queue.found)?;
    let Assembly {
        tree, files, stats, ..
    } = assembly;
    Ok(Scanned {
        root,
        tree,
        files,
        stats,
    })
}

impl Scanner<'_> {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some(directory) = self.take() {
            let result = self.list(&directory);
            let mut queue = self.lock();
            queue.busy -= 1;
            match result {
                Ok((found, excluded)) => {
                    queue.entries += found.len() as u64;
                    queue.excluded += excluded;
                    if queue.entries > self.options.entries_max {
                        let (path, max) = (self.shown.to_owned(), self.options.entries_max);
                        queue
                            .failed
                            .get_or_insert(PackDirError::TooMany { path, max });
                    }
                    queue.waiting.extend(self.below(&directory, &found));
                    queue.found.insert(directory, found);
                }
                Err(error) => {
                    queue.failed.get_or_insert(error);
                }
            }
            self.changed.notify_all();
        }
    }

    /// The next directory; `None` when there will be none.
    fn take(&self) -> Option<Vec<u8>> {
        let mut queue = self.lock();
        loop {
            if queue.failed.is_some() {
                return None;
            }
            if let Some(directory) = queue.waiting.pop() {
                queue.busy += 1;
                return Some(directory);
            }
            if queue.busy == 0 {
                return None;
            }
            queue = self
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Directories to look into.
    fn below(&self, directory: &[u8], found: &[Found]) -> Vec<Vec<u8>> {
        found
            .iter()
            .filter(|f| FileType::from_raw_mode(f.stat.st_mode) == FileType::Directory)
            .filter(|f| !self.options.one_file_system || f.stat.st_dev == self.device)
            .map(|f| join(directory, &f.name))
            .collect()
    }

    fn list(&self, directory: &[u8]) -> Result<(Vec<Found>, u64), PackDirError> {
        let shown = self.shown.join(os(directory));
        let failed = |e| PackDirError::io("list", &shown, e);
        let fd = beneath::open_directory(self.root, directory).map_err(failed)?;
        let mut found = Vec::new();
        let mut excluded = 0;
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = join(directory, name);
            if self.options.exclude.iter().any(|glob| glob.matches(&path)) {
                excluded += 1;
                continue;
            }
            found.push(self.look(fd.as_fd(), name, &path)?);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((found, excluded))
    }

    fn look(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<Found, PackDirError> {
        let failed =
            |operation| move |e: Errno| PackDirError::io(operation, &self.shown.join(os(path)), e);
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at"))?;
        let (meta, dropped) =
            metadata(directory, name, &stat).map_err(failed("read the attributes of"))?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new());
                Some(target.map_err(failed("read the link"))?.into_bytes())
            }
            _ => None,
        };
        Ok(Found {
            name: name.to_vec(),
            stat,
            meta,
            dropped,
            target,
        })
    }
}

/// Puts what was found together in path order.
struct Assembly<'a> {
    shown: &'a Path,
    tree: Tree,
    files: Vec<FileToRead>,
    links: HashMap<(u64, u64), NodeId>,
    stats: ScanStats,
}

impl Assembly<'_> {
    fn run(&mut self, found: &mut HashMap<Vec<u8>, Vec<Found>>) -> Result<(), PackDirError> {
        let root = found.remove(&Vec::new()).unwrap_or_default();
        let mut stack = vec![(Tree::ROOT, Vec::new(), root.into_iter())];
        while let Some((parent, directory, entries)) = stack.last_mut() {
            let Some(entry) = entries.next() else {
                stack.pop();
                continue;
            };
            let path = join(directory, &entry.name);
            let node = self.add(*parent, entry, &path)?;
            if self.tree.directory(node).is_some() {
                let entries = found.remove(&path).unwrap_or_default();
                stack.push((node, path, entries.into_iter()));
            }
        }
        Ok(())
    }

    fn add(&mut self, parent: NodeId, found: Found, path: &[u8]) -> Result<NodeId, PackDirError> {
        self.stats.entries += 1;
        let shown = || self.shown.join(os(path));
        let failed = |source| PackDirError::Tree {
            path: shown(),
            source,
        };
        let name = EntryName::new(found.name)
            .map_err(|e| PackDirError::io("add", &shown(), std::io::Error::other(e)))?;
        let stat = &found.stat;
        let id = (stat.st_dev, stat.st_ino);
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1
            && !is_directory
            && let Some(node) = self.links.get(&id)
        {
            self.tree.link(parent, name, *node).map_err(failed)?;
            return Ok(*node);
        }
        let node = Node {
            meta: found.meta,
            kind: kind(stat, found.target),
        };
        let is_file = matches!(node.kind, NodeKind::File(_));
        let node = self.tree.insert(parent, name, node).map_err(failed)?;
        if stat.st_nlink > 1 && !is_directory {
            self.links.insert(id, node);
        }
        if is_file && stat.st_size > 0 {
            self.stats.file_bytes += stat.st_size.cast_unsigned();
            self.files.push(FileToRead {
                node,
                path: path.to_vec(),
                stat: Seen::new(stat),
            });
        }
        note(&mut self.stats, &self.shown.join(os(path)), found.dropped);
        Ok(node)
    }
}

impl Seen {
    pub(super) fn new(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size.cast_unsigned(),
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
            ctime: (stat.st_ctime, stat.st_ctime_nsec),
            blocks: stat.st_blocks.cast_unsigned(),
        }
    }

    /// Whether a later look shows the same content.
    pub(super) fn is_unchanged(&self, now: &Self) -> bool {
        // Writing dirty pages back may change the block count.
        Self {
            blocks: self.blocks,
            ..*now
        } == *self
    }
}

fn kind(stat: &Stat, target: Option<Vec<u8>>) -> NodeKind {
    let device = Device {
        major: rustix::fs::major(stat.st_rdev),
        minor: rustix::fs::minor(stat.st_rdev),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => NodeKind::directory(),
        FileType::Symlink => NodeKind::Symlink(target.unwrap_or_default()),
        FileType::CharacterDevice => NodeKind::CharDevice(device),
        FileType::BlockDevice => NodeKind::BlockDevice(device),
        FileType::Fifo => NodeKind::Fifo,
        FileType::Socket => NodeKind::Socket,
        _ => NodeKind::File(FileContent {
            size: stat.st_size.cast_unsigned(),
            data: FileData::Inline(Vec::new()),
        }),
    }
}

fn metadata(
    directory: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
) -> Result<(Metadata, Vec<String>), Errno> {
    let (xattrs, dropped) = xattrs(directory, name)?;
    let meta = Metadata {
        perm: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        xattrs,
    };
    Ok((meta, dropped))
}

type Xattrs = (std::collections::BTreeMap<Vec<u8>, Vec<u8>>, Vec<String>);

fn xattrs(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Xattrs, Errno> {
    let path = beneath::proc_path(directory, name);
    let mut kept = Xattrs::default();
    // Most entries have none, or few with short names.
    let mut list = vec![0; 1024];
    let len = match rustix::fs::llistxattr(&path, &mut list) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => return Ok(kept),
        Err(Errno::RANGE) => {
            // `XATTR_LIST_MAX`
            list.resize(65_536, 0);
            rustix::fs::llistxattr(&path, &mut list)?
        }
        Err(e) => return Err(e),
    };
    for key in list[..len].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        if !is_storable(key) {
            kept.1.push(String::from_utf8_lossy(key).into_owned());
            continue;
        }
        let mut value = vec![0; 65_536];
        match rustix::fs::lgetxattr(&path, key, &mut value) {
            Ok(len) => {
                value.truncate(len);
                value.shrink_to_fit();
                kept.0.insert(key.to_vec(), value);
            }
            // Removed meanwhile.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(kept)
}

/// The name spaces that any Linux file system stores, except what would steer
/// an overlay mounted on the flist.
fn is_storable(name: &[u8]) -> bool {
    let spaces: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    let overlay: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
    let acl = name == b"system.posix_acl_access" || name == b"system.posix_acl_default";
    (acl || spaces.iter().any(|s| name.starts_with(s)))
        && !overlay.iter().any(|o| name.starts_with(o))
}

fn note(stats: &mut ScanStats, path: &Path, dropped: Vec<String>) {
    let room = NOTES_MAX.saturating_sub(stats.notes.len());
    let notes = dropped.into_iter().take(room);
    stats.notes.extend(notes.map(|xattr| ScanNote {
        path: path.to_owned(),
        xattr,
    }));
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, b"/", name].concat()
    }
}

fn os(path: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))
}
