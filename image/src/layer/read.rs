//! The loop over a layer's tar: entries to the builder, data to the sink and
//! past the scanner.

use std::io::BufRead;

use lamina_flist::{INLINE_MAX, NodeId, Tree};

use super::builder::LayerBuilder;
use super::content::{ChunkSink, ContentWriter, FileWriter, Pending};
use super::{LayerError, LayerStats};
use crate::closure::{FileScan, Scanner};
use crate::limits::TarLimits;
use crate::tar::{DataSegment, EntryKind, TarReader};

/// A layer whose content is in a sink but has no place in a blob yet.
pub struct LayerDraft {
    /// The tree; files over the inline limit have no data yet.
    pub(crate) tree: Tree,
    /// Files with their content, in stream order. A later entry may have
    /// removed the node again.
    pub(crate) files: Vec<(NodeId, Pending)>,
    /// What the content of files says about others; inline files not.
    pub(crate) scans: Vec<(NodeId, FileScan)>,
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
    let (mut files, mut scans) = (Vec::new(), Vec::new());
    while let Some(mut entry) = tar.next_entry()? {
        let (size, sparse) = match &mut entry.kind {
            EntryKind::File { size, sparse } => (*size, sparse.take()),
            _ => (0, None),
        };
        builder.stats.file_bytes += tar.data_left();
        let name = entry.path.split_last().map(|(_, name)| name.to_vec());
        let mut scanner = name
            .filter(|_| size > INLINE_MAX)
            .map(|name| Scanner::new(&name, size));
        if let Some(node) = builder.apply(entry)? {
            let pending = read_file(&mut tar, &mut content, size, sparse, scanner.as_mut())?;
            files.push((node, pending));
            let scan = scanner.and_then(Scanner::finish);
            scans.extend(scan.map(|scan| (node, scan)));
        }
        progress(builder.stats.entries);
    }
    Ok(LayerDraft {
        tree: builder.tree,
        files,
        scans,
        chunk_lens: content.into_lens(),
        stats: builder.stats,
    })
}

fn read_file<R: BufRead, S: ChunkSink + ?Sized>(
    tar: &mut TarReader<R>,
    content: &mut ContentWriter<'_, S>,
    size: u64,
    sparse: Option<Vec<DataSegment>>,
    mut scanner: Option<&mut Scanner>,
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
            if let Some(scanner) = &mut scanner {
                scanner.feed(at, &data[..n]);
            }
            tar.consume(n);
            at += n as u64;
        }
    }
    file.finish()
}
