//! The FUSE face of [`TreeFs`]: translates, decides nothing.
//!
//! Everything is immutable, so the kernel may keep names (also missing ones),
//! attributes, symlinks and listings for ever, and need not tell us of opens.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use lamina_flist::{FileType as FlistType, Inode, Timestamp};
use rustix::mount::MountFlags;

use super::{Attributes, TreeFs, TreeFsError};
use crate::session::ConnectOptions;

/// Effectively for ever; nothing in an flist changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Inode numbers are never used again.
const GENERATION: Generation = Generation(0);

/// The shell around a [`TreeFs`]; clones share it.
#[derive(Debug, Clone)]
pub struct TreeFsShell(pub Arc<TreeFs>);

/// How to connect a tree file system: `source` is shown in mount tables.
///
/// Read-ahead of directories with attributes where the kernel sees a walk
/// coming, cached symlinks, ACLs enforced by the kernel as on EROFS, and file
/// handles (`EXPORT_SUPPORT`) so that overlayfs recognises lower files.
pub fn connect_options(source: String, devices: usize) -> ConnectOptions {
    ConnectOptions {
        source,
        devices,
        extra_flags: InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_EXPORT_SUPPORT,
        mount_flags: MountFlags::RDONLY,
        ..ConnectOptions::default()
    }
}

impl Filesystem for TreeFsShell {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, name.as_bytes()) {
            Ok(Some(node)) => reply.entry(&FOREVER, &file_attr(&node), GENERATION),
            // Node id 0: the name is known to be missing.
            Ok(None) => reply.entry(&FOREVER, &MISSING, GENERATION),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(ino.0) {
            Ok(node) => reply.attr(&FOREVER, &file_attr(&node)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.readlink(ino.0) {
            Ok(target) => reply.data(target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS); // never asked again
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
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
        self.0.read_at(ino.0, offset, size, move |result| match result {
            Ok(bytes) => reply.data(bytes),
            Err(error) => {
                tracing::warn!(ino = ino.0, offset, size, error = %causes(&error), "read failed");
                reply.error(errno(&error));
            }
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let (Ok(offset), libc::SEEK_DATA | libc::SEEK_HOLE) = (u64::try_from(offset), whence)
        else {
            return reply.error(Errno::EINVAL);
        };
        match self.0.seek(ino.0, offset, whence == libc::SEEK_HOLE) {
            Ok(Some(at)) => reply.offset(at.cast_signed()),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.0.list(ino.0, offset, |entry| {
            let name = OsStr::from_bytes(entry.name);
            let kind = file_type(entry.file_type);
            reply.add(INodeNo(entry.ino), entry.next_offset, kind, name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut failed = None;
        let listed = self.0.list(ino.0, offset, |entry| {
            let node = match self.0.attributes(entry.ino) {
                Ok(node) => node,
                Err(error) => {
                    failed = Some(error);
                    return true;
                }
            };
            let name = OsStr::from_bytes(entry.name);
            let (ino, attr) = (INodeNo(entry.ino), file_attr(&node));
            reply.add(ino, entry.next_offset, name, &FOREVER, &attr, GENERATION)
        });
        match listed.err().or(failed) {
            None => reply.ok(),
            Some(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let totals = self.0.totals();
        reply.statfs(totals.blocks, 0, 0, totals.inodes, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.0.xattr(ino.0, name.as_bytes()) {
            Ok(Some(value)) => sized(&value, size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        // FUSE tells us the caller's user, not its capabilities.
        match self.0.xattr_names(ino.0, req.uid() == 0) {
            Ok(names) => sized(&names, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }
}

fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() <= size as usize {
        reply.data(value);
    } else {
        reply.error(Errno::ERANGE);
    }
}

fn errno(error: &TreeFsError) -> Errno {
    match error {
        TreeFsError::NoInode(_) => Errno::ESTALE,
        TreeFsError::NotADirectory(_) => Errno::ENOTDIR,
        TreeFsError::NotAFile(_) | TreeFsError::NotASymlink(_) => Errno::EINVAL,
        TreeFsError::NameTooLong(_) => Errno::ENAMETOOLONG,
        TreeFsError::Damaged(_) | TreeFsError::Data(_) => Errno::EIO,
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn file_type(file_type: FlistType) -> FileType {
    match file_type {
        FlistType::Directory => FileType::Directory,
        FlistType::File => FileType::RegularFile,
        FlistType::Symlink => FileType::Symlink,
        FlistType::CharDevice => FileType::CharDevice,
        FlistType::BlockDevice => FileType::BlockDevice,
        FlistType::Fifo => FileType::NamedPipe,
        FlistType::Socket => FileType::Socket,
    }
}

const MISSING: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

fn file_attr(node: &Attributes) -> FileAttr {
    let inode = &node.inode;
    let time = system_time(inode.mtime());
    FileAttr {
        ino: INodeNo(node.ino),
        size: inode.size(),
        blocks: inode.size().div_ceil(4096) * 8,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(inode.file_type()),
        perm: inode.perm(),
        nlink: inode.nlink(),
        uid: inode.uid(),
        gid: inode.gid(),
        rdev: rdev(inode),
        blksize: 4096,
        flags: 0,
    }
}

/// `new_encode_dev` of the kernel: what FUSE carries.
fn rdev(inode: &Inode) -> u32 {
    inode.device().map_or(0, |device| {
        (device.minor & 0xff) | (device.major << 8) | ((device.minor & !0xff) << 12)
    })
}

/// The nearest that `SystemTime` can hold, which is every second an `i64` has.
fn system_time(time: Timestamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let secs = Duration::from_secs(time.secs.unsigned_abs());
    let whole = if time.secs >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(secs)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(secs)
    };
    whole
        .and_then(|whole| whole.checked_add(nanos))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
