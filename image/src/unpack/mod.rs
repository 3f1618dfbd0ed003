//! A flist -> a directory, with everything it records.
//!
//! Every path is opened from the destination's descriptor without following
//! links, so neither the flist nor anybody who plays with the directory
//! meanwhile can make us write elsewhere. Contents are fetched in parallel and
//! written as they arrive; holes stay holes. Files get their metadata once
//! their content is complete, directories last.

mod create;
mod fill;
mod meta;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use lamina_flist::{Flist, FlistError};
use lamina_store::{ChunkReader, ReadError, ReadOptions, StoreSet};
use rustix::io::Errno;
use tokio::runtime::Handle;

use crate::content_map::{ContentMap, MissingError};
use crate::progress::Progress;

/// Notes kept.
const NOTES_MAX: usize = 100;

/// How to unpack.
#[derive(Debug, Clone)]
pub struct UnpackOptions {
    /// Unpack into a directory that has entries; what is in the way is
    /// replaced, except directories with entries.
    pub into_existing: bool,
    /// Go on without owners, devices and privileged xattrs where the kernel
    /// denies them. The default unless we are root.
    pub tolerate_denied: bool,
    /// Make device files.
    pub devices: bool,
    /// Keep setuid and setgid bits of files, and file capabilities.
    pub setuid: bool,
    /// How to read packs.
    pub read: ReadOptions,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            into_existing: false,
            tolerate_denied: !rustix::process::geteuid().is_root(),
            devices: true,
            setuid: true,
            read: ReadOptions::default(),
        }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnpackReport {
    /// Names created.
    pub entries: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The first things that were denied and left out.
    pub skipped: Vec<Skipped>,
    /// How many there were in all.
    pub skipped_total: u64,
}

/// Something that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which file.
    pub path: PathBuf,
    /// What of it.
    pub what: String,
}

/// Why a flist was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The destination has entries.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// The disk.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The flist.
    #[error("read the flist")]
    Flist(#[from] FlistError),
    /// The flist.
    #[error(transparent)]
    Missing(#[from] MissingError),
    /// A layer alone is no file system.
    #[error("the flist is a single layer, not a whole file system")]
    IsLayer,
    /// The stores.
    #[error("read the content of {path}")]
    Read {
        /// The first file it is for.
        path: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// The runtime ended.
    #[error("reading was cancelled")]
    Cancelled,
}

impl UnpackError {
    fn io(operation: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Where things go, and what became of them.
struct Target<'a> {
    root: OwnedFd,
    shown: &'a Path,
    options: &'a UnpackOptions,
    report: UnpackReport,
}

/// Unpacks `flist` into the directory `destination`, which is made if it is
/// not there. Blocks: for threads; `handle` runs the reads. The flist must
/// have been checked ([`Flist::check`]) if it comes from elsewhere.
///
/// # Errors
/// When the destination is in use, or anything cannot be read or written.
pub fn unpack(
    flist: &Flist,
    stores: &StoreSet,
    destination: &Path,
    options: &UnpackOptions,
    progress: &dyn Progress,
    handle: &Handle,
) -> Result<UnpackReport, UnpackError> {
    if flist.is_layer() {
        return Err(UnpackError::IsLayer);
    }
    let tree = flist.to_tree()?;
    let map = ContentMap::new(flist)?;
    let mut target = Target::open(destination, options)?;
    let pending = create::create(&mut target, &tree, &map, progress)?;
    let reader = ChunkReader::new(stores.clone(), options.read.clone());
    fill::fill(&mut target, &map, &pending.files, &reader, progress, handle)?;
    // Deepest first: whatever happens in a directory changes its time.
    for (path, meta) in pending.directories.into_iter().rev() {
        let fd = target.directory(&path)?;
        target.apply(&fd, &path, meta)?;
    }
    Ok(target.report)
}

impl<'a> Target<'a> {
    fn open(shown: &'a Path, options: &'a UnpackOptions) -> Result<Self, UnpackError> {
        std::fs::create_dir_all(shown).map_err(|e| UnpackError::io("create", shown, e))?;
        let root = File::open(shown).map_err(|e| UnpackError::io("open", shown, e))?;
        let mut entries =
            std::fs::read_dir(shown).map_err(|e| UnpackError::io("list", shown, e))?;
        if !options.into_existing && entries.next().is_some() {
            return Err(UnpackError::NotEmpty(shown.to_owned()));
        }
        Ok(Self {
            root: root.into(),
            shown,
            options,
            report: UnpackReport::default(),
        })
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.shown.join(std::ffi::OsStr::from_bytes(path))
    }

    fn directory(&self, path: &[u8]) -> Result<OwnedFd, UnpackError> {
        use std::os::fd::AsFd as _;
        crate::beneath::open_directory(self.root.as_fd(), path)
            .map_err(|e| UnpackError::io("open", &self.path(path), e))
    }

    /// Turns what the kernel denied into a note, if that is wanted.
    fn tolerate(
        &mut self,
        result: Result<(), Errno>,
        operation: &'static str,
        path: &[u8],
        what: &str,
    ) -> Result<(), UnpackError> {
        let denied = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP];
        match result {
            Err(e) if self.options.tolerate_denied && denied.contains(&e) => {
                self.report.skipped_total += 1;
                if self.report.skipped.len() < NOTES_MAX {
                    let (path, what) = (self.path(path), what.to_owned());
                    self.report.skipped.push(Skipped { path, what });
                }
                Ok(())
            }
            other => other.map_err(|e| UnpackError::io(operation, &self.path(path), e)),
        }
    }
}
