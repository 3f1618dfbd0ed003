//! Looking into a flist without mounting it: a directory's entries, a file's bytes.

use std::path::Path;

use bytes::Bytes;
use lamina_flist::{FileSpan, FileType, Flist, FlistError, FollowSymlinks, Inode, SpanSource};
use lamina_proto::lamina::v1::read_tree_response::Part;
use lamina_proto::lamina::v1::{ReadTreeResponse, TreeEntry};
use lamina_store::{
    ChunkReader, ChunkSource, ReadOptions, StoreOptions, StoreSet, StoreSpec, entries_within,
    part_within,
};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::error::NodeError;
use super::library::Have;
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

/// Sends what is at `path`; a failure goes the same way.
pub(super) async fn send(have: Have, path: String, to: Sender) {
    if let Err(error) = read(&have, &path, &to).await {
        let _ = to.send(Err(error.into())).await;
    }
}

async fn read(have: &Have, path: &str, to: &Sender) -> Result<(), NodeError> {
    if path.len() > PATH_MAX {
        return Err(NodeError::invalid("the path inside the flist is too long"));
    }
    let flist = open(&have.flist).await?;
    let inode = flist
        .resolve(path.as_bytes(), FollowSymlinks::Always)
        .map_err(|error| of_path(path, &error))?;
    match inode.file_type() {
        FileType::Directory => send_directory(&flist, &inode, to).await,
        FileType::File => send_file(have, &flist, &inode, to).await,
        _ => Err(NodeError::invalid(format!(
            "{path} is neither a directory nor a file"
        ))),
    }
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

async fn send_file(
    have: &Have,
    flist: &Flist,
    inode: &Inode,
    to: &Sender,
) -> Result<(), NodeError> {
    let mut reader = None;
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
        if reader.is_none() {
            reader = Some(open_stores(have)?);
        }
        if let Some(reader) = &reader
            && !send_span(flist, reader, &span, blob, offset, to).await?
        {
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
    if have.stores.is_empty() {
        let message = "the data of this image is with the cluster's layers, not in a store: mount it to read its files";
        return Err(NodeError::new(Code::FailedPrecondition, message));
    }
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

async fn pieces(to: &Sender, mut bytes: Bytes) -> bool {
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
