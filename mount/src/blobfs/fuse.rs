//! FUSE messages to [`BlobFs`] calls.
//!
//! `open` and `opendir` answer ENOSYS: the kernel then opens files without
//! asking, so a server that is away for a moment is not even noticed by an
//! open. Entries and attributes never expire: a blob's name and size are its
//! identity.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, Request,
};

use super::core::{Attributes, BlobFs, ROOT_INO, ReadError};

/// As long as the kernel can count: about 136 years.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The shell around a [`BlobFs`]; clones share it.
#[derive(Debug, Clone)]
pub struct BlobFsShell(pub Arc<BlobFs>);

impl Filesystem for BlobFsShell {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 != ROOT_INO {
            return reply.error(Errno::ENOTDIR);
        }
        match self.0.lookup(name.as_bytes()) {
            Some(node) => reply.entry(&FOREVER, &file_attr(node), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(ino.0) {
            Some(node) => reply.attr(&FOREVER, &file_attr(node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0
            .read_at(ino.0, offset, size, move |outcome| match outcome {
                Ok(bytes) => reply.data(bytes),
                Err(error) => {
                    tracing::warn!(error = %chain(&error), offset, size, "read failed with EIO");
                    reply.error(errno(&error));
                }
            });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if ino.0 != ROOT_INO {
            return reply.error(Errno::ENOTDIR);
        }
        // The offset of an entry is its node id: stable while blobs come and go.
        for (node, name) in self.0.list() {
            if node > offset && reply.add(INodeNo(node), node, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, self.0.list().len() as u64, 0, 4096, 255, 4096);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // default_permissions: the kernel checks.
        reply.error(Errno::ENOSYS);
    }
}

/// Everything a reader can meet is EIO; what it was is in the log.
fn errno(error: &ReadError) -> Errno {
    match error {
        ReadError::NoBlob(_) | ReadError::Fill { .. } | ReadError::Disk { .. } => Errno::EIO,
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn file_attr(node: Attributes) -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(node.ino),
        size: node.size,
        blocks: node.size / 512,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: if node.is_dir {
            FileType::Directory
        } else {
            FileType::RegularFile
        },
        perm: if node.is_dir { 0o500 } else { 0o400 },
        nlink: if node.is_dir { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
