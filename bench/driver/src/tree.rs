//! Loops over a directory tree: walking, opening small files, reading everything.

use crate::measure::{Random, Report, timed};
use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

const SMALL_BYTES_MAX: i64 = 64 << 10;

/// Calls `each(directory, name, stat)` for every entry below `root`, as `find -ls` would see it:
/// one open and listing per directory, one stat per entry relative to it.
fn visit(
    root: &Path,
    mut each: impl FnMut(&Path, &OsStr, &rustix::fs::Stat) -> Result<()>,
) -> Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let open = |path: &Path| -> Result<OwnedFd> {
        openat(CWD, path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))
    };
    let mut left: Vec<PathBuf> = vec![root.to_owned()];
    let mut entries = 0;
    while let Some(path) = left.pop() {
        let directory = open(&path)?;
        for entry in Dir::read_from(directory.as_fd())? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            entries += 1;
            let name = OsStr::from_bytes(name.to_bytes());
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                left.push(path.join(name));
            }
            each(&path, name, &stat)?;
        }
    }
    Ok(entries)
}

/// Lists every directory and stats every entry.
pub(crate) fn walk(root: &Path) -> Result<Report> {
    timed(|| Ok((0, visit(root, |_, _, _| Ok(()))?)))
}

fn regular_files(root: &Path, bytes_max: i64) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    visit(root, |directory, name, stat| {
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if regular && stat.st_size <= bytes_max {
            files.push(directory.join(name));
        }
        Ok(())
    })?;
    files.sort();
    Ok(files)
}

/// Opens, reads to the end and closes the first `count` small files in name order.
pub(crate) fn small_files(root: &Path, count: usize) -> Result<Report> {
    let mut files = regular_files(root, SMALL_BYTES_MAX)?;
    files.truncate(count);
    timed(|| read_files(&files, 128 << 10))
}

/// Reads every byte below `root`; names are listed inside the measured time, as a copy would.
pub(crate) fn read_all(root: &Path) -> Result<Report> {
    timed(|| {
        let files = regular_files(root, i64::MAX)?;
        read_files(&files, 1 << 20)
    })
}

fn read_files(files: &[PathBuf], block: usize) -> Result<(u64, u64)> {
    let mut buffer = vec![0; block];
    let mut bytes = 0;
    for path in files {
        let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("open {}", path.display()))?;
        loop {
            let read = rustix::io::read(&file, &mut buffer)
                .with_context(|| format!("read {}", path.display()))?;
            bytes += read as u64;
            if read == 0 {
                break;
            }
        }
    }
    Ok((bytes, files.len() as u64))
}

/// Reads `count` blocks at random places of random files of at least one block, one after the other; how long the
/// middle one, the slowest of a hundred and the slowest took, in milliseconds.
pub(crate) fn latency(root: &Path, block: usize, count: usize, seed: u64) -> Result<Value> {
    ensure!(block > 0 && count > 0, "nothing to read");
    let mut files = Vec::new();
    visit(root, |directory, name, stat| {
        let blocks = stat.st_size.unsigned_abs() / block as u64;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && blocks > 0 {
            files.push((directory.join(name), blocks));
        }
        Ok(())
    })?;
    ensure!(
        !files.is_empty(),
        "no file of {block} bytes below {}",
        root.display()
    );
    files.sort();
    let (mut random, mut buffer) = (Random::new(seed), vec![0; block]);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let (path, blocks) = &files[random.below(files.len() as u64) as usize];
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let at = random.below(*blocks) * block as u64;
        let began = Instant::now();
        file.read_exact_at(&mut buffer, at)
            .with_context(|| format!("read {}", path.display()))?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Ok(json!({ "count": count, "p50_ms": at(50), "p99_ms": at(99), "max_ms": at(100) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_and_every_byte_is_counted() {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir_all(root.path().join("a/b")).expect("directories");
        std::fs::write(root.path().join("a/one"), [0; 10]).expect("a file");
        std::fs::write(root.path().join("a/b/big"), vec![0; 100_000]).expect("a file");
        std::os::unix::fs::symlink("nowhere", root.path().join("link")).expect("a link");
        assert_eq!(walk(root.path()).expect("walked").ops, 5);
        let small = small_files(root.path(), 10).expect("read");
        assert_eq!((small.ops, small.bytes), (1, 10));
        let all = read_all(root.path()).expect("read");
        assert_eq!((all.ops, all.bytes), (2, 100_010));
    }

    #[test]
    fn blocks_are_read_only_of_files_that_have_them() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(latency(root.path(), 4096, 3, 1).is_err());
        std::fs::write(root.path().join("small"), [1; 100]).expect("written");
        std::fs::write(root.path().join("large"), [1; 9000]).expect("written");
        let found = latency(root.path(), 4096, 3, 1).expect("read");
        assert_eq!(found["count"], 3);
    }
}
