//! Owner, xattrs, mode and time, in the order in which they survive.
//!
//! Changing the owner clears setuid bits and capabilities, so the owner comes
//! first; writing anything changes the time, so the time comes last.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use lamina_flist::{Metadata, Node, NodeKind};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    lsetxattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::{Target, UnpackError};
use crate::beneath::{self, proc_path, split_last};

impl Target<'_> {
    /// Gives an open file or directory its metadata.
    pub(super) fn apply(
        &mut self,
        fd: &OwnedFd,
        path: &[u8],
        meta: &Metadata,
    ) -> Result<(), UnpackError> {
        let link = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (uid, gid) = owner(meta);
        let owned = rustix::fs::chown(&link, uid, gid);
        self.tolerate(owned, "set the owner of", path, "owner")?;
        let io = |e| UnpackError::io("set mode and time of", &self.path(path), e);
        let strips = !self.options.setuid && !is_directory(fd).map_err(io)?;
        for (name, value) in &meta.xattrs {
            if strips && name.as_slice() == CAPABILITIES {
                continue;
            }
            let set = setxattr(&link, name.as_slice(), value, XattrFlags::empty());
            let what = String::from_utf8_lossy(name);
            self.tolerate(set, "set an attribute of", path, &what)?;
        }
        let kept = if strips { !SETUID_SETGID } else { !0 };
        rustix::fs::chmod(&link, Mode::from_raw_mode(u32::from(meta.perm) & kept))
            .and_then(|()| utimensat(CWD, &link, &times(meta), AtFlags::empty()))
            .map_err(|e| UnpackError::io("set mode and time of", &self.path(path), e))
    }

    /// The same for what cannot be opened for reading or writing.
    pub(super) fn apply_special(&mut self, path: &[u8], node: &Node) -> Result<(), UnpackError> {
        if matches!(node.kind, NodeKind::Symlink(_)) {
            return self.apply_to_link(path, &node.meta);
        }
        let fd = beneath::open(self.root.as_fd(), path, OFlags::PATH)
            .map_err(|e| UnpackError::io("open", &self.path(path), e))?;
        self.apply(&fd, path, &node.meta)
    }

    fn apply_to_link(&mut self, path: &[u8], meta: &Metadata) -> Result<(), UnpackError> {
        let (parent, name) = split_last(path);
        let parent = self.directory(parent)?;
        let (uid, gid) = owner(meta);
        let owned = chownat(&parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
        self.tolerate(owned, "set the owner of", path, "owner")?;
        for (key, value) in &meta.xattrs {
            let link = proc_path(parent.as_fd(), name);
            let set: Result<(), Errno> =
                lsetxattr(&link, key.as_slice(), value, XattrFlags::empty());
            let what = String::from_utf8_lossy(key);
            self.tolerate(set, "set an attribute of", path, &what)?;
        }
        utimensat(&parent, name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| UnpackError::io("set the time of", &self.path(path), e))
    }
}

/// What else gives a program its file's rights.
const CAPABILITIES: &[u8] = b"security.capability";
const SETUID_SETGID: u32 = 0o6000;

fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(FileType::from_raw_mode(mode).is_dir())
}

type Owner = (Option<Uid>, Option<Gid>);

fn owner(meta: &Metadata) -> Owner {
    (Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))
}

fn times(meta: &Metadata) -> Timestamps {
    let time = Timespec {
        tv_sec: meta.mtime.secs,
        tv_nsec: i64::from(meta.mtime.nanos),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
