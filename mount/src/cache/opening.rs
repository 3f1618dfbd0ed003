//! Finding the files of a blob as its writer must have them, or putting fresh
//! ones in their place.

use std::fs::File;
use std::path::Path;

use lamina_flist::{BlobId, BlobMap};
use memmap2::Mmap;
use rustix::fs::{FlockOperation, flock};

use super::CacheError;
use super::blob::OpenReport;
use super::files;
use super::present::Present;
use super::touched::Touched;
use crate::sys::shared_map::map_immutable;

pub(super) fn open_map(
    dir: &Path,
    id: &BlobId,
    map_bytes: impl FnOnce() -> Vec<u8>,
    report: &mut OpenReport,
) -> Result<BlobMap<Mmap>, CacheError> {
    let path = dir.join(files::MAP);
    if let Ok(map) = load_map(&path, Some(id)) {
        return Ok(map);
    }
    let bytes = map_bytes();
    if BlobId::of(&bytes) != *id {
        return Err(CacheError::WrongMap(*id));
    }
    report.replaced += 1;
    files::replace_bytes(&path, &bytes)?;
    load_map(&path, Some(id))
}

/// Maps and parses a blob map; with an id, the bytes must have it.
pub(super) fn load_map(path: &Path, id: Option<&BlobId>) -> Result<BlobMap<Mmap>, CacheError> {
    let file = files::open_regular(path, false)?;
    let bytes = map_immutable(&file).map_err(|source| CacheError::io("map", path, source))?;
    if id.is_some_and(|id| BlobId::of(&bytes) != *id) {
        return Err(CacheError::damaged(path, "not the map of this blob"));
    }
    BlobMap::parse(bytes).map_err(|error| CacheError::damaged(path, error.to_string()))
}

/// Opens `data`, locked, and its bitmap; says whether both are new and empty.
///
/// A bitmap that cannot be used takes its data with it: whoever serves the blob
/// meanwhile looks at the old bitmap, which no eviction changes any more, so the
/// bytes it speaks of must stay.
pub(super) fn open_pair(
    dir: &Path,
    id: &BlobId,
    map: &BlobMap<Mmap>,
    report: &mut OpenReport,
) -> Result<(File, Present, bool), CacheError> {
    let found = find_data(dir, id, map.blob_len())?;
    if let Some(data) = found {
        if let Some(present) = find_present(dir, map.len())? {
            present.clear_padding();
            return Ok((data, present, false));
        }
        // The old lock is held until the new file is there.
        let fresh = fresh_pair(dir, id, map, report);
        drop(data);
        return fresh;
    }
    // Bits first: a crash between the two leaves an empty blob.
    files::replace_sized(&dir.join(files::PRESENT), 0)?;
    fresh_pair(dir, id, map, report)
}

/// Data, then bits, as the bits found are of no use: after a crash in between,
/// both are replaced again.
fn fresh_pair(
    dir: &Path,
    id: &BlobId,
    map: &BlobMap<Mmap>,
    report: &mut OpenReport,
) -> Result<(File, Present, bool), CacheError> {
    report.replaced += 2;
    let data = files::replace_sized(&dir.join(files::DATA), map.blob_len())?;
    lock(&data, id)?;
    let path = dir.join(files::PRESENT);
    let file = files::replace_sized(&path, Present::file_len(map.len()))?;
    let present = map_present(&file, &path, map.len())?
        .ok_or_else(|| CacheError::damaged(&path, "a fresh file is not empty"))?;
    Ok((data, present, true))
}

/// The data file, locked, if it is one.
fn find_data(dir: &Path, id: &BlobId, len: u64) -> Result<Option<File>, CacheError> {
    match files::open_sized(&dir.join(files::DATA), true, len) {
        Ok(file) => lock(&file, id).map(|()| Some(file)),
        Err(CacheError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(data: &File, id: &BlobId) -> Result<(), CacheError> {
    flock(data, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_would_block| CacheError::Busy(*id))
}

/// The bitmap, if there is one of this version and length.
fn find_present(dir: &Path, entries: usize) -> Result<Option<Present>, CacheError> {
    let path = dir.join(files::PRESENT);
    match files::open_sized(&path, true, Present::file_len(entries)) {
        Ok(file) => map_present(&file, &path, entries),
        Err(CacheError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn map_present(file: &File, path: &Path, entries: usize) -> Result<Option<Present>, CacheError> {
    files::allocate(file, path)?;
    Present::open_writable(file, entries).map_err(|source| CacheError::io("map", path, source))
}

/// Only speed depends on its bits: whatever is wrong, a fresh one will do.
pub(super) fn open_touched(dir: &Path, entries: usize) -> Result<Touched, CacheError> {
    let path = dir.join(files::TOUCHED);
    let len = Touched::file_len(entries);
    let file = match files::open_sized(&path, true, len) {
        Err(CacheError::Damaged { .. }) => files::replace_sized(&path, len)?,
        other => other?,
    };
    files::allocate(&file, &path)?;
    Touched::open(&file, entries).map_err(|source| CacheError::io("map", &path, source))
}
