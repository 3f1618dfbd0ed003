//! The tree file system's core, without a kernel: compared with the tree the
//! flist was made from, and asked wrong questions.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Instant;

use lamina_flist::{
    BlobId, Device, EntryName, FileContent, FileType, Flist, FlistBuilder, Metadata, Node, NodeId,
    NodeKind, Timestamp, Tree,
};
use lamina_mount::blobfs::{BlobFs, BlobFsOptions};
use lamina_mount::cache::{BlobFile, BlobReader, MapCheck, Trust};
use lamina_mount::filler::{FillDone, FillError, Filler};
use lamina_mount::treefs::{BlobRead, CachedBlobs, ROOT_INO, ReadDone, TreeFs, TreeFsError};
use proptest::prelude::*;

use crate::support::pack::pack;

/// A generated entry: where (folded into existing directories) and what.
#[derive(Debug, Clone)]
struct Planned {
    parent: usize,
    name: Vec<u8>,
    meta: Metadata,
    kind: PlannedKind,
}

#[derive(Debug, Clone)]
enum PlannedKind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(Device),
    Block(Device),
    Fifo,
    Socket,
    /// A hard link to the n-th file so far.
    Link(usize),
}

fn meta() -> impl Strategy<Value = Metadata> {
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let xattrs = prop::collection::btree_map("(user|trusted|security)\\.[a-z]{1,8}", value, 0..3);
    let times = (-5_000_000_000_i64..5_000_000_000, 0_u32..1_000_000_000);
    (0_u16..0o10000, any::<u32>(), any::<u32>(), times, xattrs).prop_map(
        |(perm, uid, gid, (secs, nanos), xattrs)| Metadata {
            perm,
            uid,
            gid,
            mtime: Timestamp { secs, nanos },
            xattrs: xattrs
                .into_iter()
                .map(|(k, v)| (k.into_bytes(), v))
                .collect(),
        },
    )
}

fn kind() -> impl Strategy<Value = PlannedKind> {
    let device = (0_u32..4096, 0_u32..1_048_576).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        4 => Just(PlannedKind::Directory),
        4 => prop::collection::vec(any::<u8>(), 0..1025).prop_map(PlannedKind::File),
        2 => "[a-z/.]{1,300}".prop_map(|t| PlannedKind::Symlink(t.into_bytes())),
        1 => device.clone().prop_map(PlannedKind::Char),
        1 => device.prop_map(PlannedKind::Block),
        1 => Just(PlannedKind::Fifo),
        1 => Just(PlannedKind::Socket),
        2 => any::<usize>().prop_map(PlannedKind::Link),
    ]
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => "[a-c!~.]{1,3}".prop_map(String::into_bytes),
        1 => prop::collection::vec(1_u8..=255, 1..=255),
    ]
}

fn planned() -> impl Strategy<Value = Vec<Planned>> {
    let entry =
        (any::<usize>(), name(), meta(), kind()).prop_map(|(parent, name, meta, kind)| Planned {
            parent,
            name,
            meta,
            kind,
        });
    prop::collection::vec(entry, 0..150)
}

fn build_tree(root: Metadata, plan: Vec<Planned>) -> Tree {
    let mut tree = Tree::new(root);
    let mut directories = vec![Tree::ROOT];
    let mut files: Vec<NodeId> = Vec::new();
    for entry in plan {
        let parent = directories[entry.parent % directories.len()];
        let Ok(name) = EntryName::new(entry.name) else {
            continue;
        };
        let kind = match entry.kind {
            PlannedKind::Directory => NodeKind::directory(),
            PlannedKind::File(bytes) => NodeKind::File(FileContent::inline(bytes)),
            PlannedKind::Symlink(target) => NodeKind::Symlink(target),
            PlannedKind::Char(Device { major: 0, minor: 0 }) => continue, // a whiteout
            PlannedKind::Char(device) => NodeKind::CharDevice(device),
            PlannedKind::Block(device) => NodeKind::BlockDevice(device),
            PlannedKind::Fifo => NodeKind::Fifo,
            PlannedKind::Socket => NodeKind::Socket,
            PlannedKind::Link(n) => {
                if !files.is_empty() {
                    let _ = tree.link(parent, name, files[n % files.len()]);
                }
                continue;
            }
        };
        let is_directory = kind.is_directory();
        if let Ok(id) = tree.insert(
            parent,
            name,
            Node {
                meta: entry.meta,
                kind,
            },
        ) {
            if is_directory {
                &mut directories
            } else {
                &mut files
            }
            .push(id);
        }
    }
    tree
}

/// No blobs: generated files are inline.
struct NoBlobs;

impl BlobRead for NoBlobs {
    fn read_at(&self, _blob: u16, _offset: u64, _len: u32, done: ReadDone) {
        done(Err(std::io::ErrorKind::NotFound.into()));
    }
}

fn read(fs: &TreeFs, ino: u64, offset: u64, size: u32) -> Result<Vec<u8>, TreeFsError> {
    let (send, receive) = mpsc::channel();
    fs.read_at(ino, offset, size, move |result| {
        send.send(result.map(<[u8]>::to_vec))
            .expect("the reader waits");
    });
    receive.try_recv().expect("answered at once")
}

/// The names of a directory, read in pieces of `step` entries.
fn list(fs: &TreeFs, ino: u64, step: usize) -> Vec<(Vec<u8>, u64, FileType)> {
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let mut room = step;
        let before = all.len();
        fs.list(ino, offset, |entry| {
            if room == 0 {
                return true;
            }
            room -= 1;
            assert!(entry.next_offset > offset, "offsets grow");
            offset = entry.next_offset;
            all.push((entry.name.to_vec(), entry.ino, entry.file_type));
            false
        })
        .expect("listed");
        if all.len() == before {
            return all;
        }
    }
}

fn assert_equals_model(fs: &TreeFs, tree: &Tree) {
    let mut inos: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut walk = vec![(Tree::ROOT, ROOT_INO)];
    while let Some((id, ino)) = walk.pop() {
        // Every name of one node has one node id, and no other has it.
        assert_eq!(*inos.entry(id).or_insert(ino), ino);
        let node = tree.node(id);
        let inode = fs.attributes(ino).expect("attributes").inode;
        assert_eq!(inode.perm(), node.meta.perm);
        assert_eq!((inode.uid(), inode.gid()), (node.meta.uid, node.meta.gid));
        assert_eq!(inode.mtime(), node.meta.mtime);
        assert_eq!(inode.nlink(), tree.nlink(id));
        for (name, value) in &node.meta.xattrs {
            assert_eq!(fs.xattr(ino, name).expect("xattr").as_ref(), Some(value));
        }
        let names = fs.xattr_names(ino, true).expect("names");
        assert_eq!(names.split(|b| *b == 0).count() - 1, node.meta.xattrs.len());
        let public = fs.xattr_names(ino, false).expect("names");
        assert!(!String::from_utf8_lossy(&public).contains("trusted."));
        assert_eq!(fs.xattr(ino, b"user.missing-name").expect("xattr"), None);
        match &node.kind {
            NodeKind::Directory(directory) => {
                let listed = list(fs, ino, 1 + directory.len() % 7);
                let mut expected = vec![b".".to_vec(), b"..".to_vec()];
                expected.extend(
                    directory
                        .entries()
                        .map(|(name, _)| name.as_bytes().to_vec()),
                );
                let names: Vec<Vec<u8>> = listed.iter().map(|(name, ..)| name.clone()).collect();
                assert_eq!(names, expected);
                assert_eq!(listed[0].1, ino, "`.` is the directory");
                for (name, child) in directory.entries() {
                    let found = fs
                        .lookup(ino, name.as_bytes())
                        .expect("lookup")
                        .expect("found");
                    let line = listed
                        .iter()
                        .find(|(n, ..)| n == name.as_bytes())
                        .expect("listed");
                    assert_eq!((line.1, line.2), (found.ino, found.inode.file_type()));
                    walk.push((child, found.ino));
                }
                assert!(
                    fs.lookup(ino, b"no such name, ever")
                        .expect("lookup")
                        .is_none()
                );
            }
            NodeKind::File(content) => {
                let lamina_flist::FileData::Inline(bytes) = &content.data else {
                    panic!("generated files are inline");
                };
                assert_eq!(inode.size(), bytes.len() as u64);
                assert_eq!(&read(fs, ino, 0, 1 << 20).expect("read"), bytes);
                let middle = bytes.len() / 2;
                assert_eq!(
                    read(fs, ino, middle as u64, 10).expect("read"),
                    bytes[middle..]
                        .iter()
                        .take(10)
                        .copied()
                        .collect::<Vec<u8>>()
                );
                assert_eq!(read(fs, ino, 5000, 10).expect("past the end"), b"");
            }
            NodeKind::Symlink(target) => assert_eq!(fs.readlink(ino).expect("target"), target),
            NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => {
                assert_eq!(inode.device(), Some(*device));
            }
            _ => {}
        }
    }
    let mut seen: Vec<u64> = inos.values().copied().collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), inos.len(), "different nodes have different ids");
    assert_eq!(fs.totals().inodes, inos.len() as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_core_answers_as_the_tree(root in meta(), plan in planned()) {
        let tree = build_tree(root, plan);
        let bytes = FlistBuilder::new(tree.clone()).build().expect("an flist").bytes;
        let flist = Flist::parse(bytes.into()).expect("parsed");
        assert_equals_model(&TreeFs::new(flist, Arc::new(NoBlobs)), &tree);
    }
}

/// A blob that keeps each answer until it is let go, in any order.
#[derive(Default)]
struct SlowBlob(Mutex<Vec<(u64, u32, ReadDone)>>);

impl BlobRead for SlowBlob {
    fn read_at(&self, _blob: u16, offset: u64, len: u32, done: ReadDone) {
        self.0.lock().expect("unpoisoned").push((offset, len, done));
    }
}

#[test]
fn a_read_across_runs_is_answered_once_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = directory.path().join("source");
    std::fs::create_dir(&source).expect("mkdir");
    let file = File::create(source.join("file")).expect("create");
    file.set_len(200_000).expect("grow");
    file.write_all_at(&[1; 4096], 0).expect("write");
    file.write_all_at(&[2; 4096], 65_536).expect("write");
    drop(file);
    let packed = pack(&source, &directory.path().join("packed"));
    let slow = Arc::new(SlowBlob::default());
    let fs = TreeFs::new(packed.flist.clone(), Arc::clone(&slow) as Arc<dyn BlobRead>);
    let ino = fs
        .lookup(ROOT_INO, b"file")
        .expect("lookup")
        .expect("found")
        .ino;
    let start = || {
        let (send, receive) = mpsc::channel();
        fs.read_at(ino, 0, 100_000, move |result| {
            send.send(result.map(<[u8]>::to_vec))
                .expect("the reader waits");
        });
        let mut waiting = std::mem::take(&mut *slow.0.lock().expect("unpoisoned"));
        assert!(waiting.len() >= 2, "both runs are asked for at once");
        waiting.reverse();
        (receive, waiting)
    };
    let blob = File::open(&packed.blobs[0].1).expect("the blob");
    let (receive, waiting) = start();
    for (offset, len, done) in waiting {
        assert!(receive.try_recv().is_err(), "not before every run is there");
        let mut bytes = vec![0; len as usize];
        blob.read_exact_at(&mut bytes, offset).expect("read");
        done(Ok(&bytes));
    }
    let bytes = receive.recv().expect("an answer").expect("bytes");
    let mut expected = vec![0; 100_000];
    expected[..4096].fill(1);
    expected[65_536..69_632].fill(2);
    assert_eq!(bytes, expected);

    let (receive, waiting) = start();
    for (i, (_, len, done)) in waiting.into_iter().enumerate() {
        if i == 0 {
            done(Err(std::io::ErrorKind::TimedOut.into()));
        } else {
            done(Ok(&vec![9; len as usize]));
        }
    }
    let error = receive
        .recv()
        .expect("an answer")
        .expect_err("one run failed");
    assert!(matches!(error, TreeFsError::Data(_)), "{error}");
}

#[test]
fn wrong_questions_get_named_errors() {
    let mut tree = Tree::new(Metadata::default());
    let add = |tree: &mut Tree, name: &str, kind| {
        let node = Node {
            meta: Metadata::default(),
            kind,
        };
        tree.insert(Tree::ROOT, EntryName::new(name).expect("valid"), node)
            .expect("new");
    };
    add(&mut tree, "file", NodeKind::File(FileContent::inline("x")));
    add(&mut tree, "link", NodeKind::Symlink(b"file".to_vec()));
    let bytes = FlistBuilder::new(tree).build().expect("an flist").bytes;
    let fs = TreeFs::new(
        Flist::parse(bytes.into()).expect("parsed"),
        Arc::new(NoBlobs),
    );
    let ino = |name: &[u8]| {
        fs.lookup(ROOT_INO, name)
            .expect("lookup")
            .expect("found")
            .ino
    };
    let (file, link) = (ino(b"file"), ino(b"link"));
    assert!(matches!(
        fs.lookup(file, b"x"),
        Err(TreeFsError::NotADirectory(_))
    ));
    assert!(matches!(
        fs.list(file, 0, |_| true),
        Err(TreeFsError::NotADirectory(_))
    ));
    assert!(matches!(
        fs.readlink(file),
        Err(TreeFsError::NotASymlink(_))
    ));
    assert!(matches!(
        read(&fs, link, 0, 1),
        Err(TreeFsError::NotAFile(_))
    ));
    assert!(matches!(
        read(&fs, ROOT_INO, 0, 1),
        Err(TreeFsError::NotAFile(_))
    ));
    assert!(matches!(
        fs.lookup(ROOT_INO, &[b'n'; 256]),
        Err(TreeFsError::NameTooLong(256))
    ));
    assert!(matches!(fs.attributes(0), Err(TreeFsError::NoInode(0))));
    for forged in [u64::MAX, 1 << 40, 2, 3] {
        assert!(fs.attributes(forged).is_err(), "{forged}");
    }
    assert_eq!(
        fs.seek(file, 0, true).expect("seek"),
        Some(1),
        "the end is a hole"
    );
    assert_eq!(fs.seek(file, 1, false).expect("seek"), None);
    // A directory read from an offset that never was ends or goes on, no more.
    for offset in [3, 4095, 4096, 1 << 20, u64::MAX] {
        let _ = fs.list(ROOT_INO, offset, |_| false);
    }
}

/// Fills a cached blob from a complete one, or refuses.
struct FromFile {
    cached: BlobFile,
    complete: File,
    refuse: bool,
}

impl Filler for FromFile {
    fn start(&self, blob: &BlobId, entries: Range<usize>, _deadline: Instant, done: FillDone) {
        assert_eq!(blob, self.cached.id());
        if self.refuse {
            return done(Err(FillError::Failed("no store is left".to_owned())));
        }
        for entry in entries {
            let place = self.cached.map().get(entry);
            let mut plain = vec![0; place.len as usize];
            self.complete
                .read_exact_at(&mut plain, place.offset)
                .expect("the complete blob");
            self.cached.write_entry(entry, &plain).expect("filling");
        }
        done(Ok(()));
    }
}

#[test]
fn missing_bytes_are_filled_through_the_cache_or_are_an_error() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = directory.path().join("source");
    std::fs::create_dir(&source).expect("mkdir");
    let bytes: Vec<u8> = (0_u32..300_000).flat_map(u32::to_le_bytes).collect();
    std::fs::write(source.join("file"), &bytes).expect("write");
    let packed = pack(&source, &directory.path().join("packed"));
    let (id, complete) = &packed.blobs[0];
    for refuse in [true, false] {
        let dir = directory.path().join(format!("cache-{refuse}"));
        let map = || packed.flist.blob_map_bytes(0).expect("the map");
        let cached = BlobFile::open(&dir, id, map, Trust::Closed).expect("a cached blob");
        let reader = BlobReader::open(&dir, id, MapCheck::Identity).expect("its reader");
        let filler = FromFile {
            cached,
            complete: File::open(complete).expect("open"),
            refuse,
        };
        let blobs = Arc::new(BlobFs::new(Arc::new(filler), BlobFsOptions::default()));
        blobs.insert(7, reader);
        let cached = CachedBlobs::new(Arc::clone(&blobs), vec![7]);
        let fs = TreeFs::new(packed.flist.clone(), Arc::new(cached));
        let ino = fs
            .lookup(ROOT_INO, b"file")
            .expect("lookup")
            .expect("found")
            .ino;
        let answer = read(&fs, ino, 100_001, 500_000);
        if refuse {
            let error = answer.expect_err("nothing can be filled");
            assert!(matches!(error, TreeFsError::Data(_)), "{error}");
            continue;
        }
        assert!(answer.expect("filled") == bytes[100_001..600_001]);
        let (_, stats) = blobs.stats()[0];
        assert!(
            0 < stats.entries_present && stats.entries_present < stats.entries,
            "only what was read is there: {stats:?}"
        );
        assert!(read(&fs, ino, 0, 2_000_000).expect("filled") == bytes);
    }
}
