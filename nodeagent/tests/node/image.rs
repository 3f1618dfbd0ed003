//! A test image: a real flist with several blobs, cut by content.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lamina_flist::{
    BlobBuilder, BlobId, BlobLayout, ChunkId, ChunkRecord, Codec, EntryName, FileContent, FileData,
    Flist, FlistBuilder, INLINE_MAX, Limits, Metadata, Node, NodeId, NodeKind, PackId, PackRecord,
    Sha256Digest, Splitter, Tree,
};

use crate::content;

/// Devices of the image; files are dealt out to them in turn.
const BLOBS: usize = 3;

/// An image and what is needed to serve it.
pub(crate) struct Image {
    /// The flist, to be mounted.
    pub(crate) flist: PathBuf,
    /// Complete blobs, named by id.
    pub(crate) sources: PathBuf,
    /// The blobs in table order, each with its map.
    pub(crate) blobs: Vec<(BlobId, Vec<u8>)>,
}

/// Builds an image of about `total_bytes` below `dir`.
pub(crate) fn build(dir: &Path, total_bytes: u64) -> Image {
    let mut writer = Writer::new(dir.join("sources"));
    let bin = writer.directory("bin");
    let program = std::fs::read("/bin/sh").unwrap();
    writer.file(bin, "sh", 0o755, &program);
    let (mut written, mut index) = (0, 0);
    let mut directories = HashMap::new();
    while written < total_bytes {
        let random = content::mix(u64::from(index));
        let size = 1 + random % (4096 << ((random >> 32) % 11));
        let path = content::path(index, size);
        let [parent, name] = [path.parent(), path.file_name().map(Path::new)]
            .map(|part| part.unwrap().to_str().unwrap().to_owned());
        let parent = *directories
            .entry(parent)
            .or_insert_with_key(|name| writer.directory(name));
        let mut bytes = vec![0; size as usize];
        content::fill(index, 0, &mut bytes);
        writer.file(parent, &name, 0o644, &bytes);
        written += size;
        index += 1;
    }
    writer.finish(&dir.join("image.fl"))
}

/// Collects a tree and the bytes of its blobs.
struct Writer {
    tree: Tree,
    sources: PathBuf,
    blobs: Vec<(BlobBuilder, File)>,
    chunks: Vec<ChunkRecord>,
    known: HashMap<ChunkId, u32>,
    files: usize,
}

impl Writer {
    fn new(sources: PathBuf) -> Self {
        std::fs::create_dir_all(&sources).unwrap();
        let blobs = (0..BLOBS)
            .map(|blob| {
                let file = File::create(sources.join(blob.to_string())).unwrap();
                (BlobBuilder::new(), file)
            })
            .collect();
        Self {
            tree: Tree::new(metadata(0o755)),
            sources,
            blobs,
            chunks: Vec::new(),
            known: HashMap::new(),
            files: 0,
        }
    }

    fn directory(&mut self, name: &str) -> NodeId {
        self.insert(Tree::ROOT, name, 0o755, NodeKind::directory())
    }

    fn insert(&mut self, parent: NodeId, name: &str, perm: u16, kind: NodeKind) -> NodeId {
        let meta = metadata(perm);
        let name = EntryName::new(name).unwrap();
        self.tree.insert(parent, name, Node { meta, kind }).unwrap()
    }

    fn file(&mut self, parent: NodeId, name: &str, perm: u16, bytes: &[u8]) {
        self.files += 1;
        let data = if bytes.len() as u64 <= INLINE_MAX {
            FileData::Inline(bytes.to_vec())
        } else {
            let mut pieces = Vec::new();
            let mut splitter = Splitter::new();
            splitter.push(bytes, |chunk| pieces.push(chunk.to_vec()));
            splitter.finish(|chunk| pieces.push(chunk.to_vec()));
            let chunks: Vec<(u32, u32)> = pieces.iter().map(|piece| self.chunk(piece)).collect();
            let blob = self.files % BLOBS;
            let (layout, file) = &mut self.blobs[blob];
            let extent = layout.place_extent(blob as u16, &chunks);
            file.write_all_at(bytes, extent.offset).unwrap();
            FileData::Extent(extent)
        };
        let size = bytes.len() as u64;
        let kind = NodeKind::File(FileContent { size, data });
        self.insert(parent, name, perm, kind);
    }

    /// Index and length of a chunk in the chunk table.
    fn chunk(&mut self, bytes: &[u8]) -> (u32, u32) {
        let (id, len) = (ChunkId::of(bytes), bytes.len() as u32);
        let index = *self.known.entry(id).or_insert_with(|| {
            let last = self.chunks.last();
            self.chunks.push(ChunkRecord {
                id,
                pack: 0,
                offset: last.map_or(0, |chunk| chunk.offset + chunk.stored_len),
                stored_len: len,
                len,
                codec: Codec::Raw,
            });
            self.chunks.len() as u32 - 1
        });
        (index, len)
    }

    fn finish(self, path: &Path) -> Image {
        let mut layouts: Vec<BlobLayout> = Vec::new();
        for (layout, file) in self.blobs {
            let layout = layout.finish();
            file.set_len(layout.len).unwrap();
            layouts.push(layout);
        }
        let mut builder = FlistBuilder::new(self.tree);
        builder.blobs = layouts;
        builder.packs = vec![PackRecord {
            id: PackId::of(b"no pack: the blobs are at hand"),
            sha256: Sha256Digest::from_bytes([7; 32]),
            len: self.chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
            embedded_at: None,
        }];
        builder.chunks = self.chunks;
        let head = builder.build().unwrap();
        std::fs::write(path, &head.bytes).unwrap();
        let flist = Flist::parse(head.bytes.into()).unwrap();
        flist.check(&Limits::default()).unwrap();
        let blobs: Vec<(BlobId, Vec<u8>)> = (0..flist.blob_count())
            .map(|blob| {
                let map = flist.blob_map_bytes(blob).unwrap();
                let id = flist.blob(blob).unwrap().id;
                std::fs::rename(
                    self.sources.join(blob.to_string()),
                    self.sources.join(id.to_string()),
                )
                .unwrap();
                (id, map)
            })
            .collect();
        assert_eq!(blobs.len(), BLOBS);
        Image {
            flist: path.to_owned(),
            sources: self.sources,
            blobs,
        }
    }
}

fn metadata(perm: u16) -> Metadata {
    Metadata {
        perm,
        ..Metadata::default()
    }
}
