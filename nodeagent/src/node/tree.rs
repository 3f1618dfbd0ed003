//! Looking into a flist without mounting it: a directory's entries, a file's bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use lamina_flist::{FileSpan, FileType, Flist, FlistError, FollowSymlinks, Inode, SpanSource};
use lamina_proto::lamina::v1::read_tree_response::Part;
use lamina_proto::lamina::v1::{ReadTreeResponse, TreeEntry};
use lamina_store::{
    ChunkReader, ChunkSource, ReadOptions, StoreOptions, StoreSet, StoreSpec, entries_within,
    part_within,
};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::Parts;
use super::error::NodeError;
use super::library::Have;
use super::warm::Warming;
use crate::agent::of_store;
use crate::api::Failure;

/// Chunks in memory at once: at most 4 MiB.
const WINDOW: usize = 16;
/// Bytes in one message.
const PIECE: usize = 256 << 10;
/// Longest path inside a flist.
const PATH_MAX: usize = 4095;

/// Where answers go; a caller that is gone ends the reading.
type Sender = mpsc::Sender<Result<ReadTreeResponse, Status>>;

/// A path in a flist that somebody wants to see.
pub(super) struct Look {
    pub(super) parts: Parts,
    pub(super) warming: Arc<Warming>,
    pub(super) have: Have,
    pub(super) path: String,
}

/// Where a file's bytes are read.
enum Bytes {
    Stores(ChunkReader),
    /// In a mount: its data is with the cluster's layers, which the agent reads.
    Mounted(Arc<File>),
}

impl Look {
    /// Sends what is there; a failure goes the same way.
    pub(super) async fn send(self, to: Sender) {
        if let Err(error) = self.read(&to).await {
            let _ = to.send(Err(error.into())).await;
        }
    }

    async fn read(&self, to: &Sender) -> Result<(), NodeError> {
        let path = &self.path;
        if path.len() > PATH_MAX {
            return Err(NodeError::invalid("the path inside the flist is too long"));
        }
        let flist = open(&self.have.flist).await?;
        let inode = flist
            .resolve(path.as_bytes(), FollowSymlinks::Always)
            .map_err(|error| of_path(path, &error))?;
        match inode.file_type() {
            FileType::Directory => send_directory(&flist, &inode, to).await,
            FileType::File => self.send_file(&flist, &inode, to).await,
            _ => Err(NodeError::invalid(format!(
                "{path} is neither a directory nor a file"
            ))),
        }
    }

    async fn send_file(&self, flist: &Flist, inode: &Inode, to: &Sender) -> Result<(), NodeError> {
        let mut bytes = None;
        let spans = flist
            .file_map(inode)
            .map_err(|error| NodeError::new(Code::DataLoss, error.to_string()))?;
        for span in spans {
            let (blob, offset) = match span.source {
                SpanSource::Inline(ref bytes) => {
                    pass(to, Part::Data(bytes.to_vec())).await;
                    continue;
                }
                SpanSource::Hole => {
                    if !zeros(to, span.len).await {
                        return Ok(());
                    }
                    continue;
                }
                SpanSource::Blob { blob, offset } => (blob, offset),
            };
            if bytes.is_none() {
                bytes = Some(self.open_bytes().await?);
            }
            let is_heard = match &bytes {
                None => false,
                Some(Bytes::Stores(reader)) => {
                    send_span(flist, reader, &span, blob, offset, to).await?
                }
                Some(Bytes::Mounted(file)) => send_read(file, &span, &self.path, to).await?,
            };
            if !is_heard {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn open_bytes(&self) -> Result<Bytes, NodeError> {
        if !self.have.stores.is_empty() {
            return open_stores(&self.have).map(Bytes::Stores);
        }
        let opened = self.warming.open(&self.parts, &self.have, &self.path);
        Ok(Bytes::Mounted(Arc::new(opened.await?)))
    }
}

/// Says whether somebody still listens.
async fn send_read(
    file: &Arc<File>,
    span: &FileSpan,
    path: &str,
    to: &Sender,
) -> Result<bool, NodeError> {
    let (mut at, end) = (span.start, span.start + span.len);
    while at < end {
        let file = Arc::clone(file);
        let mut piece = vec![0; PIECE.min((end - at) as usize)];
        let read = tokio::task::spawn_blocking(move || {
            file.read_exact_at(&mut piece, at)?;
            Ok::<_, io::Error>(piece)
        });
        let piece = match read.await {
            Ok(Ok(piece)) => piece,
            Ok(Err(error)) => {
                let message = format!("read {path}: no node and no registry has its data: {error}");
                return Err(NodeError::new(Code::Unavailable, message));
            }
            Err(ended) => return Err(NodeError::internal("read a file", &ended)),
        };
        at += piece.len() as u64;
        if !pass(to, Part::Data(piece)).await {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn open(path: &Path) -> Result<Flist, NodeError> {
    let what = format!("read the flist {}", path.display());
    let path = path.to_owned();
    let opened = tokio::task::spawn_blocking(move || lamina_store::open_flist(&path)).await;
    opened
        .map_err(|error| NodeError::internal(&what, &error))?
        .map_err(|error| NodeError::internal(&what, &error))
}

fn of_path(path: &str, error: &FlistError) -> NodeError {
    let code = match error {
        FlistError::NotFound => Code::NotFound,
        FlistError::SymlinkLoop => Code::InvalidArgument,
        _ => Code::DataLoss,
    };
    NodeError::new(code, format!("find {path} in the flist: {error}"))
}

async fn send_directory(flist: &Flist, directory: &Inode, to: &Sender) -> Result<(), NodeError> {
    let damaged = |error: FlistError| {
        NodeError::new(
            Code::DataLoss,
            format!("read a directory of the flist: {error}"),
        )
    };
    for entry in flist.read_dir(directory) {
        let entry = entry.map_err(damaged)?;
        if matches!(entry.name, b"." | b"..") {
            continue;
        }
        let inode = flist.inode(entry.nid).map_err(damaged)?;
        let link_target = match inode.file_type() {
            FileType::Symlink => flist.readlink(&inode).map_err(damaged)?.to_vec(),
            _ => Vec::new(),
        };
        let entry = TreeEntry {
            name: entry.name.to_vec(),
            mode: inode.mode(),
            uid: inode.uid(),
            gid: inode.gid(),
            size: inode.size(),
            mtime_s: inode.mtime().secs,
            link_target,
        };
        if !pass(to, Part::Entry(entry)).await {
            return Ok(());
        }
    }
    Ok(())
}

/// Says whether somebody still listens.
async fn send_span(
    flist: &Flist,
    reader: &ChunkReader,
    span: &FileSpan,
    blob: u16,
    offset: u64,
    to: &Sender,
) -> Result<bool, NodeError> {
    let range = offset..offset + span.len;
    let mut at = offset;
    for window in entries_within(flist, blob, &range).chunks(WINDOW) {
        let located: Option<Vec<ChunkSource>> = window
            .iter()
            .map(|entry| ChunkSource::of(flist, entry.chunk))
            .collect();
        let located = located.ok_or_else(|| {
            NodeError::new(Code::DataLoss, "the flist does not say where a chunk is")
        })?;
        let plain = reader.fetch(&located).await.map_err(|error| {
            NodeError::from(Failure {
                kind: of_store(error.kind()),
                message: crate::chain(&error),
            })
        })?;
        for (entry, bytes) in window.iter().zip(plain) {
            let part = part_within(entry, bytes.len(), &range);
            let next = entry.offset + part.end as u64;
            if !zeros(to, entry.offset.saturating_sub(at)).await
                || !pieces(to, bytes.slice(part)).await
            {
                return Ok(false);
            }
            at = next;
        }
    }
    Ok(zeros(to, range.end - at).await)
}

fn open_stores(have: &Have) -> Result<ChunkReader, NodeError> {
    let specs: Result<Vec<StoreSpec>, _> = have.stores.iter().map(|url| url.parse()).collect();
    let specs = specs.map_err(|error| NodeError::internal("read a store's URL", &error))?;
    let set = StoreSet::open(&specs, StoreOptions::default()).map_err(|error| {
        NodeError::from(Failure {
            kind: of_store(error.kind()),
            message: crate::chain(&error),
        })
    })?;
    Ok(ChunkReader::new(set, ReadOptions::default()))
}

async fn pieces(to: &Sender, mut bytes: bytes::Bytes) -> bool {
    while !bytes.is_empty() {
        let piece = bytes.split_to(bytes.len().min(PIECE));
        if !pass(to, Part::Data(piece.to_vec())).await {
            return false;
        }
    }
    true
}

async fn zeros(to: &Sender, mut count: u64) -> bool {
    while count > 0 {
        let part = count.min(PIECE as u64);
        if !pass(to, Part::Data(vec![0; part as usize])).await {
            return false;
        }
        count -= part;
    }
    true
}

async fn pass(to: &Sender, part: Part) -> bool {
    let part = Some(part);
    to.send(Ok(ReadTreeResponse { part })).await.is_ok()
}
