//! Whether file systems still exist: also those that were detached and are in no mount table any
//! more, kept by whoever has a file open or mapped, a process inside, or a mount elsewhere.
//!
//! An inotify watch on a file system's root does not keep it; the kernel takes the watch away when
//! the last user has let go (`IN_UNMOUNT`, inotify(7)). Which watches are left is in the
//! descriptor's `/proc/self/fdinfo`, however many events came or were lost. The descriptor is in the
//! holder like the FUSE connections: what was watched stays watched when this process is killed.
//!
//! Always holds: reads are served whether or not anything can be watched. Where the kernel gives no
//! inotify descriptor, nothing is watched, and only a request to watch is refused; the next one tries
//! again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::held::Held;
use super::protocol::Watch;
use crate::holder::HolderError;

/// Under which name the holder keeps the descriptor.
const NAME: &str = "alive";

/// The watched file systems.
#[derive(Debug)]
pub(super) struct Alive {
    held: Arc<Held>,
    /// `None` while the kernel gives none.
    inotify: Mutex<Option<Arc<Vec<OwnedFd>>>>,
}

impl Alive {
    /// Goes on watching what a predecessor watched.
    pub(super) fn open(held: &Arc<Held>) -> Result<Self, HolderError> {
        let alive = Self {
            inotify: Mutex::new(held.adopt(NAME)?),
            held: Arc::clone(held),
        };
        if let Err(error) = alive.inotify() {
            tracing::warn!(%error, "file systems cannot be watched");
        }
        Ok(alive)
    }

    /// Watches the file system whose root is at `at`. Doing it again gives the same watch.
    pub(super) fn watch(&self, at: &Path) -> io::Result<Watch> {
        // A root cannot be deleted: the only news is the file system's end.
        let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR;
        let id = inotify::add_watch(&self.inotify()?[0], at, flags)?;
        let found = self.list()?.into_iter().find(|watch| watch.id == id);
        found.ok_or_else(|| io::Error::other("the file system ended meanwhile"))
    }

    /// The watches whose file systems exist.
    pub(super) fn list(&self) -> io::Result<Vec<Watch>> {
        let Some(inotify) = self.known().clone() else {
            return Ok(Vec::new());
        };
        let inotify = &inotify[0];
        drain(inotify);
        let path = format!("/proc/self/fdinfo/{}", inotify.as_raw_fd());
        let text = std::fs::read_to_string(path)?;
        Ok(text.lines().filter_map(parse).collect())
    }

    /// The descriptor, made and given to the holder if there is none yet.
    fn inotify(&self) -> io::Result<Arc<Vec<OwnedFd>>> {
        let mut known = self.known();
        if let Some(inotify) = &*known {
            return Ok(Arc::clone(inotify));
        }
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let inotify = self.held.put(NAME, vec![inotify]);
        let inotify = inotify.map_err(io::Error::other)?;
        Ok(Arc::clone(known.insert(inotify)))
    }

    fn known(&self) -> MutexGuard<'_, Option<Arc<Vec<OwnedFd>>>> {
        self.inotify.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events say nothing that the list does not; they only would fill the queue.
fn drain(inotify: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    while rustix::io::read(inotify, &mut buffer).is_ok_and(|(read, _)| !read.is_empty()) {}
}

/// `inotify wd:1 ino:24 sdev:1c mask:400 ...`, numbers in hex (`proc_pid_fdinfo(5)`).
fn parse(line: &str) -> Option<Watch> {
    let fields = line.strip_prefix("inotify ")?;
    let value = |key: &str| {
        let mut words = fields.split(' ');
        words.find_map(|word| word.strip_prefix(key)?.strip_prefix(':'))
    };
    Some(Watch {
        id: i32::from_str_radix(value("wd")?, 16).ok()?,
        device: u32::from_str_radix(value("sdev")?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_understood() {
        let line = "inotify wd:1c ino:1 sdev:1000028 mask:400 ignored_mask:0 fhandle-bytes:c";
        let watch = Watch {
            id: 28,
            device: 0x0100_0028,
        };
        assert_eq!(parse(line), Some(watch));
        assert_eq!(parse("pos:\t0"), None);
    }
}
