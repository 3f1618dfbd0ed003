//! A file of a tree -> the chunks that hold its bytes.
//!
//! Owns the walk from extents and segments through the blob layout to the
//! chunk table. Ranges that no chunk covers read as zeros.

use lamina_flist::{BlobEntry, FileContent, FileData, Flist};
use lamina_store::ChunkSource;

/// A chunk, or the part of it that a file uses, at its place in the file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedChunk {
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Index in the flist's chunk table.
    pub(crate) chunk: u32,
    /// Bytes of the whole chunk.
    pub(crate) len: u32,
    /// Bytes of it before the part that is used.
    pub(crate) skip: u32,
    /// Bytes of it that are used.
    pub(crate) take: u32,
}

/// A flist refers to something it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the flist is damaged: a file refers to {0} that is not there")]
pub struct MissingError(&'static str);

/// The blob layouts of a flist, to look up many files.
pub(crate) struct ContentMap<'f> {
    flist: &'f Flist,
    blobs: Vec<Vec<BlobEntry>>,
}

impl<'f> ContentMap<'f> {
    pub(crate) fn new(flist: &'f Flist) -> Result<Self, MissingError> {
        let entries = |i| flist.blob_entries(i).map(Iterator::collect);
        let blobs: Option<Vec<Vec<BlobEntry>>> = (0..flist.blob_count()).map(entries).collect();
        Ok(Self {
            flist,
            blobs: blobs.ok_or(MissingError("a blob"))?,
        })
    }

    /// The chunks of `file`, by place.
    pub(crate) fn chunks(&self, file: &FileContent) -> Result<Vec<PlacedChunk>, MissingError> {
        let mut out = Vec::new();
        match &file.data {
            FileData::Inline(_) => {}
            FileData::Extent(extent) => {
                self.run(&mut out, extent.blob, 0, file.size, extent.offset)?;
            }
            FileData::Sparse { blob, segments } => {
                for s in segments {
                    self.run(&mut out, *blob, s.file_offset, s.len, s.blob_offset)?;
                }
            }
        }
        Ok(out)
    }

    fn run(
        &self,
        out: &mut Vec<PlacedChunk>,
        blob: u16,
        file_offset: u64,
        len: u64,
        blob_offset: u64,
    ) -> Result<(), MissingError> {
        let entries = self
            .blobs
            .get(usize::from(blob))
            .ok_or(MissingError("a blob"))?;
        let end = blob_offset
            .checked_add(len)
            .ok_or(MissingError("a range"))?;
        let first = entries.partition_point(|e| e.offset + u64::from(e.len) <= blob_offset);
        for entry in entries.iter().skip(first) {
            if entry.offset >= end {
                break;
            }
            let start = entry.offset.max(blob_offset);
            let stop = (entry.offset + u64::from(entry.len)).min(end);
            out.push(PlacedChunk {
                offset: file_offset + (start - blob_offset),
                chunk: entry.chunk,
                len: entry.len,
                skip: (start - entry.offset) as u32,
                take: (stop - start) as u32,
            });
        }
        Ok(())
    }

    /// Where a chunk is stored.
    pub(crate) fn source(&self, placed: &PlacedChunk) -> Result<ChunkSource, MissingError> {
        let chunk = self
            .flist
            .chunk(placed.chunk)
            .ok_or(MissingError("a chunk"))?;
        let pack = self.flist.pack(chunk.pack).ok_or(MissingError("a pack"))?;
        if chunk.len != placed.len {
            return Err(MissingError("a chunk of that length"));
        }
        Ok(ChunkSource { chunk, pack })
    }
}
