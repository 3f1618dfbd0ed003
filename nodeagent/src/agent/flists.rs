//! The node's own copies of flists: what the kernel is allowed to parse.
//!
//! A flist given by a user may change under our hands, and the kernel parses whatever it mounts. So
//! a flist is copied into `<cache>/flists/<digest>.fl` first, checked there as a whole (section
//! digests, then structure), and only the copy is mounted. The check happens once per digest: a
//! seal beside the copy remembers the checked file's identity (inode, size, times) and the boot it was
//! checked in; a copy that no longer matches its seal is checked again and replaced when damaged.
//! The boot is part of it because nothing here waits for the disk: after a power cut, a file of the
//! right size may hold zeros. Copies count as cache data: those no mount uses are evicted like blobs, by
//! the age of their seal, which every use renews.

use crate::agent::space::{Item, Lease, NoRoom, Reservation, Space};
use lamina_flist::{Flist, FlistDigest, FlistError, Limits};
use lamina_mount::cache::{CacheError, Seal, wait_for_next_tick};
use lamina_store::{OpenFlistError, open_flist};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// How often a copy is begun on a disk that others fill, too.
const COPY_TRIES: usize = 4;

/// A checked flist in the node's hands.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    /// The flist, mapped from the node's copy.
    pub(crate) flist: Flist,
    /// The copy.
    pub(crate) path: PathBuf,
    /// Keeps the copy.
    _lease: Arc<Lease>,
}

/// Why a flist was not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdmitError {
    #[error("read flist {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("flist {} is damaged or hostile", .path.display())]
    Refused { path: PathBuf, source: FlistError },
    #[error("keep a copy of the flist as {}", .path.display())]
    Copy { path: PathBuf, source: io::Error },
    #[error("seal the copy of the flist")]
    Seal(#[from] CacheError),
    #[error("keep a copy of the flist {}", .path.display())]
    NoRoom { path: PathBuf, source: NoRoom },
}

/// The directory of copies.
#[derive(Debug, Clone)]
pub(crate) struct FlistDir {
    dir: PathBuf,
    limits: Limits,
    space: Arc<Space>,
}

impl FlistDir {
    /// The copies of a cache; `space` has made the directory.
    pub(crate) fn open(cache: &Path, limits: Limits, space: Arc<Space>) -> Self {
        let dir = cache.join("flists");
        Self { dir, limits, space }
    }

    /// Admits the flist at `path`: the node's copy of it, checked.
    pub(crate) fn admit(&self, path: &Path) -> Result<Admitted, AdmitError> {
        let given = open(path)?;
        let copy = self.copy_path(&given.digest());
        let lease = self.lease(&given.digest());
        if Self::is_sealed(&copy)
            && let Ok(flist) = open(&copy)
            && flist.digest() == given.digest()
        {
            renew(&copy);
            return Ok(Admitted {
                flist,
                path: copy,
                _lease: lease,
            });
        }
        let flist = self.copy_and_check(path, &copy, &given.digest())?;
        Ok(Admitted {
            flist,
            path: copy,
            _lease: lease,
        })
    }

    fn lease(&self, digest: &FlistDigest) -> Arc<Lease> {
        Arc::new(self.space.lease(Item::Flist(*digest)))
    }

    /// The node's copy of a flist it admitted before.
    pub(crate) fn reopen(&self, digest: &FlistDigest) -> Result<Admitted, AdmitError> {
        let path = self.copy_path(digest);
        let lease = self.lease(digest);
        let flist = open(&path)?;
        if !Self::is_sealed(&path) {
            self.check(&flist, &path)?;
            seal(&path)?;
        }
        Ok(Admitted {
            flist,
            path,
            _lease: lease,
        })
    }

    fn copy_path(&self, digest: &FlistDigest) -> PathBuf {
        self.dir.join(format!("{digest}.fl"))
    }

    fn copy_and_check(
        &self,
        from: &Path,
        copy: &Path,
        digest: &FlistDigest,
    ) -> Result<Flist, AdmitError> {
        let failed = |source| AdmitError::Copy {
            path: copy.to_owned(),
            source,
        };
        let partial = self
            .dir
            .join(format!(".{digest}.{}.tmp", std::process::id()));
        let guard = RemoveOnDrop(&partial);
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        let mut room = self.room_for(from)?;
        let copied = self
            .copy_making_room(from, &partial, room.bytes())
            .map_err(failed)?;
        let flist = open(&partial)?;
        if flist.digest() != *digest {
            let changed = io::Error::other("the file changed while it was copied; try again");
            return Err(AdmitError::Read {
                path: from.to_owned(),
                source: changed,
            });
        }
        self.check(&flist, from)?;
        std::fs::rename(&partial, copy).map_err(failed)?;
        drop(guard);
        seal(copy)?;
        room.land(copied);
        // Checking touched every page; a fresh mapping has only what is used from now on.
        drop(flist);
        open(copy)
    }

    fn room_for(&self, from: &Path) -> Result<Reservation, AdmitError> {
        let bytes = std::fs::metadata(from).map_err(|source| AdmitError::Read {
            path: from.to_owned(),
            source,
        })?;
        let room = self.space.reserve_blocking(bytes.len());
        room.map_err(|source| AdmitError::NoRoom {
            path: from.to_owned(),
            source,
        })
    }

    /// A full disk, by whomever: what may go makes room, as often as somebody else takes it.
    fn copy_making_room(&self, from: &Path, to: &Path, max: u64) -> io::Result<u64> {
        for _ in 1..COPY_TRIES {
            match copy_file(from, to, max) {
                Err(error)
                    if error.kind() == io::ErrorKind::StorageFull
                        && self.space.free_disk_blocking(max) => {}
                copied => return copied,
            }
        }
        copy_file(from, to, max)
    }

    fn check(&self, flist: &Flist, path: &Path) -> Result<(), AdmitError> {
        flist
            .verify_sections()
            .and_then(|()| flist.check(&self.limits).map(drop))
            .map_err(|source| AdmitError::Refused {
                path: path.to_owned(),
                source,
            })
    }

    fn is_sealed(copy: &Path) -> bool {
        let Some(seal) = Seal::load(&seal_path(copy)) else {
            return false;
        };
        Seal::of_closed(copy).is_ok_and(|now| seal.proves_untouched(&now))
    }
}

fn seal(copy: &Path) -> Result<(), AdmitError> {
    let file = File::open(copy);
    file.and_then(|file| wait_for_next_tick(&file))
        .map_err(|source| AdmitError::Copy {
            path: copy.to_owned(),
            source,
        })?;
    Ok(Seal::of_closed(copy)?.store(&seal_path(copy))?)
}

fn seal_path(copy: &Path) -> PathBuf {
    copy.with_extension("seal")
}

fn open(path: &Path) -> Result<Flist, AdmitError> {
    open_flist(path).map_err(|error| match error {
        OpenFlistError::Flist { path, source } => AdmitError::Refused { path, source },
        OpenFlistError::Io { path, source } => AdmitError::Read { path, source },
        other => AdmitError::Read {
            path: path.to_owned(),
            source: io::Error::other(other),
        },
    })
}

/// Notes that the copy was used: the age of its seal is the age of its last use.
fn renew(copy: &Path) {
    let seal = File::options().write(true).open(seal_path(copy));
    if let Err(error) = seal.and_then(|seal| seal.set_modified(SystemTime::now())) {
        tracing::warn!(copy = %copy.display(), %error, "note the use of a flist's copy");
    }
}

/// Copies up to `max` bytes into a fresh private file; gives its length.
fn copy_file(from: &Path, to: &Path, max: u64) -> io::Result<u64> {
    let mut source = File::open(from)?.take(max.saturating_add(1));
    let mut target = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(to)?;
    let copied = io::copy(&mut source, &mut target)?;
    if copied > max {
        return Err(io::Error::other(format!(
            "the file grew beyond {max} bytes while it was copied; try again"
        )));
    }
    Ok(copied)
}

struct RemoveOnDrop<'a>(&'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_grows_is_not_copied_beyond_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, [1; 1000]).unwrap();
        assert_eq!(copy_file(&from, &to, 1000).unwrap(), 1000);
        assert!(copy_file(&from, &to, 900).is_err());
        assert_eq!(std::fs::metadata(&to).unwrap().len(), 901);
    }
}
