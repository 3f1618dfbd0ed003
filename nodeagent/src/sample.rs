//! An image of one layer for tests: its layer file, and the flist that a mount of it has.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use lamina_flist::{
    BlobId, BlobLayout, EmbeddedPacks, Flist, FlistBuilder, FlistMeta, LayerOrigin, Limits,
    Provenance, Sha256Digest,
};
use lamina_image::convert::PackPlace;
use lamina_image::pack::{PackDirOptions, pack_directory};
use lamina_image::progress::{Progress, Silent};
use lamina_store::{ChunkIndex, ObjectKey, StoreOptions, StoreSet};
use tokio::runtime::Handle;

use crate::layers::{OpenLayer, WholeLayers};

/// A layer with everything that is known of it.
pub(crate) struct Sample {
    /// As the registry has it.
    pub(crate) layer: Sha256Digest,
    pub(crate) blob: BlobId,
    /// How many entries the blob's map has.
    pub(crate) entries: u32,
    /// The layer file's.
    pub(crate) whole: OpenLayer,
    /// What a mount has: without packs, and without stores.
    pub(crate) flist: Flist,
    /// Where its packs are as well.
    pub(crate) store: String,
}

impl Sample {
    /// Packs `files` files of `bytes` bytes each, every other one of which compresses.
    pub(crate) fn make(dir: &Path, files: u32, bytes: u32, runtime: &Handle) -> Self {
        let from = dir.join("files");
        std::fs::create_dir_all(&from).unwrap();
        for file in 0..files {
            std::fs::write(from.join(format!("f{file:03}")), content(file, bytes)).unwrap();
        }
        let store_dir = dir.join("store");
        let store = format!("dir://{}", store_dir.display());
        let set = StoreSet::open(&[store.parse().unwrap()], StoreOptions::default()).unwrap();
        let place = PackPlace {
            stores: Some(set),
            index: Arc::new(ChunkIndex::default()),
        };
        let (options, progress) = (PackDirOptions::default(), Arc::new(Silent));
        let progress: Arc<dyn Progress> = progress;
        let packed = pack_directory(&from, &place, &options, &progress, runtime).unwrap();
        Self::of(
            &Flist::parse(packed.flist.into()).unwrap(),
            dir,
            &store_dir,
            store,
        )
    }

    fn of(packed: &Flist, dir: &Path, store_dir: &Path, store: String) -> Self {
        let layer = Sha256Digest::from_bytes([0xab; 32]);
        let blob = packed.blob(0).unwrap();
        let mut packs: Vec<_> = packed.packs().collect();
        let mut embedded = Vec::new();
        for pack in &mut packs {
            let path = store_dir.join(ObjectKey::Pack(pack.id).path());
            pack.embedded_at = Some(embedded.len() as u64);
            embedded.extend(std::fs::read(path).unwrap());
        }
        let builder = FlistBuilder {
            blobs: vec![BlobLayout {
                entries: packed.blob_entries(0).unwrap().collect(),
                len: blob.len,
            }],
            chunks: packed.chunks().collect(),
            packs: packed.packs().collect(),
            ..FlistBuilder::new(packed.to_tree().unwrap())
        };
        let as_layer = FlistBuilder {
            packs,
            embedded: Some(EmbeddedPacks {
                len: embedded.len() as u64,
                digest: *blake3::hash(&embedded).as_bytes(),
            }),
            is_layer: true,
            ..builder.clone()
        };
        let head = as_layer.build().unwrap();
        let bytes = [head.bytes, embedded, head.tail].concat();
        let path = dir.join("layer.afslyr");
        std::fs::write(&path, &bytes).unwrap();
        let origin = LayerOrigin {
            digest: layer,
            diff_id: None,
            blob: Some(blob.id),
        };
        let mounted = FlistBuilder {
            meta: FlistMeta {
                provenance: Provenance {
                    source: Some("registry.test/a/b:1".into()),
                    layers: vec![origin],
                    ..Provenance::default()
                },
                ..FlistMeta::default()
            },
            ..builder
        };
        let flist = Flist::parse(mounted.build().unwrap().bytes.into()).unwrap();
        flist.check(&Limits::default()).unwrap();
        assert_eq!(flist.blob(0).unwrap().id, blob.id);
        let whole = Flist::parse(bytes.into()).unwrap();
        let packs_at = whole.embedded_offset().unwrap();
        let file = Arc::new(File::open(&path).unwrap());
        Self {
            layer,
            blob: blob.id,
            entries: u32::try_from(blob.entries).unwrap(),
            whole: OpenLayer::new(file, Arc::new(whole), packs_at, Arc::new(())),
            flist,
            store,
        }
    }

    /// Every entry's plain bytes, by the layer file.
    pub(crate) fn plain(&self, entry: u32) -> bytes::Bytes {
        let at = self
            .flist
            .blob_entries(0)
            .unwrap()
            .nth(entry as usize)
            .unwrap();
        let chunk = self.whole.flist.chunk(at.chunk).unwrap();
        let pack = self.whole.flist.pack(chunk.pack).unwrap();
        let offset = self.whole.packs_at + pack.embedded_at.unwrap() + u64::from(chunk.offset);
        let mut stored = vec![0; chunk.stored_len as usize];
        self.whole.file.read_exact_at(&mut stored, offset).unwrap();
        lamina_store::decode(&chunk.id, chunk.codec, &stored.into(), chunk.len).unwrap()
    }
}

/// Noise for even files, text for odd ones.
fn content(file: u32, bytes: u32) -> Vec<u8> {
    let words = (0..bytes.div_ceil(4)).map(|at| match file % 2 {
        0 => (at ^ (file << 20))
            .wrapping_mul(2_654_435_761)
            .rotate_left(at % 31),
        _ => at / 64 + file,
    });
    words
        .flat_map(u32::to_le_bytes)
        .take(bytes as usize)
        .collect()
}

/// Layers that a test puts there.
#[derive(Default)]
pub(crate) struct Shelf(pub(crate) Mutex<Vec<(Sha256Digest, OpenLayer)>>);

impl Shelf {
    pub(crate) fn with(sample: &Sample) -> Arc<Self> {
        let shelf = Self::default();
        shelf
            .0
            .lock()
            .unwrap()
            .push((sample.layer, sample.whole.clone()));
        Arc::new(shelf)
    }
}

impl WholeLayers for Shelf {
    fn open(&self, layer: &Sha256Digest) -> Option<OpenLayer> {
        let shelf = self.0.lock().unwrap();
        let found = shelf.iter().find(|(digest, _)| digest == layer);
        found.map(|(_, open)| open.clone())
    }
}
