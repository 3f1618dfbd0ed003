//! The names: directories, empty files of the right size, links and devices.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lamina_flist::{Device, FileContent, FileData, Metadata, Node, NodeId, NodeKind, Tree};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, linkat, mkdirat, mknodat, openat, unlinkat};
use rustix::io::Errno;

use super::{Target, UnpackError};
use crate::beneath::{self, split_last};
use crate::content_map::{ContentMap, PlacedChunk};
use crate::progress::Progress;

/// A file whose content is to be written.
pub(super) struct PendingFile<'t> {
    pub(super) path: Vec<u8>,
    pub(super) chunks: Vec<PlacedChunk>,
    pub(super) meta: &'t Metadata,
}

/// What is left to do when every name exists.
pub(super) struct Pending<'t> {
    pub(super) files: Vec<PendingFile<'t>>,
    /// Parents before children.
    pub(super) directories: Vec<(Vec<u8>, &'t Metadata)>,
}

/// Creates every name of `tree`.
pub(super) fn create<'t>(
    target: &mut Target<'_>,
    tree: &'t Tree,
    map: &ContentMap<'_>,
    progress: &dyn Progress,
) -> Result<Pending<'t>, UnpackError> {
    let mut creation = Creation {
        target,
        map,
        parent: None,
        first: HashMap::new(),
        pending: Pending {
            files: Vec::new(),
            directories: Vec::new(),
        },
    };
    for (path, id) in tree.walk() {
        let node = tree.node(id);
        if path.is_empty() {
            creation.pending.directories.push((path, &node.meta));
            continue;
        }
        if !creation.target.options.devices && is_device(&node.kind) {
            continue;
        }
        let linked = !node.kind.is_directory() && tree.nlink(id) > 1;
        creation.add(path, node, linked.then_some(id))?;
        creation.target.report.entries += 1;
        progress.advanced(1, 0);
    }
    Ok(creation.pending)
}

struct Creation<'c, 'o, 't> {
    target: &'c mut Target<'o>,
    map: &'c ContentMap<'c>,
    /// The directory of the last name: most names share it with the next.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// First path of every file with several.
    first: HashMap<NodeId, Vec<u8>>,
    pending: Pending<'t>,
}

impl<'t> Creation<'_, '_, 't> {
    fn add(
        &mut self,
        path: Vec<u8>,
        node: &'t Node,
        linked: Option<NodeId>,
    ) -> Result<(), UnpackError> {
        let (parent, name) = split_last(&path);
        let parent = self.parent(parent)?;
        if let Some(id) = linked {
            if let Some(first) = self.first.get(&id) {
                let result = self.link(first, parent.as_fd(), name);
                return self.done(parent, &path, "link", result);
            }
            self.first.insert(id, path.clone());
        }
        match &node.kind {
            NodeKind::Directory(_) => {
                let result = self.make_directory(parent.as_fd(), name);
                self.pending.directories.push((path.clone(), &node.meta));
                self.done(parent, &path, "create", result)
            }
            NodeKind::File(content) => self.file(parent, path, &node.meta, content),
            _ => self.special(parent, &path, node),
        }
    }

    /// Takes the cached parent; [`Self::done`] puts it back.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        match self.parent.take() {
            Some((cached, fd)) if cached == path => Ok(fd),
            _ => self.target.directory(path),
        }
    }

    fn done(
        &mut self,
        parent: OwnedFd,
        path: &[u8],
        operation: &'static str,
        result: Result<(), Errno>,
    ) -> Result<(), UnpackError> {
        self.parent = Some((split_last(path).0.to_vec(), parent));
        result.map_err(|e| UnpackError::io(operation, &self.target.path(path), e))
    }

    /// Runs `make`; if the name is taken and may be replaced, removes it first.
    fn replacing<T>(
        &self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match make() {
            Err(Errno::EXIST) if self.target.options.into_existing => {
                match unlinkat(parent, name, AtFlags::empty()) {
                    Err(Errno::ISDIR) => unlinkat(parent, name, AtFlags::REMOVEDIR)?,
                    other => other?,
                }
                make()
            }
            other => other,
        }
    }

    fn make_directory(&self, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let make = || mkdirat(parent, name, Mode::RWXU);
        match make() {
            Err(Errno::EXIST) if self.target.options.into_existing => {
                // A directory that is there is used, anything else replaced.
                match beneath::open_directory(parent, name) {
                    Ok(_) => Ok(()),
                    Err(_) => self.replacing(parent, name, make),
                }
            }
            other => other,
        }
    }

    fn link(&self, first: &[u8], parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let (directory, base) = split_last(first);
        let directory = beneath::open_directory(self.target.root.as_fd(), directory)?;
        self.replacing(parent, name, || {
            linkat(&directory, base, parent, name, AtFlags::empty())
        })
    }

    fn file(
        &mut self,
        parent: OwnedFd,
        path: Vec<u8>,
        meta: &'t Metadata,
        content: &FileContent,
    ) -> Result<(), UnpackError> {
        let name = split_last(&path).1;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = self.replacing(parent.as_fd(), name, || {
            openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)
        });
        let (fd, result) = match opened {
            Ok(fd) => (Some(fd), Ok(())),
            Err(e) => (None, Err(e)),
        };
        self.done(parent, &path, "create", result)?;
        let fd = fd.expect("done gave up otherwise");
        let chunks = self.map.chunks(content)?;
        let written = match &content.data {
            FileData::Inline(bytes) => write_all(&fd, bytes),
            _ => rustix::fs::ftruncate(&fd, content.size),
        };
        written.map_err(|e| UnpackError::io("write", &self.target.path(&path), e))?;
        if let FileData::Inline(bytes) = &content.data {
            self.target.report.bytes += bytes.len() as u64;
        }
        if chunks.is_empty() {
            return self.target.apply(&fd, &path, meta);
        }
        self.pending.files.push(PendingFile { path, chunks, meta });
        Ok(())
    }

    fn special(&mut self, parent: OwnedFd, path: &[u8], node: &'t Node) -> Result<(), UnpackError> {
        let name = split_last(path).1;
        let at = parent.as_fd();
        let node_at = |kind: FileType, device: Device| {
            let device = rustix::fs::makedev(device.major, device.minor);
            self.replacing(at, name, || mknodat(at, name, kind, Mode::RUSR, device))
        };
        let none = Device { major: 0, minor: 0 };
        let result = match &node.kind {
            NodeKind::Symlink(to) => {
                self.replacing(at, name, || rustix::fs::symlinkat(to.as_slice(), at, name))
            }
            NodeKind::CharDevice(device) => node_at(FileType::CharacterDevice, *device),
            NodeKind::BlockDevice(device) => node_at(FileType::BlockDevice, *device),
            NodeKind::Fifo => node_at(FileType::Fifo, none),
            NodeKind::Socket => node_at(FileType::Socket, none),
            // `unpack` refused layers.
            _ => Err(Errno::INVAL),
        };
        let created = result.is_ok();
        if is_device(&node.kind) {
            self.target.tolerate(result, "create", path, "device")?;
            self.done(parent, path, "create", Ok(()))?;
        } else {
            self.done(parent, path, "create", result)?;
        }
        if created {
            self.target.apply_special(path, node)
        } else {
            Ok(())
        }
    }
}

fn is_device(kind: &NodeKind) -> bool {
    matches!(kind, NodeKind::CharDevice(_) | NodeKind::BlockDevice(_))
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::io::write(fd, bytes))?;
        bytes = &bytes[n..];
    }
    Ok(())
}
