//! Any tree comes back from its flist equal, and `fsck.erofs` accepts it.

use lamina_flist::{
    Device, FileType, Flist, FlistError, FollowSymlinks, Limits, Metadata, Node, NodeId, NodeKind,
    SpanSource, Timestamp, Tree, TreeError,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::support::{World, fsck, name, noise, open};

/// One step that adds something to a tree below some directory made before.
#[derive(Debug, Clone)]
struct Step {
    parent: Index,
    name: Vec<u8>,
    meta: Metadata,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Directory,
    ManyEntries(usize),
    File {
        blob: u16,
        seed: u64,
        len: usize,
    },
    Sparse {
        blob: u16,
        size: u64,
        runs: Vec<(u64, usize)>,
    },
    Symlink(Vec<u8>),
    Device(bool, Device),
    Fifo,
    Socket,
    HardLink(Index),
}

fn names() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_filter("allowed", |b| !matches!(b, 0 | b'/'));
    let allowed = |name: &Vec<u8>| !matches!(name.as_slice(), b"." | b"..");
    prop_oneof![
        4 => "[a-z.!-]{1,12}".prop_map(String::into_bytes),
        2 => vec(byte.clone(), 1..40),
        1 => vec(byte, 200..=255),
    ]
    .prop_filter("not dots", allowed)
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let xattr_name = prop_oneof![
        "user\\.[a-z]{1,20}",
        "user\\.[a-z]{240,250}",
        "trusted\\.[a-z]{1,20}",
        "security\\.[a-z]{1,20}",
        Just("system.posix_acl_access".to_owned()),
        Just("system.posix_acl_default".to_owned()),
    ];
    let value = prop_oneof![
        4 => vec(any::<u8>(), 0..50),
        1 => (0usize..9000).prop_map(|len| noise(len as u64, len)),
    ];
    let xattrs = prop_oneof![
        3 => Just(std::collections::BTreeMap::new()),
        1 => btree_map(xattr_name.prop_map(String::into_bytes), value, 1..6),
    ];
    (
        0u16..=0o7777,
        any::<[u32; 2]>(),
        any::<i64>(),
        0u32..1_000_000_000,
        xattrs,
    )
        .prop_map(|(perm, [uid, gid], secs, nanos, xattrs)| Metadata {
            perm,
            uid,
            gid,
            mtime: Timestamp { secs, nanos },
            xattrs,
        })
}

fn what() -> impl Strategy<Value = What> {
    let device = (0u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| Device { major, minor });
    let target = vec(any::<u8>().prop_filter("not NUL", |&b| b != 0), 1..=4095);
    let short = vec(1u8.., 1..=60);
    prop_oneof![
        4 => Just(What::Directory),
        1 => (1usize..2500).prop_map(What::ManyEntries),
        4 => (0u16..3, any::<u64>(), 0usize..3000).prop_map(|(blob, seed, len)| What::File { blob, seed, len }),
        1 => (0u16..3, any::<u64>(), 0usize..600_000).prop_map(|(blob, seed, len)| What::File { blob, seed, len }),
        1 => sparse(),
        1 => short.prop_map(What::Symlink),
        1 => target.prop_map(What::Symlink),
        1 => (any::<bool>(), device).prop_map(|(block, device)| What::Device(block, device)),
        1 => Just(What::Fifo),
        1 => Just(What::Socket),
        2 => any::<Index>().prop_map(What::HardLink),
    ]
}

fn sparse() -> impl Strategy<Value = What> {
    let runs = vec((1u64..200, 1usize..50_000), 0..5);
    (0u16..3, runs, 0u64..5_000_000, any::<bool>()).prop_map(|(blob, gaps, rest, huge)| {
        let (mut at, mut runs) = (0u64, Vec::new());
        for (pages, len) in gaps {
            at = at.next_multiple_of(4096) + pages * 4096;
            runs.push((at, len));
            at += len as u64;
        }
        let size = at + rest + 1 + if huge { 1 << 35 } else { 0 };
        What::Sparse { blob, size, runs }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<Index>(), names(), metadata(), what());
    let step = step.prop_map(|(parent, name, meta, what)| Step {
        parent,
        name,
        meta,
        what,
    });
    vec(step, 0..40)
}

fn kind(world: &mut World, what: &What) -> Option<NodeKind> {
    Some(match what {
        What::Directory | What::ManyEntries(_) => NodeKind::directory(),
        What::File { blob, seed, len } => NodeKind::File(world.content(*blob, &noise(*seed, *len))),
        What::Sparse { blob, size, runs } => {
            let run = |&(at, len): &(u64, usize)| (at, noise(at, len));
            let runs: Vec<_> = runs.iter().map(run).collect();
            NodeKind::File(world.sparse(*blob, *size, &runs))
        }
        What::Symlink(target) => NodeKind::Symlink(target.clone()),
        What::Device(true, device) => NodeKind::BlockDevice(*device),
        What::Device(false, device) => NodeKind::CharDevice(*device),
        What::Fifo => NodeKind::Fifo,
        What::Socket => NodeKind::Socket,
        What::HardLink(_) => return None,
    })
}

fn build(steps: &[Step]) -> World {
    let mut world = World::new(3);
    for blob in 0..3 {
        // No blob is empty, so blob numbers stay as they are.
        world.file(
            Tree::ROOT,
            format!("{blob}"),
            blob,
            &noise(u64::from(blob), 5000),
        );
    }
    let mut directories = vec![Tree::ROOT];
    let mut others: Vec<NodeId> = Vec::new();
    for step in steps {
        let parent = *step.parent.get(&directories);
        let entry = name(&step.name);
        let made = match kind(&mut world, &step.what) {
            Some(kind) => {
                let meta = step.meta.clone();
                world
                    .tree
                    .insert(parent, entry, Node { meta, kind })
                    .map(Some)
            }
            None if others.is_empty() => continue,
            None => {
                let What::HardLink(index) = &step.what else {
                    continue;
                };
                world
                    .tree
                    .link(parent, entry, *index.get(&others))
                    .map(|()| None)
            }
        };
        match made {
            Ok(Some(id)) if world.tree.node(id).kind.is_directory() => {
                directories.push(id);
                if let What::ManyEntries(count) = step.what {
                    for i in 0..count {
                        world.file(id, format!("{i:x}-{}", i % 7), 0, b"");
                    }
                }
            }
            Ok(Some(id)) => others.push(id),
            Ok(None) | Err(TreeError::Exists(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    world
}

/// What the reader says about a whole flist, compared with the tree.
fn compare_reader(flist: &Flist, tree: &Tree, contents: &[Vec<u8>]) {
    for (path, id) in tree.walk() {
        let inode = flist.resolve(&path, FollowSymlinks::NotLast).unwrap();
        let node = tree.node(id);
        assert_eq!(inode.perm(), node.meta.perm);
        assert_eq!(inode.nlink(), tree.nlink(id));
        assert_eq!(flist.xattrs(&inode).unwrap(), node.meta.xattrs);
        match &node.kind {
            NodeKind::Directory(_) => {
                let want: Vec<_> = tree.children(id).map(|(n, _)| n.as_bytes()).collect();
                let got: Vec<_> = flist.read_dir(&inode).map(|e| e.unwrap().name).collect();
                assert_eq!(got, want);
            }
            NodeKind::Symlink(target) => assert_eq!(flist.readlink(&inode).unwrap(), target),
            NodeKind::CharDevice(device) | NodeKind::BlockDevice(device) => {
                assert_eq!(inode.device(), Some(*device));
            }
            NodeKind::File(file) => {
                assert_eq!(
                    (inode.file_type(), inode.size()),
                    (FileType::File, file.size)
                );
                let mut at = 0;
                for span in flist.file_map(&inode).unwrap() {
                    assert_eq!(span.start, at, "no gaps");
                    at += span.len;
                    if let SpanSource::Blob { blob, offset } = span.source {
                        assert!(offset + span.len <= contents[usize::from(blob)].len() as u64);
                    }
                }
                assert_eq!(at, file.size);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_comes_back_equal_and_fsck_accepts_it(steps in steps(), root in metadata()) {
        let mut world = build(&steps);
        *world.tree.meta_mut(Tree::ROOT) = root;
        let tree = world.tree.clone();
        let (builder, contents) = world.finish();
        let head = builder.clone().build().unwrap();
        prop_assert_eq!(&head, &builder.build().unwrap(), "deterministic");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.fl");
        std::fs::write(&path, &head.bytes).unwrap();
        let devices: Vec<_> = (0..contents.len()).map(|i| dir.path().join(i.to_string())).collect();
        for (path, bytes) in devices.iter().zip(&contents) {
            let file = std::fs::File::create(path).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
        }
        fsck(&path, &devices).unwrap();

        let flist = open(head);
        flist.verify_sections().unwrap();
        let summary = flist.check(&Limits::default()).unwrap();
        prop_assert_eq!(summary.inodes, tree.len() as u64);
        prop_assert_eq!(summary.entries, tree.walk().count() as u64 - 1);
        prop_assert!(flist.to_tree().unwrap() == tree, "to_tree");
        compare_reader(&flist, &tree, &contents);
    }
}

#[test]
fn layer_only_nodes_come_back_from_a_layer() {
    let mut world = World::new(1);
    let opaque = world.dir(Tree::ROOT, "opaque");
    world.tree.set_opaque(opaque, true);
    let implicit = world.dir(Tree::ROOT, "implicit");
    world.tree.set_implicit(implicit, true);
    world.tree.set_opaque(implicit, true);
    world.tree.set_implicit(Tree::ROOT, true);
    world.add(opaque, "gone", NodeKind::Whiteout);
    world.add(opaque, "link", NodeKind::LinkTo(b"usr/bin/x".to_vec()));
    let tree = world.tree.clone();
    let (mut builder, _) = world.finish();
    builder.is_layer = true;
    let flist = open(builder.clone().build().unwrap());
    flist.check(&Limits::default()).unwrap();
    assert!(flist.is_layer());
    assert!(flist.to_tree().unwrap() == tree);
    builder.is_layer = false;
    let error = builder.build().unwrap_err();
    assert!(
        matches!(error, lamina_flist::BuildError::LayerOnly(_)),
        "{error}"
    );
}

#[test]
fn paths_are_followed_like_a_process_in_a_root_would() {
    let mut world = World::new(1);
    let usr = world.dir(Tree::ROOT, "usr");
    let lib = world.dir(usr, "lib");
    world.file(lib, "f", 0, b"found");
    world.add(Tree::ROOT, "lib", NodeKind::Symlink(b"usr/lib".to_vec()));
    world.add(usr, "abs", NodeKind::Symlink(b"/lib/f".to_vec()));
    world.add(
        usr,
        "out",
        NodeKind::Symlink(b"../../../../usr/lib/f".to_vec()),
    );
    world.add(usr, "loop", NodeKind::Symlink(b"loop".to_vec()));
    let flist = open(world.finish().0.build().unwrap());
    let nid = |path: &str, follow| flist.resolve(path.as_bytes(), follow).map(|i| i.nid());
    let always = |path| nid(path, FollowSymlinks::Always);
    let file = always("/usr/lib/f");
    for path in [
        "lib/f",
        "usr/abs",
        "usr/out",
        "//usr/./lib/../lib//f",
        "../../lib/f",
    ] {
        assert_eq!(always(path), file, "{path}");
    }
    assert_eq!(always("lib/"), always("usr/lib"));
    assert_ne!(nid("lib", FollowSymlinks::NotLast), always("lib"));
    assert_eq!(nid("lib/", FollowSymlinks::NotLast), always("usr/lib"));
    assert_eq!(always("usr/loop"), Err(FlistError::SymlinkLoop));
    assert_eq!(always("usr/nothing"), Err(FlistError::NotFound));
    assert_eq!(always("usr/lib/f/"), Err(FlistError::NotFound));
    assert_eq!(always("usr/lib/f/x"), Err(FlistError::NotFound));
}
