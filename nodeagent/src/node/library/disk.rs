//! Files of the library: whole or not there, and not without bound.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::files::drop_oldest;
pub(super) use crate::files::{make_dir, remove, touch};

/// Writes a file by way of `tmp`, durable before it is visible.
pub(super) fn write(tmp: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let part = tmp.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
    let written = write_part(&part, bytes).and_then(|()| {
        std::fs::rename(&part, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn write_part(part: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(part)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes every file that a killed process was writing.
pub(super) fn clear(dir: &Path, is_partial: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_none_or(&is_partial) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes the files written longest ago until `files_max` of `bytes_max` bytes are left.
pub(super) fn prune(dir: &Path, files_max: usize, bytes_max: u64) -> io::Result<()> {
    let mut found: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if let Ok(meta) = entry.metadata()
            && meta.is_file()
        {
            found.push((meta.modified()?, meta.len(), entry.path()));
        }
    }
    drop_oldest(found, files_max, bytes_max)
}
