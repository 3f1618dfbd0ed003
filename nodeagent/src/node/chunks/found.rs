//! Where the chunks of a request are on this node: in a layer's file, or in the agent's cache.

use std::io;
use std::os::unix::fs::FileExt;

use lamina_flist::ChunkRecord;
use lamina_mount::cache::{BlobReader, CacheDir, MapCheck};
use lamina_proto::lamina::v1::Chunk;
use tonic::Status;

use super::wanted::Wanted;
use crate::layers::{OpenLayer, WholeLayers};

/// Wanted entries and where they are read from.
pub(super) enum Found {
    /// A whole layer: each entry with its chunk and the place of the chunk's pack in the layer's file.
    Layer(OpenLayer, Vec<(u32, ChunkRecord, u64)>),
    /// Wanted entries of a blob of the agent's cache, of which some are there, and come and go.
    Part(BlobReader, Vec<u32>),
    /// Nothing.
    Nowhere,
}

impl Found {
    /// Looks where the chunks are. Reads the disk.
    pub(super) fn look(
        whole: &dyn WholeLayers,
        cache: &CacheDir,
        wanted: &Wanted,
    ) -> Result<Self, Status> {
        if let Some(layer) = whole.open(&wanted.layer) {
            let places = places(&layer, wanted)?;
            if !places.is_empty() {
                return Ok(Self::Layer(layer, places));
            }
        }
        // One that is being made or taken away is as good as none.
        let part = BlobReader::open(
            &cache.blob_dir(&wanted.blob),
            &wanted.blob,
            MapCheck::Identity,
        );
        let Ok(part) = part else {
            return Ok(Self::Nowhere);
        };
        check_end(wanted, part.entry_count())?;
        Ok(Self::Part(part.without_touching(), wanted.entries.clone()))
    }

    /// Whether one of them is here now. Reads memory alone.
    pub(super) fn has(&self, at: usize) -> bool {
        match self {
            Self::Layer(..) => true,
            Self::Part(part, entries) => part.has_entry(entries[at] as usize),
            Self::Nowhere => false,
        }
    }

    /// One of the entries that are or may be here.
    pub(super) fn entry(&self, at: usize) -> u32 {
        match self {
            Self::Layer(_, places) => places[at].0,
            Self::Part(_, entries) => entries[at],
            Self::Nowhere => 0,
        }
    }

    /// How many entries are or may be here.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Layer(_, places) => places.len(),
            Self::Part(_, entries) => entries.len(),
            Self::Nowhere => 0,
        }
    }

    /// Whether a whole layer has them.
    pub(super) fn is_layer(&self) -> bool {
        matches!(self, Self::Layer(..))
    }

    /// Whether a layer has them that came from another node.
    pub(super) fn is_copied_layer(&self) -> bool {
        matches!(self, Self::Layer(layer, _) if layer.is_copied())
    }

    /// Reads one of them, by its place among them; `None` if it is not here.
    pub(super) fn read(&self, at: usize) -> io::Result<Option<Chunk>> {
        match self {
            Self::Layer(layer, places) => {
                let (entry, chunk, pack_at) = &places[at];
                let mut stored = vec![0; chunk.stored_len as usize];
                let offset = pack_at.checked_add(u64::from(chunk.offset));
                let offset = offset.ok_or(io::ErrorKind::InvalidData)?;
                layer.file.read_exact_at(&mut stored, offset)?;
                Ok(Some(Chunk {
                    entry: *entry,
                    codec: u32::from(chunk.codec as u8),
                    stored: stored.into(),
                }))
            }
            Self::Part(part, entries) => {
                let entry = entries[at];
                let bytes = part.read_entry(entry as usize)?;
                // As they are: compressing costs more than a fast network takes for the difference.
                Ok(bytes.map(|stored| Chunk {
                    entry,
                    codec: 0,
                    stored: stored.into(),
                }))
            }
            Self::Nowhere => Ok(None),
        }
    }
}

/// Nothing when the layer has no such blob.
fn places(layer: &OpenLayer, wanted: &Wanted) -> Result<Vec<(u32, ChunkRecord, u64)>, Status> {
    let flist = &layer.flist;
    let is_wanted = |index: &usize| flist.blob(*index).is_some_and(|b| b.id == wanted.blob);
    let Some(index) = (0..flist.blob_count()).find(is_wanted) else {
        return Ok(Vec::new());
    };
    let mut entries = flist.blob_entries(index).into_iter().flatten().zip(0_u32..);
    let count = flist.blob(index).map_or(0, |blob| blob.entries as usize);
    check_end(wanted, count)?;
    let place = |number: &u32| {
        let (entry, _) = entries.find(|(_, at)| at == number)?;
        let chunk = flist.chunk(entry.chunk)?;
        let pack_at = flist.pack(chunk.pack)?.embedded_at?;
        Some((*number, chunk, layer.packs_at.checked_add(pack_at)?))
    };
    let places: Option<Vec<_>> = wanted.entries.iter().map(place).collect();
    places.ok_or_else(|| Status::data_loss("the layer's tables do not say where its chunks are"))
}

fn check_end(wanted: &Wanted, count: usize) -> Result<(), Status> {
    let last = wanted.entries.last().map_or(0, |entry| *entry as usize);
    match last < count {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "entries: the blob has {count} of them"
        ))),
    }
}
