//! Tables of several layers -> tables of one image.
//!
//! A chunk that several layers have is taken from the lowest; packs that
//! nothing refers to any more are left out. Blobs stay whole, since images
//! share them by layer.

use std::collections::HashMap;

use lamina_flist::{BlobId, BlobLayout, ChunkId, ChunkRecord, PackId, PackRecord, Tree};

use crate::closure::Scans;
use crate::layer::PlacedLayer;

/// An image's tables, and its layer trees referring to them.
pub(super) struct Combined {
    pub(super) layers: Vec<Tree>,
    /// One per layer.
    pub(super) blobs: Vec<BlobLayout>,
    pub(super) chunks: Vec<ChunkRecord>,
    pub(super) packs: Vec<PackRecord>,
    /// One per layer; `None` where a layer has no file content.
    pub(super) blob_ids: Vec<Option<BlobId>>,
    /// One per layer, as the blobs.
    pub(super) scans: Vec<Scans>,
}

#[derive(Default)]
struct Tables {
    chunks: Vec<ChunkRecord>,
    packs: Vec<PackRecord>,
    chunk_of: HashMap<ChunkId, u32>,
    pack_of: HashMap<PackId, u32>,
}

pub(super) fn combine(placed: Vec<PlacedLayer>) -> Combined {
    let mut tables = Tables::default();
    let (mut layers, mut blobs, mut blob_ids) = (Vec::new(), Vec::new(), Vec::new());
    let mut scans = Vec::new();
    for (number, mut layer) in (0u16..).zip(placed) {
        let map = (layer.blob.len > 0)
            .then(|| layer.blob.map_bytes(&layer.chunks))
            .flatten();
        blob_ids.push(map.map(|bytes| BlobId::of(&bytes)));
        for entry in &mut layer.blob.entries {
            entry.chunk = tables.chunk(&layer.chunks[entry.chunk as usize], &layer.packs);
        }
        layer.tree.map_blobs(|_| number);
        layers.push(layer.tree);
        blobs.push(layer.blob);
        scans.push(layer.scans);
    }
    Combined {
        layers,
        blobs,
        chunks: tables.chunks,
        packs: tables.packs,
        blob_ids,
        scans,
    }
}

impl Tables {
    fn chunk(&mut self, record: &ChunkRecord, packs: &[PackRecord]) -> u32 {
        if let Some(known) = self.chunk_of.get(&record.id) {
            return *known;
        }
        let pack = self.pack(&packs[record.pack as usize]);
        let number = self.chunks.len() as u32;
        self.chunks.push(ChunkRecord { pack, ..*record });
        self.chunk_of.insert(record.id, number);
        number
    }

    fn pack(&mut self, record: &PackRecord) -> u32 {
        *self.pack_of.entry(record.id).or_insert_with(|| {
            self.packs.push(PackRecord {
                embedded_at: None,
                ..*record
            });
            self.packs.len() as u32 - 1
        })
    }
}
