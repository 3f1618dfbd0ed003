//! A directory packed into an flist and one complete blob file, without stores:
//! the blob holds the files' bytes at the places the flist says.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lamina_flist::{
    BlobBuilder, BlobId, ChunkId, ChunkRecord, Codec, DataRun, Device, EntryName, Extent,
    FileContent, FileData, Flist, FlistBuilder, INLINE_MAX, Limits, Metadata, Node, NodeId,
    NodeKind, PackId, PackRecord, Sha256Digest, Splitter, Timestamp, Tree,
};
use rustix::fs::{FileType, SeekFrom, Stat};

/// A packed tree on disk.
pub(crate) struct Packed {
    pub(crate) flist_path: PathBuf,
    pub(crate) flist: Flist,
    /// In the order of the flist's blob table.
    pub(crate) blobs: Vec<(BlobId, PathBuf)>,
}

/// Packs `source` into files in `out`.
pub(crate) fn pack(source: &Path, out: &Path) -> Packed {
    let mut packer = Packer::default();
    let root = rustix::fs::lstat(source).expect("the source");
    let mut tree = Tree::new(metadata(source, &root));
    packer.directory(source, &mut tree, Tree::ROOT);
    packer.finish(tree, out)
}

/// Packs a tree whose data is already laid out.
pub(crate) fn write_flist(builder: FlistBuilder, path: &Path) -> Flist {
    let head = builder.build().expect("an flist");
    std::fs::write(path, &head.bytes).expect("writing the flist");
    let flist = Flist::parse(head.bytes.into()).expect("parsing what was built");
    flist
        .check(&Limits::default())
        .expect("what was built is sound");
    flist
}

/// One sparse file of `size` bytes that holds `data` at `offset`.
pub(crate) fn pack_sparse(name: &str, size: u64, offset: u64, data: &[u8], out: &Path) -> Packed {
    let mut packer = Packer::default();
    let chunks = packer.chunks(data);
    let run = DataRun {
        file_offset: offset,
        chunks,
    };
    let segments = packer.blob.place_sparse(size, &[run]).expect("a valid run");
    let at = segments[0].blob_offset + (offset - segments[0].file_offset);
    packer.data.push((at, data.to_vec()));
    let content = FileContent {
        size,
        data: FileData::Sparse { blob: 0, segments },
    };
    let mut tree = Tree::new(Metadata {
        perm: 0o755,
        ..Metadata::default()
    });
    let node = Node {
        meta: Metadata::default(),
        kind: NodeKind::File(content),
    };
    let name = EntryName::new(name).expect("a valid name");
    tree.insert(Tree::ROOT, name, node).expect("a new name");
    packer.finish(tree, out)
}

#[derive(Default)]
struct Packer {
    blob: BlobBuilder,
    chunks: Vec<ChunkRecord>,
    by_id: HashMap<ChunkId, u32>,
    /// Plain bytes by blob offset.
    data: Vec<(u64, Vec<u8>)>,
    hard_links: HashMap<(u64, u64), NodeId>,
}

impl Packer {
    fn directory(&mut self, path: &Path, tree: &mut Tree, parent: NodeId) {
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
            .expect("listing")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.sort_unstable();
        for path in entries {
            let name = path.file_name().expect("a name").as_bytes();
            let name = EntryName::new(name.to_vec()).expect("a valid name");
            let stat = rustix::fs::lstat(&path).expect("stat");
            let key = (stat.st_dev, stat.st_ino);
            if let Some(&id) = self.hard_links.get(&key) {
                tree.link(parent, name, id).expect("a hard link");
                continue;
            }
            let kind = self.kind(&path, &stat);
            let is_directory = kind.is_directory();
            let meta = metadata(&path, &stat);
            let id = tree
                .insert(parent, name, Node { meta, kind })
                .expect("a new name");
            if is_directory {
                self.directory(&path, tree, id);
            } else if stat.st_nlink > 1 {
                self.hard_links.insert(key, id);
            }
        }
    }

    fn kind(&mut self, path: &Path, stat: &Stat) -> NodeKind {
        let device = Device {
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => NodeKind::directory(),
            FileType::RegularFile => NodeKind::File(self.file(path, stat)),
            FileType::Symlink => {
                let target = rustix::fs::readlink(path, Vec::new()).expect("readlink");
                NodeKind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice => NodeKind::CharDevice(device),
            FileType::BlockDevice => NodeKind::BlockDevice(device),
            FileType::Fifo => NodeKind::Fifo,
            FileType::Socket => NodeKind::Socket,
            FileType::Unknown => panic!("{}: unknown type", path.display()),
        }
    }

    fn file(&mut self, path: &Path, stat: &Stat) -> FileContent {
        let size = stat.st_size.cast_unsigned();
        let bytes = std::fs::read(path).expect("reading");
        if size <= INLINE_MAX {
            return FileContent::inline(bytes);
        }
        let runs = data_runs(path);
        if runs == [(0, size)] {
            let data = FileData::Extent(self.extent(&bytes));
            return FileContent { size, data };
        }
        let data_runs: Vec<DataRun> = runs
            .into_iter()
            .map(|(start, end)| DataRun {
                file_offset: start,
                chunks: self.chunks(&bytes[start as usize..end as usize]),
            })
            .collect();
        let segments = self
            .blob
            .place_sparse(size, &data_runs)
            .expect("valid runs");
        for segment in &segments {
            let from = segment.file_offset as usize;
            let part = bytes[from..from + segment.len as usize].to_vec();
            self.data.push((segment.blob_offset, part));
        }
        let data = FileData::Sparse { blob: 0, segments };
        FileContent { size, data }
    }

    fn extent(&mut self, bytes: &[u8]) -> Extent {
        let chunks = self.chunks(bytes);
        let extent = self.blob.place_extent(0, &chunks);
        self.data.push((extent.offset, bytes.to_vec()));
        extent
    }

    /// Cuts bytes into chunks, each recorded once.
    fn chunks(&mut self, bytes: &[u8]) -> Vec<(u32, u32)> {
        let mut chunks = Vec::new();
        let mut splitter = Splitter::new();
        let (known, by_id) = (&mut self.chunks, &mut self.by_id);
        let mut take = |chunk: &[u8]| {
            let id = ChunkId::of(chunk);
            let len = chunk.len() as u32;
            let index = *by_id.entry(id).or_insert_with(|| {
                let offset = known
                    .last()
                    .map_or(0, |c: &ChunkRecord| c.offset + c.stored_len);
                known.push(ChunkRecord {
                    id,
                    pack: 0,
                    offset,
                    stored_len: len,
                    len,
                    codec: Codec::Raw,
                });
                known.len() as u32 - 1
            });
            chunks.push((index, len));
        };
        splitter.push(bytes, &mut take);
        splitter.finish(&mut take);
        chunks
    }

    fn finish(self, tree: Tree, out: &Path) -> Packed {
        std::fs::create_dir_all(out).expect("mkdir");
        let mut builder = FlistBuilder::new(tree);
        let layout = self.blob.finish();
        let len = layout.len;
        builder.packs = fake_packs(&self.chunks);
        builder.chunks = self.chunks;
        builder.blobs = vec![layout];
        let flist_path = out.join("tree.fl");
        let flist = write_flist(builder, &flist_path);
        let mut blobs = Vec::new();
        for index in 0..flist.blob_count() {
            let id = flist.blob(index).expect("in the table").id;
            let path = out.join(id.to_string());
            let file = File::create(&path).expect("the blob");
            file.set_len(len).expect("its length");
            for (offset, bytes) in &self.data {
                file.write_all_at(bytes, *offset).expect("its data");
            }
            blobs.push((id, path));
        }
        Packed {
            flist_path,
            flist,
            blobs,
        }
    }
}

/// Where the chunks would be if there were a store.
fn fake_packs(chunks: &[ChunkRecord]) -> Vec<PackRecord> {
    let len = chunks
        .last()
        .map_or(0, |c| u64::from(c.offset) + u64::from(c.stored_len));
    if len == 0 {
        return Vec::new();
    }
    vec![PackRecord {
        id: PackId::of(b"no such pack"),
        sha256: Sha256Digest::from_bytes([0; 32]),
        len,
        embedded_at: None,
    }]
}

/// Runs of the file that have data.
fn data_runs(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).expect("opening");
    let mut runs = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).expect("an end");
        runs.push((start, end));
        at = end;
    }
    runs
}

fn metadata(path: &Path, stat: &Stat) -> Metadata {
    let mut metadata = Metadata {
        perm: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: Timestamp {
            secs: stat.st_mtime,
            nanos: stat.st_mtime_nsec as u32,
        },
        ..Metadata::default()
    };
    let mut names = vec![0_u8; 64 * 1024];
    let len = rustix::fs::llistxattr(path, &mut names).expect("listxattr");
    for name in names[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0_u8; 64 * 1024];
        let name_os = std::ffi::OsStr::from_bytes(name);
        let len = rustix::fs::lgetxattr(path, name_os, &mut value).expect("getxattr");
        metadata.xattrs.insert(name.to_vec(), value[..len].to_vec());
    }
    metadata
}
