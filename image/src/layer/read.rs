//! The loop over a layer's tar: entries to the builder, data to the sink.

use std::io::BufRead;

use lamina_flist::{NodeId, Tree};

use super::builder::LayerBuilder;
use super::content::{ChunkSink, ContentWriter, FileWriter, Pending};
use super::{LayerError, LayerStats};
use crate::limits::TarLimits;
use crate::tar::{DataSegment, EntryKind, TarReader};

/// A layer whose content is in a sink but has no place in a blob yet.
pub struct LayerDraft {
    /// The tree; files over the inline limit have no data yet.
    pub(crate) tree: Tree,
    /// Files with their content, in stream order. A later entry may have
    /// removed the node again.
    pub(crate) files: Vec<(NodeId, Pending)>,
    /// Plain length of every chunk pushed.
    pub(crate) chunk_lens: Vec<u32>,
    /// What was seen.
    pub stats: LayerStats,
}

impl LayerDraft {
    /// The layer's tree, without the content of larger files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
}

/// Reads a layer's plain tar from `input`; file data goes to `sink`.
///
/// The stream is left behind the archive's end marker. `progress` is told the
/// entries so far.
///
/// # Errors
/// On a malformed, hostile or oversized layer, and when the sink fails.
pub fn read_layer<S: ChunkSink + ?Sized>(
    input: &mut dyn BufRead,
    limits: &TarLimits,
    sink: &mut S,
    mut progress: impl FnMut(u64),
) -> Result<LayerDraft, LayerError> {
    let mut tar = TarReader::new(input, limits.clone());
    let mut builder = LayerBuilder::new(limits.clone());
    let mut content = ContentWriter::new(sink);
    let mut files = Vec::new();
    while let Some(mut entry) = tar.next_entry()? {
        let (size, sparse) = match &mut entry.kind {
            EntryKind::File { size, sparse } => (*size, sparse.take()),
            _ => (0, None),
        };
        builder.stats.file_bytes += tar.data_left();
        if let Some(node) = builder.apply(entry)? {
            let pending = read_file(&mut tar, &mut content, size, sparse)?;
            files.push((node, pending));
        }
        progress(builder.stats.entries);
    }
    Ok(LayerDraft {
        tree: builder.tree,
        files,
        chunk_lens: content.into_lens(),
        stats: builder.stats,
    })
}

fn read_file<R: BufRead, S: ChunkSink + ?Sized>(
    tar: &mut TarReader<R>,
    content: &mut ContentWriter<'_, S>,
    size: u64,
    sparse: Option<Vec<DataSegment>>,
) -> Result<Pending, LayerError> {
    let dense = || {
        vec![DataSegment {
            offset: 0,
            len: size,
        }]
    };
    let mut file = FileWriter::new(content, size);
    for segment in sparse.unwrap_or_else(dense) {
        let (mut at, end) = (segment.offset, segment.offset + segment.len);
        while at < end {
            let data = tar.data()?;
            let n = data
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            file.write_at(at, &data[..n])?;
            tar.consume(n);
            at += n as u64;
        }
    }
    file.finish()
}
