//! Puts a client's files into a sandbox's root before its command runs.
//!
//! What always holds: nothing outside of the root is touched, whatever links the image or the client has in it (every
//! path is resolved by `openat2` with the root as `/`); nothing of the sandbox runs yet, so nothing changes meanwhile;
//! what is made belongs to the sandbox's own ids; a file is never held in memory as a whole.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use lamina_runtime::IdRange;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use crate::error::RunError;
use crate::frames::{Entry, Kind, Step};
use crate::limits::size;

/// Where files are put, and where it has got to.
#[derive(Debug)]
pub(crate) struct Placer {
    root: OwnedFd,
    ids: IdRange,
    bytes_max: u64,
    bytes: u64,
    /// The directory of the entry before: most entries have the same.
    last: Option<(Vec<String>, OwnedFd)>,
    open: Option<Open>,
}

/// A file whose data is coming.
#[derive(Debug)]
struct Open {
    file: File,
    entry: Entry,
    size: u64,
}

/// What a name takes of memory at least, and what data and long links are rounded up to (`mm/shmem.c`).
const INODE: u64 = 1024;
const PAGE: u64 = 4096;
/// A link shorter than this takes no page.
const SHORT_LINK: usize = 128;

/// Why an entry cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("{0}")]
    Refused(&'static str),
    #[error("with it the files have more than {}, which is what the run's disk_mb and memory_mb leave them", size(*.0))]
    TooMuch(u64),
    #[error("the run's disk_mb has no room for it")]
    Full,
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

impl PlaceError {
    /// For the entry of this path.
    pub(crate) fn of(self, path: &str) -> RunError {
        let code = match &self {
            Self::Refused(_) | Self::TooMuch(_) | Self::Full => tonic::Code::InvalidArgument,
            Self::Io { source, .. } => match Errno::from_io_error(source) {
                // The image has something else there, or links in a circle.
                Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG) => {
                    tonic::Code::InvalidArgument
                }
                _ => tonic::Code::Internal,
            },
        };
        RunError::new(code, format!("file entry {path:?}: {self}"))
    }
}

type Result<T> = std::result::Result<T, PlaceError>;

fn failed(what: &'static str) -> impl FnOnce(Errno) -> PlaceError {
    move |errno| match errno {
        Errno::NOSPC | Errno::DQUOT => PlaceError::Full,
        errno => PlaceError::Io {
            what,
            source: errno.into(),
        },
    }
}

impl Placer {
    /// Into `root`, whose owner is `ids`; at most `bytes_max` of memory.
    pub(crate) fn new(root: OwnedFd, ids: IdRange, bytes_max: u64) -> Self {
        Self {
            root,
            ids,
            bytes_max,
            bytes: 0,
            last: None,
            open: None,
        }
    }

    /// Bytes of memory that what was put in place takes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Does what a frame asks for. Blocks as file systems do.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) fn apply(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Begin(entry) => self.begin(entry),
            Step::Data(data) => self.write(&data),
            Step::End => self.end(),
        }
    }

    fn begin(&mut self, entry: Entry) -> Result<()> {
        let Some((name, above)) = entry.names.split_last() else {
            return self.directory_itself(&entry);
        };
        self.charge(least(&entry.kind))?;
        self.enter(above)?;
        let directory = match &self.last {
            Some((_, directory)) => directory,
            None => &self.root,
        };
        match &entry.kind {
            Kind::Directory => make_directory(&self.root, directory, name, &entry, self.ids),
            Kind::Symlink(target) => {
                make_way(directory, name)?;
                rustix::fs::symlinkat(target.as_str(), directory, name.as_str())
                    .map_err(failed("make the link"))?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                own(directory, name, &entry, self.ids, flags)?;
                set_times(directory, name, &entry, flags)
            }
            Kind::File => {
                make_way(directory, name)?;
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let file = rustix::fs::openat(directory, name.as_str(), flags, Mode::RUSR)
                    .map_err(failed("make the file"))?;
                self.open = Some(Open {
                    file: file.into(),
                    entry,
                    size: 0,
                });
                Ok(())
            }
        }
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        let Some(mut open) = self.open.take() else {
            return Err(PlaceError::Refused("it has data and is no file"));
        };
        let size = open.size + data.len() as u64;
        self.charge(size.next_multiple_of(PAGE) - open.size.next_multiple_of(PAGE))?;
        open.file.write_all(data).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            failed("write")(errno)
        })?;
        self.open = Some(Open { size, ..open });
        Ok(())
    }

    /// Takes so much of what the files may have.
    fn charge(&mut self, bytes: u64) -> Result<()> {
        if self.bytes_max - self.bytes < bytes {
            return Err(PlaceError::TooMuch(self.bytes_max));
        }
        self.bytes += bytes;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let Some(Open { file, entry, .. }) = self.open.take() else {
            return Ok(());
        };
        let (uid, gid) = owner(&entry, self.ids);
        rustix::fs::fchown(&file, uid, gid).map_err(failed("set its owner"))?;
        // After the owner, which takes set-user-ID bits away.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
            .map_err(failed("set its mode"))?;
        match times(&entry) {
            Some(times) => rustix::fs::futimens(&file, &times).map_err(failed("set its time")),
            None => Ok(()),
        }
    }

    /// The root, or a link to a directory: it stays what it is, with the entry's mode.
    fn directory_itself(&self, entry: &Entry) -> Result<()> {
        let root = in_root(&self.root, ".", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed("open the root"))?;
        attributes(&root, entry, self.ids)
    }

    /// Makes `names` the directory that entries are put into.
    fn enter(&mut self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            self.last = None;
            return Ok(());
        }
        if self.last.as_ref().is_some_and(|(last, _)| last == names) {
            return Ok(());
        }
        let path = names.join("/");
        let directory = match in_root(&self.root, &path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => self.make_all(names)?,
            other => other.map_err(failed("open the directory it is in"))?,
        };
        self.last = Some((names.to_vec(), directory));
        Ok(())
    }

    /// Makes the directories of a path that are not there, as root inside would.
    fn make_all(&mut self, names: &[String]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut at = in_root(&self.root, ".", flags).map_err(failed("open the root"))?;
        for depth in 1..=names.len() {
            let path = names[..depth].join("/");
            at = match in_root(&self.root, &path, flags) {
                Err(Errno::NOENT) => {
                    self.charge(INODE)?;
                    let name = names[depth - 1].as_str();
                    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            return Err(PlaceError::Refused("a link on the way leads to nothing"));
                        }
                        Err(errno) => return Err(failed("make the directory it is in")(errno)),
                    }
                    let made = in_root(&self.root, &path, flags)
                        .map_err(failed("open the directory it is in"))?;
                    let root = self.ids.first();
                    let (uid, gid) = (Uid::from_raw(root), Gid::from_raw(root));
                    let flags = AtFlags::EMPTY_PATH;
                    rustix::fs::chownat(&made, "", Some(uid), Some(gid), flags)
                        .map_err(failed("set the owner of the directory it is in"))?;
                    made
                }
                other => other.map_err(failed("open the directory it is in"))?,
            };
        }
        Ok(at)
    }
}

/// What an entry takes of memory before it has any data.
fn least(kind: &Kind) -> u64 {
    match kind {
        Kind::Symlink(target) if target.len() >= SHORT_LINK => INODE + PAGE,
        Kind::File | Kind::Directory | Kind::Symlink(_) => INODE,
    }
}

/// Opens a path with the root as `/`: links are followed, and lead nowhere else.
fn in_root(root: &OwnedFd, path: &str, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    rustix::fs::openat2(
        root.as_fd(),
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Takes away what a file or link is to replace: not written through, for it may have other names.
fn make_way(directory: &OwnedFd, name: &str) -> Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => Err(PlaceError::Refused("a directory is there")),
        Err(errno) => Err(failed("replace what is there")(errno)),
    }
}

/// A directory, or what is one already; a link to one in the image is left as it is.
fn make_directory(
    root: &OwnedFd,
    above: &OwnedFd,
    name: &str,
    entry: &Entry,
    ids: IdRange,
) -> Result<()> {
    match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make the directory")(errno)),
    }
    let stat = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("look at what is there"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(above, name, flags, Mode::empty())
                .map_err(failed("open the directory"))?;
            attributes(&made, entry, ids)
        }
        FileType::Symlink => {
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            match in_root(root, &entry.names.join("/"), flags) {
                Ok(_) => Ok(()),
                Err(_) => Err(PlaceError::Refused("a link to something else is there")),
            }
        }
        _ => Err(PlaceError::Refused("something else is there")),
    }
}

fn owner(entry: &Entry, ids: IdRange) -> (Option<Uid>, Option<Gid>) {
    let uid = ids.to_host(entry.uid).map(Uid::from_raw);
    let gid = ids.to_host(entry.gid).map(Gid::from_raw);
    (uid, gid)
}

fn own(directory: &OwnedFd, name: &str, entry: &Entry, ids: IdRange, flags: AtFlags) -> Result<()> {
    let (uid, gid) = owner(entry, ids);
    rustix::fs::chownat(directory, name, uid, gid, flags).map_err(failed("set its owner"))
}

fn attributes(directory: &OwnedFd, entry: &Entry, ids: IdRange) -> Result<()> {
    let (uid, gid) = owner(entry, ids);
    rustix::fs::fchown(directory, uid, gid).map_err(failed("set its owner"))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(entry.mode))
        .map_err(failed("set its mode"))?;
    match times(entry) {
        Some(times) => rustix::fs::futimens(directory, &times).map_err(failed("set its time")),
        None => Ok(()),
    }
}

fn set_times(directory: &OwnedFd, name: &str, entry: &Entry, flags: AtFlags) -> Result<()> {
    match times(entry) {
        Some(times) => {
            rustix::fs::utimensat(directory, name, &times, flags).map_err(failed("set its time"))
        }
        None => Ok(()),
    }
}

fn times(entry: &Entry) -> Option<Timestamps> {
    entry.mtime.map(|seconds| Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        },
    })
}

#[cfg(test)]
mod tests;
