//! The flist a verb writes: where it may go, and writing it whole or not at all.
//!
//! An [`Out`] exists only for a place that can take a flist, so a verb that makes one before its long
//! work (packing, uploading) cannot fail for the name at the end of it. Nothing but a flist or an empty
//! file is ever replaced, a symbolic link is followed, and what is no regular file is left alone.

use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_flist::MAGIC;
use rustix::fs::Access;
use std::fs::{File, FileType, Metadata};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A name a flist may be written to, as typed.
#[derive(Debug)]
pub(crate) struct Out(PathBuf);

impl Out {
    /// Checks a name the user typed.
    ///
    /// # Errors
    /// It is not one a flist can be written to, or what is there is not to be replaced.
    pub(crate) fn new(typed: &Path) -> Result<Self> {
        let target = target(typed)?;
        let folder = folder(&target);
        rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(std::io::Error::from)
            .with_context(|| {
                let (typed, folder) = (typed.display(), folder.display());
                format!("write {typed}: no file can be made in {folder}")
            })?;
        Ok(Self(typed.to_owned()))
    }

    /// The name as typed.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes beside the name, then renames: a crash leaves the old file or the whole new one.
    ///
    /// # Errors
    /// The disk; or the name has meanwhile become one that must not be replaced.
    pub(crate) fn write(&self, parts: &[&[u8]]) -> Result<()> {
        let target = target(&self.0)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = folder(&target).join(format!(".{name}.{}", std::process::id()));
        let written = (|| {
            // A process of our number may have left one; a link put there is not followed.
            let _ = std::fs::remove_file(&partial);
            let mut file = File::create_new(&partial)?;
            parts.iter().try_for_each(|part| file.write_all(part))?;
            file.sync_all()?;
            std::fs::rename(&partial, &target)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        written.with_context(|| format!("write {}", self.0.display()))
    }
}

/// Whether a file begins as a flist does. Waits for no FIFO.
pub(crate) fn is_flist(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::with_capacity(MAGIC.len());
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head)?;
    Ok(head == MAGIC)
}

/// What a file is, for people.
pub(crate) fn kind(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_char_device() => "a character device",
        kind if kind.is_block_device() => "a block device",
        kind if kind.is_symlink() => "a symbolic link to nothing",
        _ => "a file",
    }
}

/// Where the flist of a typed name goes.
fn target(typed: &Path) -> Result<PathBuf> {
    leads(typed, "a flist is", check_replaced)
}

/// Where the changes of a command go that are to be in a file of a typed name: they replace a file, but neither a device nor
/// a flist, which may be what the command ran on.
pub(crate) fn of_changes(typed: &Path) -> Result<PathBuf> {
    leads(typed, "changes are", |typed, found| {
        check_file(typed, found)?;
        if is_flist(typed).with_context(|| format!("look at {}", typed.display()))? {
            bail!(exit::Usage(format!(
                "write {}: it is a flist; remove it, or choose another name",
                typed.display()
            )));
        }
        Ok(())
    })
}

/// Whether two typed names lead to one file. What cannot be looked at is another one; writing it says why.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    let found = |typed: &Path| {
        std::fs::canonicalize(typed).or_else(|_| {
            let home = std::fs::canonicalize(folder(typed))?;
            Ok::<_, std::io::Error>(home.join(typed.file_name().unwrap_or_default()))
        })
    };
    matches!((found(one), found(other)), (Ok(one), Ok(other)) if one == other)
}

/// Where a typed name leads.
fn leads(
    typed: &Path,
    what: &str,
    check: impl Fn(&Path, &Metadata) -> Result<()>,
) -> Result<PathBuf> {
    let shown = typed.display();
    if typed.as_os_str() == "-" {
        bail!(exit::Usage(format!(
            "{what} not written to standard output: name a file (./- if it shall be called so)"
        )));
    }
    if typed.as_os_str().as_bytes().ends_with(b"/") || typed.file_name().is_none() {
        bail!(exit::Usage(format!(
            "write {shown}: that names a directory; name a file"
        )));
    }
    match std::fs::metadata(typed) {
        Ok(found) => {
            check(typed, &found)?;
            std::fs::canonicalize(typed).with_context(|| format!("write {shown}"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => new_name(typed),
        Err(error) => Err(error).with_context(|| format!("write {shown}")),
    }
}

fn check_file(typed: &Path, found: &Metadata) -> Result<()> {
    if !found.is_file() {
        bail!(exit::Usage(format!(
            "write {}: it is {}; name a file",
            typed.display(),
            kind(found.file_type())
        )));
    }
    Ok(())
}

fn check_replaced(typed: &Path, found: &Metadata) -> Result<()> {
    check_file(typed, found)?;
    let shown = typed.display();
    if found.len() == 0 || is_flist(typed).with_context(|| format!("look at {shown}"))? {
        return Ok(());
    }
    bail!(exit::Usage(format!(
        "write {shown}: it exists and is no flist; remove it, or choose another name"
    )))
}

/// A name that is free, in a directory that is there.
fn new_name(typed: &Path) -> Result<PathBuf> {
    let shown = typed.display();
    if let Ok(link) = std::fs::symlink_metadata(typed) {
        bail!(exit::Usage(format!(
            "write {shown}: it is {}; remove it, or choose another name",
            kind(link.file_type())
        )));
    }
    let folder = folder(typed);
    if !folder.exists() {
        bail!(exit::NotFound(format!(
            "write {shown}: there is no directory {}",
            folder.display()
        )));
    }
    Ok(typed.to_owned())
}

pub(crate) fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}
