//! A closure -> the blob ranges a mount should fetch ahead.

use std::collections::HashMap;

use lamina_flist::{
    FileData, Flist, FlistError, NodeId, NodeKind, Profile, ProfileRange, ProfileSource, Tree,
};
use lamina_store::{ChunkReader, ReadError};
use tokio::runtime::Handle;

use super::{Needed, ReadFile, closure};
use crate::content_map::{ContentMap, MissingError, PlacedChunk};

/// Ranges of a profile; a closure has fewer files than that.
const RANGES_MAX: usize = 100_000;
/// Plain chunks kept while files are read in pieces.
const CHUNKS_KEPT: usize = 64;

/// Why a flist gets no static profile.
#[derive(Debug, thiserror::Error)]
pub enum StaticProfileError {
    /// The flist.
    #[error("read the flist")]
    Flist(#[from] FlistError),
    /// The flist.
    #[error(transparent)]
    Missing(#[from] MissingError),
    /// The stores.
    #[error("read file content")]
    Read(#[from] ReadError),
}

/// Computes the static profile of a flist with an image config; `None` if the
/// closure is empty. Content is read from the stores behind `reader`. Blocks:
/// for threads.
///
/// # Errors
/// When the flist is damaged or its content cannot be read: a profile that
/// depends on luck would make the flist's digest depend on it.
pub fn static_profile(
    flist: &Flist,
    reader: &ChunkReader,
    handle: &Handle,
) -> Result<Option<Profile>, StaticProfileError> {
    let Some(config) = &flist.meta().image else {
        return Ok(None);
    };
    let tree = flist.to_tree()?;
    let map = ContentMap::new(flist)?;
    let mut files = Files {
        tree: &tree,
        map: &map,
        reader,
        handle,
        places: HashMap::new(),
        chunks: HashMap::new(),
        failed: None,
    };
    let needed = closure(&tree, config, &mut files);
    if let Some(error) = files.failed {
        return Err(error.into());
    }
    let ranges = ranges(&tree, &map, &needed)?;
    Ok((!ranges.is_empty()).then_some(Profile {
        source: ProfileSource::Static,
        ranges,
    }))
}

/// Blob ranges of files, neighbours joined, nothing twice.
fn ranges(
    tree: &Tree,
    map: &ContentMap<'_>,
    needed: &[Needed],
) -> Result<Vec<ProfileRange>, MissingError> {
    let mut out: Vec<ProfileRange> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for part in needed {
        let NodeKind::File(file) = &tree.node(part.node).kind else {
            continue;
        };
        for placed in map.chunks(file)? {
            let end = placed.offset + u64::from(placed.take);
            let wanted = placed.offset < part.range.end && end > part.range.start;
            if !wanted || !seen.insert((placed.blob, placed.entry)) {
                continue;
            }
            let PlacedChunk { blob, entry, .. } = placed;
            let follows = |last: &&mut ProfileRange| {
                last.blob == blob && last.first_entry + last.count == entry
            };
            if let Some(last) = out.last_mut().filter(follows) {
                last.count += 1;
            } else if out.len() < RANGES_MAX {
                out.push(ProfileRange {
                    blob,
                    first_entry: entry,
                    count: 1,
                });
            }
        }
    }
    Ok(out)
}

/// Reads files of a flist through its chunks.
struct Files<'f> {
    tree: &'f Tree,
    map: &'f ContentMap<'f>,
    reader: &'f ChunkReader,
    handle: &'f Handle,
    places: HashMap<NodeId, Vec<PlacedChunk>>,
    chunks: HashMap<u32, bytes::Bytes>,
    failed: Option<ReadError>,
}

impl ReadFile for Files<'_> {
    fn read_at(&mut self, node: NodeId, offset: u64, len: usize) -> Option<Vec<u8>> {
        if self.failed.is_some() {
            return None;
        }
        let NodeKind::File(file) = &self.tree.node(node).kind else {
            return None;
        };
        let end = offset.saturating_add(len as u64).min(file.size);
        let mut out = vec![0; usize::try_from(end.saturating_sub(offset)).ok()?];
        if let FileData::Inline(bytes) = &file.data {
            out.copy_from_slice(bytes.get(offset.min(end) as usize..end as usize)?);
            return Some(out);
        }
        if !self.places.contains_key(&node) {
            self.places.insert(node, self.map.chunks(file).ok()?);
        }
        let places = self.places.get(&node)?;
        let first = places.partition_point(|p| p.offset + u64::from(p.take) <= offset);
        let wanted: Vec<PlacedChunk> = places[first..]
            .iter()
            .take_while(|p| p.offset < end)
            .copied()
            .collect();
        self.fetch(&wanted)?;
        for placed in wanted {
            let bytes = self.chunks.get(&placed.chunk)?;
            let start = placed.offset.max(offset);
            let stop = (placed.offset + u64::from(placed.take)).min(end);
            let from = (start - placed.offset) as usize + placed.skip as usize;
            let count = (stop - start) as usize;
            out[(start - offset) as usize..][..count].copy_from_slice(&bytes[from..from + count]);
        }
        Some(out)
    }
}

impl Files<'_> {
    fn fetch(&mut self, wanted: &[PlacedChunk]) -> Option<()> {
        let missing: Vec<&PlacedChunk> = wanted
            .iter()
            .filter(|p| !self.chunks.contains_key(&p.chunk))
            .collect();
        if missing.is_empty() {
            return Some(());
        }
        if self.chunks.len() > CHUNKS_KEPT {
            let kept: std::collections::HashSet<u32> = wanted.iter().map(|p| p.chunk).collect();
            self.chunks.retain(|chunk, _| kept.contains(chunk));
        }
        let sources: Option<Vec<_>> = missing.iter().map(|p| self.map.source(p).ok()).collect();
        let fetched = match self.handle.block_on(self.reader.fetch(&sources?)) {
            Ok(fetched) => fetched,
            Err(error) => {
                self.failed.get_or_insert(error);
                return None;
            }
        };
        self.chunks
            .extend(missing.iter().map(|p| p.chunk).zip(fetched));
        Some(())
    }
}
