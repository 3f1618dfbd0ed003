//! The contents: chunks fetched in parallel, written where they belong.
//!
//! Files are taken in groups small enough for their descriptors and chunk
//! lists; a task fetches a group's chunks while this thread writes them.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use futures::StreamExt as _;
use lamina_store::{ChunkReader, ChunkSource, ReadError};
use rustix::fs::OFlags;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::create::PendingFile;
use super::{Target, UnpackError};
use crate::beneath;
use crate::content_map::ContentMap;
use crate::progress::Progress;

/// Files open at once: well below the usual limit of descriptors.
const GROUP_FILES: usize = 128;
/// Chunks of one group: their list stays small.
const GROUP_CHUNKS: usize = 16_384;
/// Chunks between the fetching task and this thread, 256 KiB each at most.
const QUEUE: usize = 32;

/// Writes the content of `files`, then their metadata.
pub(super) fn fill(
    target: &mut Target<'_>,
    map: &ContentMap<'_>,
    files: &[PendingFile<'_>],
    reader: &ChunkReader,
    progress: &dyn Progress,
    handle: &Handle,
) -> Result<(), UnpackError> {
    let mut rest = files;
    while !rest.is_empty() {
        let mut chunks = 0;
        let more = rest
            .iter()
            .take(GROUP_FILES)
            .take_while(|file| {
                let fits = chunks == 0 || chunks + file.chunks.len() <= GROUP_CHUNKS;
                chunks += file.chunks.len();
                fits
            })
            .count();
        let (group, after) = rest.split_at(more.max(1));
        fill_group(target, map, group, reader, progress, handle)?;
        rest = after;
    }
    Ok(())
}

fn fill_group(
    target: &mut Target<'_>,
    map: &ContentMap<'_>,
    group: &[PendingFile<'_>],
    reader: &ChunkReader,
    progress: &dyn Progress,
    handle: &Handle,
) -> Result<(), UnpackError> {
    let mut places = Vec::new();
    let mut wanted = Vec::new();
    for (number, file) in group.iter().enumerate() {
        for placed in &file.chunks {
            let part = placed.skip as usize..(placed.skip + placed.take) as usize;
            places.push((number, placed.offset, part));
            wanted.push(map.source(placed)?);
        }
    }
    let open = |file: &PendingFile<'_>| {
        beneath::open(target.root.as_fd(), &file.path, OFlags::WRONLY)
            .map(File::from)
            .map_err(|e| UnpackError::io("open", &target.path(&file.path), e))
    };
    let opened = group.iter().map(open).collect::<Result<Vec<File>, _>>()?;
    let mut left = wanted.len();
    let mut arriving = start(reader.clone(), wanted, handle);
    while left > 0 {
        let arrived = arriving.blocking_recv().ok_or(UnpackError::Cancelled)?;
        let (at, bytes) = arrived.map_err(|e| of_file(target, map, group, e))?;
        let (number, offset, part) = places[at].clone();
        let len = part.len() as u64;
        opened[number]
            .write_all_at(&bytes[part], offset)
            .map_err(|e| UnpackError::io("write", &target.path(&group[number].path), e))?;
        target.report.bytes += len;
        progress.advanced(0, len);
        left -= 1;
    }
    for (file, opened) in group.iter().zip(opened) {
        target.apply(&OwnedFd::from(opened), &file.path, file.meta)?;
    }
    Ok(())
}

/// Names the file that misses a chunk.
fn of_file(
    target: &Target<'_>,
    map: &ContentMap<'_>,
    group: &[PendingFile<'_>],
    source: ReadError,
) -> UnpackError {
    let is_it = |placed| map.source(placed).is_ok_and(|s| s.chunk.id == source.chunk);
    let file = group.iter().find(|file| file.chunks.iter().any(is_it));
    let path = target.path(file.map_or(b"", |file| &file.path));
    UnpackError::Read { path, source }
}

type Arrival = Result<(usize, Bytes), ReadError>;

fn start(
    reader: ChunkReader,
    wanted: Vec<ChunkSource>,
    handle: &Handle,
) -> mpsc::Receiver<Arrival> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    handle.spawn(async move {
        let mut arriving = std::pin::pin!(reader.stream(&wanted));
        while let Some(arrival) = arriving.next().await {
            let failed = arrival.is_err();
            if sender.send(arrival).await.is_err() || failed {
                return;
            }
        }
    });
    receiver
}
