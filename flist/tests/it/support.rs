//! Builds trees with real blob contents, and runs the tools that check them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use lamina_flist::{
    BlobBuilder, BlobLayout, ChunkId, ChunkRecord, Codec, DataRun, EntryName, FileContent,
    FileData, Flist, FlistBuilder, FlistHead, Metadata, Node, NodeId, NodeKind, PackId, PackRecord,
    Sha256Digest, Splitter, Timestamp, Tree,
};

/// Bytes that look random and depend only on `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn name(text: impl AsRef<[u8]>) -> EntryName {
    EntryName::new(text.as_ref()).unwrap()
}

pub(crate) fn meta(perm: u16) -> Metadata {
    Metadata {
        perm,
        uid: 1000,
        gid: 70_000,
        mtime: Timestamp {
            secs: 1_700_000_000,
            nanos: 123_456_789,
        },
        xattrs: BTreeMap::new(),
    }
}

pub(crate) fn xattrs(pairs: &[(&str, &[u8])]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let pair = |&(name, value): &(&str, &[u8])| (name.as_bytes().to_vec(), value.to_vec());
    pairs.iter().map(pair).collect()
}

/// A tree under construction together with the bytes of its blobs.
pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) chunks: Vec<ChunkRecord>,
    known: BTreeMap<ChunkId, u32>,
    pack_len: u32,
    blobs: Vec<BlobBuilder>,
    /// Plain chunk bytes, to make blob files.
    plain: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new(blobs: usize) -> Self {
        Self {
            tree: Tree::new(meta(0o755)),
            chunks: Vec::new(),
            known: BTreeMap::new(),
            pack_len: 0,
            blobs: (0..blobs).map(|_| BlobBuilder::new()).collect(),
            plain: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, parent: NodeId, text: impl AsRef<[u8]>, kind: NodeKind) -> NodeId {
        let perm = if kind.is_directory() { 0o755 } else { 0o644 };
        let node = Node {
            meta: meta(perm),
            kind,
        };
        self.tree.insert(parent, name(text), node).unwrap()
    }

    pub(crate) fn dir(&mut self, parent: NodeId, text: impl AsRef<[u8]>) -> NodeId {
        self.add(parent, text, NodeKind::directory())
    }

    /// A regular file with these bytes in blob `blob`, or inline if small.
    pub(crate) fn file(
        &mut self,
        parent: NodeId,
        text: impl AsRef<[u8]>,
        blob: u16,
        bytes: &[u8],
    ) -> NodeId {
        let content = self.content(blob, bytes);
        self.add(parent, text, NodeKind::File(content))
    }

    pub(crate) fn content(&mut self, blob: u16, bytes: &[u8]) -> FileContent {
        if bytes.len() as u64 <= lamina_flist::INLINE_MAX {
            return FileContent::inline(bytes);
        }
        let chunks = self.split(bytes);
        let extent = self.blobs[usize::from(blob)].place_extent(blob, &chunks);
        FileContent {
            size: bytes.len() as u64,
            data: FileData::Extent(extent),
        }
    }

    /// A sparse file: `(offset, bytes)` runs.
    pub(crate) fn sparse(&mut self, blob: u16, size: u64, runs: &[(u64, Vec<u8>)]) -> FileContent {
        let run = |(file_offset, bytes): &(u64, Vec<u8>)| DataRun {
            file_offset: *file_offset,
            chunks: self.split(bytes),
        };
        let runs: Vec<_> = runs.iter().map(run).collect();
        let segments = self.blobs[usize::from(blob)].place_sparse(size, &runs);
        let segments = segments.unwrap();
        FileContent {
            size,
            data: FileData::Sparse {
                blob: if segments.is_empty() { 0 } else { blob },
                segments,
            },
        }
    }

    fn split(&mut self, bytes: &[u8]) -> Vec<(u32, u32)> {
        let mut pieces = Vec::new();
        let mut splitter = Splitter::new();
        splitter.push(bytes, |chunk| pieces.push(chunk.to_vec()));
        splitter.finish(|chunk| pieces.push(chunk.to_vec()));
        pieces.into_iter().map(|piece| self.chunk(piece)).collect()
    }

    fn chunk(&mut self, bytes: Vec<u8>) -> (u32, u32) {
        let id = ChunkId::of(&bytes);
        let len = bytes.len() as u32;
        if let Some(&index) = self.known.get(&id) {
            return (index, len);
        }
        let index = self.chunks.len() as u32;
        self.known.insert(id, index);
        self.chunks.push(ChunkRecord {
            id,
            pack: 0,
            offset: self.pack_len,
            stored_len: len,
            len,
            codec: Codec::Raw,
        });
        self.pack_len += len;
        self.plain.push(bytes);
        (index, len)
    }

    /// The builder, and each blob's plain bytes.
    pub(crate) fn finish(self) -> (FlistBuilder, Vec<Vec<u8>>) {
        let layouts: Vec<BlobLayout> = self.blobs.into_iter().map(BlobBuilder::finish).collect();
        let fill = |layout: &BlobLayout| {
            let mut bytes = vec![0; usize::try_from(layout.len).unwrap()];
            for entry in &layout.entries {
                let at = usize::try_from(entry.offset).unwrap();
                let chunk = &self.plain[entry.chunk as usize];
                bytes[at..at + chunk.len()].copy_from_slice(chunk);
            }
            bytes
        };
        let contents = layouts.iter().map(fill).collect();
        let mut builder = FlistBuilder::new(self.tree);
        builder.blobs = layouts;
        if !self.chunks.is_empty() {
            builder.packs = vec![PackRecord {
                id: PackId::of(b"pack"),
                sha256: Sha256Digest::from_bytes([7; 32]),
                len: u64::from(self.pack_len),
                embedded_at: None,
            }];
        }
        builder.chunks = self.chunks;
        (builder, contents)
    }
}

pub(crate) fn open(head: FlistHead) -> Flist {
    let flist = Flist::parse(Bytes::from(head.bytes)).unwrap();
    assert_eq!(flist.digest(), head.digest);
    flist
}

/// `fsck.erofs` accepts the file; the tool's absence is a failure.
pub(crate) fn fsck(path: &Path, devices: &[PathBuf]) -> Result<(), String> {
    let device = |path: &PathBuf| format!("--device={}", path.display());
    let run = Command::new("fsck.erofs")
        .arg(path)
        .args(devices.iter().map(device))
        .output()
        .expect("fsck.erofs (erofs-utils) is needed by this test");
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if run.status.success() {
        Ok(())
    } else {
        Err(format!("fsck.erofs: {}: {said}", run.status))
    }
}
