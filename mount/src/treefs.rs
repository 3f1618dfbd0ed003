//! The tree of an flist as a file system, for kernels without EROFS.
//!
//! The core: no FUSE protocol, no index, no cache. Every answer is computed
//! from the mmap'd flist, whose inode numbers are the node ids handed out (the
//! root is 1, as FUSE wants), so a successor process gives the same answers to
//! a kernel that remembers ids of its predecessor. File bytes come from a
//! [`BlobRead`]; [`shell::TreeFsShell`] speaks FUSE.

pub mod blobs;
mod read;
pub mod shell;

use lamina_flist::{FileType, Flist, FlistError, Inode, SpanSource};

pub use blobs::{BlobFiles, BlobRead, CachedBlobs, ReadDone};
use std::sync::Arc;

/// Node id of the root directory, fixed by FUSE.
pub const ROOT_INO: u64 = 1;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum TreeFsError {
    /// No inode has this node id.
    #[error("no inode with node id {0}")]
    NoInode(u64),
    /// The operation needs a directory.
    #[error("node {0} is no directory")]
    NotADirectory(u64),
    /// The operation needs a regular file.
    #[error("node {0} is no regular file")]
    NotAFile(u64),
    /// The operation needs a symbolic link.
    #[error("node {0} is no symbolic link")]
    NotASymlink(u64),
    /// No component of a path may be longer than 255 bytes.
    #[error("a name of {0} bytes")]
    NameTooLong(usize),
    /// The flist contradicts itself here.
    #[error("damaged flist")]
    Damaged(#[from] FlistError),
    /// File data could not be read.
    #[error("reading file data")]
    Data(#[source] std::io::Error),
}

/// What is known of a node.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Node id.
    pub ino: u64,
    /// The inode it stands for.
    pub inode: Inode,
}

/// One line of a directory.
#[derive(Debug, Clone, Copy)]
pub struct Listed<'a> {
    /// Its node id.
    pub ino: u64,
    /// Its type.
    pub file_type: FileType,
    /// Its name; `.` and `..` too.
    pub name: &'a [u8],
    /// Where to go on after it: never 0, grows.
    pub next_offset: u64,
}

/// Sizes for `statfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Inodes.
    pub inodes: u64,
}

/// An flist being served.
pub struct TreeFs {
    flist: Flist,
    blobs: Arc<dyn BlobRead>,
}

impl std::fmt::Debug for TreeFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeFs")
            .field("flist", &self.flist.digest())
            .finish_non_exhaustive()
    }
}

/// Offsets of a directory: 1 is after `.`, 2 after `..`, then positions of the
/// flist's own.
const FIRST_ENTRY: u64 = 2;

impl TreeFs {
    /// Serves `flist`, whose structure was checked before, with file data from
    /// `blobs`.
    pub fn new(flist: Flist, blobs: Arc<dyn BlobRead>) -> Self {
        Self { flist, blobs }
    }

    /// Finds a name in a directory; `.` and `..` too.
    ///
    /// # Errors
    /// [`TreeFsError`]; a missing name is `Ok(None)`.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attributes>, TreeFsError> {
        if name.len() > 255 {
            return Err(TreeFsError::NameTooLong(name.len()));
        }
        let directory = self.directory(parent)?;
        let found = self.flist.lookup(&directory, name)?;
        found.map(|entry| self.attributes_of(entry.nid)).transpose()
    }

    /// What is known of a node.
    ///
    /// # Errors
    /// [`TreeFsError::NoInode`] or a damaged flist.
    pub fn attributes(&self, ino: u64) -> Result<Attributes, TreeFsError> {
        Ok(Attributes {
            ino,
            inode: self.inode(ino)?,
        })
    }

    /// Gives the entries of a directory from `offset` on (0 is the start) until
    /// `full` says that there was no room for one.
    ///
    /// # Errors
    /// [`TreeFsError`]; entries given before it stay valid.
    pub fn list(
        &self,
        ino: u64,
        offset: u64,
        mut full: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), TreeFsError> {
        let directory = self.directory(ino)?;
        for (at, name) in [(0, &b"."[..]), (1, b"..")] {
            if offset <= at {
                let nid = self.dot(&directory, name)?;
                let listed = Listed {
                    ino: self.ino_of(nid)?,
                    file_type: FileType::Directory,
                    name,
                    next_offset: at + 1,
                };
                if full(listed) {
                    return Ok(());
                }
            }
        }
        let position = offset.saturating_sub(FIRST_ENTRY);
        let mut entries = self.flist.read_dir_from(&directory, position)?;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let listed = Listed {
                ino: self.ino_of(entry.nid)?,
                file_type: entry.file_type,
                name: entry.name,
                next_offset: FIRST_ENTRY + entries.position(),
            };
            if full(listed) {
                break;
            }
        }
        Ok(())
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// [`TreeFsError::NotASymlink`] and others.
    pub fn readlink(&self, ino: u64) -> Result<&[u8], TreeFsError> {
        let inode = self.inode(ino)?;
        if inode.file_type() != FileType::Symlink {
            return Err(TreeFsError::NotASymlink(ino));
        }
        Ok(self.flist.readlink(&inode)?)
    }

    /// One extended attribute by its full name.
    ///
    /// # Errors
    /// [`TreeFsError`]; a missing one is `Ok(None)`.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Vec<u8>>, TreeFsError> {
        Ok(self.flist.xattrs(&self.inode(ino)?)?.remove(name))
    }

    /// Names of extended attributes, each ended by a zero byte. Names under
    /// `trusted.` are listed for `privileged` callers only, as by every other
    /// file system.
    ///
    /// # Errors
    /// [`TreeFsError`].
    pub fn xattr_names(&self, ino: u64, privileged: bool) -> Result<Vec<u8>, TreeFsError> {
        let mut names = Vec::new();
        for name in self.flist.xattrs(&self.inode(ino)?)?.into_keys() {
            if privileged || !name.starts_with(b"trusted.") {
                names.extend(name);
                names.push(0);
            }
        }
        Ok(names)
    }

    /// The first byte at or after `offset` that is data (or, with `hole`, that
    /// is not); `None` if there is none before the end. The end of a file is a
    /// hole.
    ///
    /// # Errors
    /// [`TreeFsError`].
    pub fn seek(&self, ino: u64, offset: u64, hole: bool) -> Result<Option<u64>, TreeFsError> {
        let inode = self.file(ino)?;
        if offset >= inode.size() {
            return Ok(None);
        }
        let mut at = offset;
        while let Some(span) = self.flist.span_at(&inode, at)? {
            if matches!(span.source, SpanSource::Hole) == hole {
                return Ok(Some(at));
            }
            at = span.start + span.len;
        }
        Ok(hole.then_some(inode.size()))
    }

    /// Sizes of the whole.
    pub fn totals(&self) -> Totals {
        let blobs = (0..self.flist.blob_count()).filter_map(|index| self.flist.blob(index));
        let bytes = blobs.map(|blob| blob.len).sum::<u64>() + self.flist.as_bytes().len() as u64;
        Totals {
            blocks: bytes.div_ceil(lamina_flist::BLOCK),
            inodes: self.flist.entry_count(),
        }
    }

    fn inode(&self, ino: u64) -> Result<Inode, TreeFsError> {
        let nid = match ino {
            0 => return Err(TreeFsError::NoInode(ino)),
            ROOT_INO => self.flist.root_nid(),
            nid => nid,
        };
        Ok(self.flist.inode(nid)?)
    }

    fn directory(&self, ino: u64) -> Result<Inode, TreeFsError> {
        let inode = self.inode(ino)?;
        if inode.is_directory() {
            Ok(inode)
        } else {
            Err(TreeFsError::NotADirectory(ino))
        }
    }

    fn file(&self, ino: u64) -> Result<Inode, TreeFsError> {
        let inode = self.inode(ino)?;
        if inode.file_type() == FileType::File {
            Ok(inode)
        } else {
            Err(TreeFsError::NotAFile(ino))
        }
    }

    fn attributes_of(&self, nid: u64) -> Result<Attributes, TreeFsError> {
        Ok(Attributes {
            ino: self.ino_of(nid)?,
            inode: self.flist.inode(nid)?,
        })
    }

    /// 0 means "no entry" and 1 the root to the kernel; an flist has no inode
    /// there (its header is), unless it is forged.
    fn ino_of(&self, nid: u64) -> Result<u64, TreeFsError> {
        if nid == self.flist.root_nid() {
            Ok(ROOT_INO)
        } else if nid > ROOT_INO {
            Ok(nid)
        } else {
            Err(TreeFsError::NoInode(nid))
        }
    }

    fn dot(&self, directory: &Inode, name: &[u8]) -> Result<u64, TreeFsError> {
        let found = self.flist.lookup(directory, name)?;
        Ok(found.map_or_else(|| directory.nid(), |entry| entry.nid))
    }
}
