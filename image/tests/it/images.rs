//! Images for tests, as an OCI layout, a docker archive or documents to serve;
//! and what a flist holds, in a form that can be compared.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use lamina_flist::{FileData, Flist, NodeKind, Tree};
use lamina_image::convert::PackPlace;
use lamina_image::manifest::sha256;
use lamina_store::{
    ChunkIndex, ChunkReader, ChunkSource, ReadOptions, StoreOptions, StoreSet, StoreSpec, StoreUrl,
};
use serde_json::{Value, json};

use crate::raw::{Raw, archive};

/// How layers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

/// An image: plain layer tars, lowest first.
#[derive(Clone)]
pub(crate) struct TestImage {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) codec: Codec,
}

/// Its documents and blobs by digest.
pub(crate) struct Documents {
    pub(crate) manifest: Vec<u8>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(data).unwrap();
    out.finish().unwrap()
}

impl TestImage {
    pub(crate) fn new(layers: &[Vec<Raw>]) -> Self {
        let layers = layers.iter().map(|raws| archive(raws)).collect();
        Self {
            layers,
            codec: Codec::Gzip,
        }
    }

    pub(crate) fn config(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|l| sha256(l).to_string()).collect();
        json!({
            "os": "linux",
            "architecture": lamina_image::Platform::host().arch,
            "config": { "Env": ["PATH=/usr/bin"], "Entrypoint": ["/usr/bin/app"], "Labels": { "a": "é" } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": [{ "created_by": "test", "x-unknown": [1, 2] }],
        })
        .to_string()
        .into_bytes()
    }

    fn stored(&self, layer: &[u8]) -> (Vec<u8>, &'static str) {
        match self.codec {
            Codec::Plain => (layer.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Codec::Gzip => (gzip(layer), "application/vnd.oci.image.layer.v1.tar+gzip"),
            Codec::Zstd => {
                let stored = zstd::encode_all(layer, 3).unwrap();
                (stored, "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        }
    }

    pub(crate) fn documents(&self) -> Documents {
        let mut blobs = BTreeMap::new();
        let mut add = |bytes: Vec<u8>, media_type: &str| -> Value {
            let digest = sha256(&bytes).to_string();
            let descriptor =
                json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
            blobs.insert(digest, bytes);
            descriptor
        };
        let config = add(self.config(), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let (stored, media_type) = self.stored(layer);
                add(stored, media_type)
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        Documents {
            manifest: manifest.to_string().into_bytes(),
            blobs,
        }
    }

    /// Writes an OCI layout with one image, tagged `t`.
    pub(crate) fn write_layout(&self, dir: &Path) {
        let documents = self.documents();
        let blobs = dir.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        std::fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for (digest, bytes) in &documents.blobs {
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).unwrap();
        }
        let digest = sha256(&documents.manifest).to_string();
        std::fs::write(blobs.join(&digest[7..]), &documents.manifest).unwrap();
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": documents.manifest.len(),
                "annotations": { "org.opencontainers.image.ref.name": "t" },
            }],
        });
        std::fs::write(dir.join("index.json"), index.to_string()).unwrap();
    }

    /// Writes what `docker save` writes, second layer behind a link.
    pub(crate) fn write_archive(&self, file: &Path) {
        let mut raws = Vec::new();
        let mut names = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            let name = format!("{i}/layer.tar");
            if i == 1 {
                raws.push(Raw::file(b"real/1.tar", layer));
                raws.push(Raw::link(name.as_bytes(), b'2', b"../real/1.tar"));
            } else {
                raws.push(Raw::file(name.as_bytes(), layer));
            }
            names.push(name);
        }
        raws.push(Raw::file(b"config.json", &self.config()));
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": ["test:latest"], "Layers": names }]);
        raws.push(Raw::file(b"manifest.json", manifest.to_string().as_bytes()));
        std::fs::write(file, archive(&raws)).unwrap();
    }
}

/// A fresh `dir://` store.
pub(crate) fn store(dir: &Path) -> (StoreSet, PackPlace) {
    std::fs::create_dir_all(dir).unwrap();
    let spec = StoreSpec::all(StoreUrl::dir(dir));
    let stores = StoreSet::open(&[spec], StoreOptions::default()).unwrap();
    let place = PackPlace {
        stores: Some(stores.clone()),
        index: Arc::new(ChunkIndex::empty()),
    };
    (stores, place)
}

/// One name of a tree, comparable with what a file system shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) perm: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) content: Content,
    /// First path of the same inode.
    pub(crate) twin: String,
}

/// A file's bytes, or for many of them their digest: a failed comparison is
/// printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Content(pub(crate) Vec<u8>);

impl Content {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        if bytes.len() <= 64 {
            return Self(bytes);
        }
        Self(format!("{} bytes {}", bytes.len(), blake3::hash(&bytes)).into_bytes())
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// Compares, and says only what differs.
#[track_caller]
pub(crate) fn assert_same(got: &Listing, want: &Listing) {
    let paths: std::collections::BTreeSet<&String> = got.keys().chain(want.keys()).collect();
    let differing: Vec<String> = paths
        .into_iter()
        .filter(|path| got.get(*path) != want.get(*path))
        .map(|path| {
            format!(
                "{path:?}\n   got {:?}\n  want {:?}",
                got.get(path),
                want.get(path)
            )
        })
        .take(10)
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

pub(crate) type Listing = BTreeMap<String, Seen>;

/// Everything a flist holds, contents read from `stores`.
pub(crate) async fn listing(flist: &Flist, stores: &StoreSet) -> Listing {
    flist.verify_sections().unwrap();
    flist.check(&lamina_flist::Limits::default()).unwrap();
    let tree = flist.to_tree().unwrap();
    let reader = ChunkReader::new(stores.clone(), ReadOptions::default());
    let mut first = BTreeMap::new();
    let mut out = Listing::new();
    for (path, id) in tree.walk() {
        let path = String::from_utf8_lossy(&path).into_owned();
        let twin = first.entry(id).or_insert_with(|| path.clone()).clone();
        let meta = &tree.node(id).meta;
        let seen = Seen {
            kind: kind(&tree, id),
            perm: meta.perm,
            uid: meta.uid,
            gid: meta.gid,
            mtime: (meta.mtime.secs, meta.mtime.nanos),
            xattrs: meta.xattrs.clone(),
            content: Content::of(content(&tree, id, flist, &reader).await),
            twin,
        };
        out.insert(path, seen);
    }
    out
}

pub(crate) fn kind(tree: &Tree, id: lamina_flist::NodeId) -> String {
    match &tree.node(id).kind {
        NodeKind::Directory(_) => "dir".to_owned(),
        NodeKind::File(_) => "file".to_owned(),
        NodeKind::Symlink(to) => format!("link {}", String::from_utf8_lossy(to)),
        NodeKind::CharDevice(d) => format!("char {}:{}", d.major, d.minor),
        NodeKind::BlockDevice(d) => format!("block {}:{}", d.major, d.minor),
        NodeKind::Fifo => "fifo".to_owned(),
        NodeKind::Socket => "socket".to_owned(),
        NodeKind::Whiteout => "whiteout".to_owned(),
        NodeKind::LinkTo(to) => format!("linkto {}", String::from_utf8_lossy(to)),
    }
}

/// A file's bytes.
pub(crate) async fn content(
    tree: &Tree,
    id: lamina_flist::NodeId,
    flist: &Flist,
    reader: &ChunkReader,
) -> Vec<u8> {
    let NodeKind::File(file) = &tree.node(id).kind else {
        return Vec::new();
    };
    let (blob, runs) = match &file.data {
        FileData::Inline(bytes) => return bytes.clone(),
        FileData::Extent(e) => (e.blob, vec![(0, file.size, e.offset)]),
        FileData::Sparse { blob, segments } => (
            *blob,
            segments
                .iter()
                .map(|s| (s.file_offset, s.len, s.blob_offset))
                .collect(),
        ),
    };
    let mut out = vec![0; file.size as usize];
    for (at, len, start) in runs {
        for entry in flist.blob_entries(usize::from(blob)).unwrap() {
            if entry.offset < start || entry.offset >= start + len {
                continue;
            }
            let chunk = flist.chunk(entry.chunk).unwrap();
            let source = ChunkSource {
                chunk,
                pack: flist.pack(chunk.pack).unwrap(),
            };
            let bytes = reader.fetch(&[source]).await.unwrap().remove(0);
            let to = (at + entry.offset - start) as usize;
            out[to..to + bytes.len()].copy_from_slice(&bytes);
        }
    }
    out
}

/// Bytes that do not compress and differ by `seed`.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}
