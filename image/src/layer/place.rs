//! Content in chunks -> extents of the layer's blob.
//!
//! Files are laid out in stream order: what a build step wrote together stays
//! together. Runs after all chunks are known, since equal files share one
//! extent by their chunk lists.

use std::collections::HashSet;
use std::ops::Range;

use lamina_flist::blob::{DataRun, PlaceError};
use lamina_flist::{
    BlobBuilder, BlobLayout, ChunkRecord, FileContent, FileData, NodeId, NodeKind, PackRecord, Tree,
};

use super::content::Pending;
use crate::closure::{FileScan, Scans};

/// A layer with its blob: everything the image needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedLayer {
    /// The layer tree; file extents are in blob 0.
    pub tree: Tree,
    /// The layout of the layer's blob.
    pub blob: BlobLayout,
    /// The chunks the blob refers to.
    pub chunks: Vec<ChunkRecord>,
    /// The packs the chunks refer to.
    pub packs: Vec<PackRecord>,
    /// What the content of the blob's files says about other files.
    pub scans: Scans,
}

/// Gives every live file its place; `chunk_of` maps pushed chunks to the table.
pub(crate) fn place_content(
    tree: &mut Tree,
    files: Vec<(NodeId, Pending)>,
    chunk_lens: &[u32],
    chunk_of: &[u32],
) -> Result<BlobLayout, PlaceError> {
    let live: HashSet<NodeId> = tree.walk().map(|(_, id)| id).collect();
    let mut blob = BlobBuilder::new();
    let list = |range: Range<u32>| -> Vec<(u32, u32)> {
        range
            .map(|seq| (chunk_of[seq as usize], chunk_lens[seq as usize]))
            .collect()
    };
    for (id, pending) in files {
        if !live.contains(&id) {
            continue;
        }
        let Some(file) = tree.file_mut(id) else {
            continue;
        };
        file.data = match pending {
            Pending::Inline(bytes) => FileData::Inline(bytes),
            Pending::Dense(range) => FileData::Extent(blob.place_extent(0, &list(range))),
            Pending::Sparse(runs) => {
                let runs: Vec<DataRun> = runs
                    .into_iter()
                    .map(|(file_offset, range)| DataRun {
                        file_offset,
                        chunks: list(range),
                    })
                    .collect();
                FileData::Sparse {
                    blob: 0,
                    segments: blob.place_sparse(file.size, &runs)?,
                }
            }
        };
    }
    Ok(blob.finish())
}

/// Keeps scans by the place of the content; those of removed or sparse files
/// are dropped.
pub(crate) fn place_scans(tree: &Tree, scans: Vec<(NodeId, FileScan)>) -> Scans {
    let live: HashSet<NodeId> = tree.walk().map(|(_, id)| id).collect();
    let live = scans.into_iter().filter(|(id, _)| live.contains(id));
    Scans::new(live.filter_map(|(id, scan)| match &tree.node(id).kind {
        NodeKind::File(FileContent {
            data: FileData::Extent(extent),
            ..
        }) => Some((extent.offset, scan)),
        _ => None,
    }))
}
