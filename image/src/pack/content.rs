//! File contents -> chunks, read by several threads, pushed in path order.
//!
//! Files are grouped into batches; a thread works through a batch and sends
//! chunks through a short queue of its own. The calling thread empties the
//! queues batch by batch, so the order of chunks is that of the files, and at
//! most one batch per thread waits in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use lamina_flist::{INLINE_MAX, NodeId};
use lamina_store::PackSink;
use rustix::fs::{OFlags, SeekFrom, seek};
use rustix::io::Errno;

use super::scan::{FileToRead, Seen};
use super::{PackDirError, PackDirOptions};
use crate::beneath;
use crate::closure::{FileScan, Scanner};
use crate::layer::{BoxError, ChunkSink, ContentWriter, FileWriter, LayerError, Pending};
use crate::progress::Progress;

/// A batch ends with the file that reaches this many bytes...
const BATCH_BYTES: u64 = 4 << 20;
/// ... or this many files.
const BATCH_FILES: usize = 256;
/// Files up to this size are read whole, and again if they change.
const RETRY_BYTES: u64 = 4 << 20;
/// Pieces between a reading thread and the order; a chunk is at most 256 KiB.
const QUEUE: usize = 16;
const READ_BYTES: usize = 1 << 20;

/// What was read.
pub(super) struct Read {
    pub(super) files: Vec<(NodeId, Pending)>,
    pub(super) scans: Vec<(NodeId, FileScan)>,
    pub(super) chunk_lens: Vec<u32>,
}

enum Piece {
    Chunk(Vec<u8>),
    /// A file is complete; its ranges count from the batch's first chunk.
    File {
        node: NodeId,
        size: u64,
        content: Content,
    },
    Failed(PackDirError),
}

/// Where a file's bytes went, and what they say.
type Content = (Pending, Option<FileScan>);

/// Reads `files` below `root`, pushing chunks to `sink`.
pub(super) fn read_files(
    root: &OwnedFd,
    shown: &Path,
    files: &[FileToRead],
    options: &PackDirOptions,
    sink: &PackSink,
    progress: &dyn Progress,
) -> Result<Read, PackDirError> {
    let batches = batches(files);
    let queues: Vec<(Sender<Piece>, Receiver<Piece>)> =
        batches.iter().map(|_| bounded(QUEUE)).collect();
    let (senders, receivers): (Vec<_>, VecDeque<_>) = queues.into_iter().unzip();
    let senders: Vec<std::sync::Mutex<Option<Sender<Piece>>>> = senders
        .into_iter()
        .map(|s| std::sync::Mutex::new(Some(s)))
        .collect();
    let next = AtomicUsize::new(0);
    let reader = Reader {
        root: root.as_fd(),
        shown,
        options,
    };
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(batch) = batches.get(number) else {
                    return;
                };
                let sender = senders[number].lock().ok().and_then(|mut s| s.take());
                let Some(sender) = sender else { return };
                // A receiver that is gone has failed: so has everything.
                if reader.batch(batch, &sender).is_err() {
                    return;
                }
            }
        };
        for _ in 0..options.threads.max(1) {
            std::thread::Builder::new()
                .spawn_scoped(scope, work)
                .map_err(|_| PackDirError::Thread)?;
        }
        collect(receivers, sink, progress)
    })
}

fn batches(files: &[FileToRead]) -> Vec<&[FileToRead]> {
    let mut out = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, file) in files.iter().enumerate() {
        bytes += file.stat.size;
        if bytes >= BATCH_BYTES || at + 1 - start >= BATCH_FILES {
            out.push(&files[start..=at]);
            (start, bytes) = (at + 1, 0);
        }
    }
    if start < files.len() {
        out.push(&files[start..]);
    }
    out
}

/// Takes pieces batch by batch. Dropping the receivers on an error stops the
/// threads.
fn collect(
    mut receivers: VecDeque<Receiver<Piece>>,
    sink: &PackSink,
    progress: &dyn Progress,
) -> Result<Read, PackDirError> {
    let mut read = Read {
        files: Vec::new(),
        scans: Vec::new(),
        chunk_lens: Vec::new(),
    };
    while let Some(receiver) = receivers.pop_front() {
        let base = read.chunk_lens.len() as u32;
        for piece in receiver {
            match piece {
                Piece::Chunk(chunk) => {
                    read.chunk_lens.push(chunk.len() as u32);
                    sink.push(chunk).map_err(|e| LayerError::Sink(e.into()))?;
                }
                Piece::File {
                    node,
                    size,
                    content: (pending, scan),
                } => {
                    progress.advanced(1, size);
                    read.files.push((node, shifted(pending, base)));
                    read.scans.extend(scan.map(|scan| (node, scan)));
                }
                Piece::Failed(error) => return Err(error),
            }
        }
    }
    Ok(read)
}

fn shifted(pending: Pending, base: u32) -> Pending {
    let shift = |r: std::ops::Range<u32>| r.start + base..r.end + base;
    match pending {
        Pending::Inline(bytes) => Pending::Inline(bytes),
        Pending::Dense(range) => Pending::Dense(shift(range)),
        Pending::Sparse(runs) => {
            Pending::Sparse(runs.into_iter().map(|(at, r)| (at, shift(r))).collect())
        }
    }
}

struct Sending<'a>(&'a Sender<Piece>);

impl ChunkSink for Sending<'_> {
    fn push(&mut self, chunk: Vec<u8>) -> Result<(), BoxError> {
        self.0
            .send(Piece::Chunk(chunk))
            .map_err(|_| "the receiver is gone".into())
    }
}

struct Reader<'a> {
    root: BorrowedFd<'a>,
    shown: &'a Path,
    options: &'a PackDirOptions,
}

/// The receiver is gone.
struct Gone;

impl Reader<'_> {
    fn batch(&self, files: &[FileToRead], sender: &Sender<Piece>) -> Result<(), Gone> {
        let mut sending = Sending(sender);
        let mut content = ContentWriter::new(&mut sending);
        let mut buffer = vec![0; READ_BYTES];
        for file in files {
            let piece = match self.file(file, &mut content, &mut buffer) {
                Ok(content) => Piece::File {
                    node: file.node,
                    size: file.stat.size,
                    content,
                },
                Err(PackDirError::Content(LayerError::Sink(_))) => return Err(Gone),
                Err(error) => Piece::Failed(error),
            };
            sender.send(piece).map_err(|_| Gone)?;
        }
        Ok(())
    }

    fn file(
        &self,
        file: &FileToRead,
        content: &mut ContentWriter<'_, Sending<'_>>,
        buffer: &mut [u8],
    ) -> Result<Content, PackDirError> {
        let mut attempt = 1;
        loop {
            let path = || self.path(file);
            let opened = beneath::open(self.root, &file.path, OFlags::RDONLY | OFlags::NONBLOCK)
                .map_err(|e| PackDirError::io("open", &path(), e))?;
            let opened = File::from(opened);
            let before = self.look(&opened, file)?;
            // Scanned metadata and content must be of the same moment.
            let same = file.stat.is_unchanged(&before);
            if same && file.stat.size <= RETRY_BYTES {
                let runs = self.small(&opened, file)?;
                if file.stat.is_unchanged(&self.look(&opened, file)?) {
                    return write_runs(&runs, file, content);
                }
            } else if same {
                let read = self.large(&opened, file, content, buffer)?;
                if file.stat.is_unchanged(&self.look(&opened, file)?) {
                    return Ok(read);
                }
                return Err(PackDirError::Changed { path: path() });
            }
            if attempt >= self.options.attempts || !same {
                return Err(PackDirError::Changed { path: path() });
            }
            attempt += 1;
        }
    }

    fn look(&self, opened: &File, file: &FileToRead) -> Result<Seen, PackDirError> {
        let stat = rustix::fs::fstat(opened)
            .map_err(|e| PackDirError::io("look at", &self.path(file), e))?;
        Ok(Seen::new(&stat))
    }

    /// All data of a small file, by place.
    fn small(&self, opened: &File, file: &FileToRead) -> Result<Vec<(u64, Vec<u8>)>, PackDirError> {
        let mut runs = Vec::new();
        for (start, end) in self.data_runs(opened, file)? {
            let mut bytes = vec![0; (end - start) as usize];
            opened
                .read_exact_at(&mut bytes, start)
                .map_err(|e| self.read_failed(file, e))?;
            runs.push((start, bytes));
        }
        Ok(runs)
    }

    fn large(
        &self,
        opened: &File,
        file: &FileToRead,
        content: &mut ContentWriter<'_, Sending<'_>>,
        buffer: &mut [u8],
    ) -> Result<Content, PackDirError> {
        let runs = self.data_runs(opened, file)?;
        let mut writer = FileWriter::new(content, file.stat.size);
        let mut scanner = scanner(file);
        for (start, end) in runs {
            let mut at = start;
            while at < end {
                let want = buffer
                    .len()
                    .min(usize::try_from(end - at).unwrap_or(usize::MAX));
                opened
                    .read_exact_at(&mut buffer[..want], at)
                    .map_err(|e| self.read_failed(file, e))?;
                writer.write_at(at, &buffer[..want])?;
                scanner.feed(at, &buffer[..want]);
                at += want as u64;
            }
        }
        Ok((writer.finish()?, scanner.finish()))
    }

    /// A file that became shorter has changed; anything else is the disk.
    fn read_failed(&self, file: &FileToRead, error: std::io::Error) -> PackDirError {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => PackDirError::Changed {
                path: self.path(file),
            },
            _ => PackDirError::io("read", &self.path(file), error),
        }
    }

    /// Where a file has data; all of it where holes cannot be asked for.
    fn data_runs(&self, opened: &File, file: &FileToRead) -> Result<Vec<(u64, u64)>, PackDirError> {
        let size = file.stat.size;
        // Fully allocated files, most of them, have no holes to look for.
        if file.stat.blocks.saturating_mul(512) >= size {
            return Ok(vec![(0, size)]);
        }
        let mut runs = Vec::new();
        let mut at = 0;
        while at < size {
            let start = match seek(opened, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
                Err(e) => return Err(PackDirError::io("find holes in", &self.path(file), e)),
            };
            let end = seek(opened, SeekFrom::Hole(start))
                .map_err(|e| PackDirError::io("find holes in", &self.path(file), e))?;
            if start >= size || end <= start {
                break;
            }
            runs.push((start, end.min(size)));
            at = end;
        }
        Ok(runs)
    }

    fn path(&self, file: &FileToRead) -> PathBuf {
        self.shown.join(std::ffi::OsStr::from_bytes(&file.path))
    }
}

fn scanner(file: &FileToRead) -> Scanner {
    let name = file.path.rsplit(|b| *b == b'/').next();
    Scanner::new(name.unwrap_or_default(), file.stat.size)
}

fn write_runs(
    runs: &[(u64, Vec<u8>)],
    file: &FileToRead,
    content: &mut ContentWriter<'_, Sending<'_>>,
) -> Result<Content, PackDirError> {
    let mut writer = FileWriter::new(content, file.stat.size);
    let mut scanner = scanner(file);
    for (at, bytes) in runs {
        writer.write_at(*at, bytes)?;
        scanner.feed(*at, bytes);
    }
    let scan = scanner.finish().filter(|_| file.stat.size > INLINE_MAX);
    Ok((writer.finish()?, scan))
}
