//! Merged layers are what kernel overlayfs shows of the same layers.
//!
//! Needs root; says so and skips otherwise, unless `LAMINA_TEST_KERNEL` is set.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lamina_flist::{
    FileContent, FileData, Metadata, Node, NodeId, NodeKind, Tree, TreeError, merge_all,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::name;

#[derive(Debug, Clone)]
enum What {
    Directory { opaque: bool },
    File(u8),
    Symlink,
    Fifo,
    Whiteout,
    HardLink(Index),
}

#[derive(Debug, Clone)]
struct Step {
    parent: Index,
    name: &'static str,
    perm: u16,
    what: What,
}

// Few names, so that layers meet.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        5 => any::<bool>().prop_map(|opaque| What::Directory { opaque }),
        3 => any::<u8>().prop_map(What::File),
        1 => Just(What::Symlink),
        1 => Just(What::Fifo),
        3 => Just(What::Whiteout),
        2 => any::<Index>().prop_map(What::HardLink),
    ];
    let names = proptest::sample::select(vec!["a", "b", "c", "d"]);
    let perm = proptest::sample::select(vec![0o755u16, 0o700, 0o1777]);
    let step = (any::<Index>(), names, perm, what);
    let step = step.prop_map(|(parent, name, perm, what)| Step {
        parent,
        name,
        perm,
        what,
    });
    vec(step, 0..25)
}

fn layer(steps: &[Step]) -> Tree {
    let meta = |perm| Metadata {
        perm,
        ..Metadata::default()
    };
    let mut tree = Tree::new(meta(0o755));
    let mut directories = vec![Tree::ROOT];
    let mut files: Vec<NodeId> = Vec::new();
    for step in steps {
        let parent = *step.parent.get(&directories);
        let kind = match &step.what {
            What::Directory { .. } => NodeKind::directory(),
            What::File(byte) => NodeKind::File(FileContent::inline([*byte])),
            What::Symlink => NodeKind::Symlink(b"a/b".to_vec()),
            What::Fifo => NodeKind::Fifo,
            What::Whiteout => NodeKind::Whiteout,
            What::HardLink(_) if files.is_empty() => continue,
            What::HardLink(index) => match tree.link(parent, name(step.name), *index.get(&files)) {
                Ok(()) | Err(TreeError::Exists(_)) => continue,
                Err(error) => panic!("{error}"),
            },
        };
        // The umask of symlinks is not ours to choose.
        let perm = if matches!(kind, NodeKind::Symlink(_)) {
            0o777
        } else {
            step.perm
        };
        let node = Node {
            meta: meta(perm),
            kind,
        };
        let Ok(id) = tree.insert(parent, name(step.name), node) else {
            continue;
        };
        match step.what {
            What::Directory { opaque } => {
                tree.set_opaque(id, opaque);
                directories.push(id);
            }
            What::File(_) => files.push(id),
            _ => {}
        }
    }
    tree
}

/// Makes a layer's directory as overlayfs wants it.
fn extract(tree: &Tree, root: &Path) {
    let mut first: BTreeMap<NodeId, PathBuf> = BTreeMap::new();
    for (path, id) in tree.walk() {
        let at = root.join(std::str::from_utf8(&path).unwrap());
        if let Some(existing) = first.get(&id) {
            fs::hard_link(existing, &at).unwrap();
            continue;
        }
        let node = tree.node(id);
        match &node.kind {
            NodeKind::Directory(directory) => {
                if id != Tree::ROOT {
                    fs::create_dir(&at).unwrap();
                }
                if directory.opaque {
                    setxattr(&at, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
                }
            }
            NodeKind::File(file) => {
                let FileData::Inline(bytes) = &file.data else {
                    panic!("small files only");
                };
                fs::write(&at, bytes).unwrap();
            }
            NodeKind::Symlink(target) => {
                std::os::unix::fs::symlink(std::str::from_utf8(target).unwrap(), &at).unwrap();
            }
            NodeKind::Fifo => mknodat(CWD, &at, FileType::Fifo, Mode::empty(), 0).unwrap(),
            NodeKind::Whiteout => {
                mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
            }
            other => panic!("{other:?}"),
        }
        if !matches!(node.kind, NodeKind::Symlink(_) | NodeKind::Whiteout) {
            let perm = fs::Permissions::from_mode(u32::from(node.meta.perm));
            fs::set_permissions(&at, perm).unwrap();
        }
        first.insert(id, at);
    }
}

struct Overlay {
    target: PathBuf,
}

impl Overlay {
    fn new(layers: &[PathBuf], target: PathBuf) -> Option<Self> {
        fs::create_dir(&target).unwrap();
        // Two lower directories are the fewest: an empty one lies below all.
        let top_first: Vec<_> = layers
            .iter()
            .rev()
            .map(|p| p.display().to_string())
            .collect();
        let options = CString::new(format!("lowerdir={}", top_first.join(":"))).unwrap();
        let flags = MountFlags::RDONLY;
        match mount(
            "overlay",
            &target,
            "overlay",
            flags,
            Some(options.as_c_str()),
        ) {
            Ok(()) => Some(Self { target }),
            Err(error) => {
                let required = std::env::var_os("LAMINA_TEST_KERNEL").is_some();
                assert!(!required, "the kernel refused the overlay: {error}");
                eprintln!("SKIPPED: mounting overlayfs needs root: {error}");
                None
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.target, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", self.target.display());
        }
    }
}

/// One line per name: path, kind, permissions, content, and which other name
/// is the same inode.
type Shown = Vec<(String, String)>;

fn show_tree(tree: &Tree) -> Shown {
    let mut first: BTreeMap<NodeId, String> = BTreeMap::new();
    let line = |(path, id): (Vec<u8>, NodeId)| {
        let path = String::from_utf8(path).unwrap();
        let node = tree.node(id);
        let what = match &node.kind {
            NodeKind::Directory(_) => "directory".to_owned(),
            NodeKind::File(file) => match &file.data {
                FileData::Inline(bytes) => format!("file {bytes:?}"),
                other => panic!("{other:?}"),
            },
            NodeKind::Symlink(target) => format!("link {}", target.escape_ascii()),
            NodeKind::Fifo => "fifo".to_owned(),
            other => panic!("{other:?}"),
        };
        let same = first.entry(id).or_insert_with(|| path.clone());
        let shown = format!("{what} {:o} = {same}", node.meta.perm);
        (path, shown)
    };
    tree.walk().map(line).collect()
}

fn show_mount(root: &Path) -> Shown {
    fn visit(at: &Path, path: &str, first: &mut BTreeMap<(u64, u64), String>, out: &mut Shown) {
        let stat = match fs::symlink_metadata(at) {
            // In a directory that only one layer has, the kernel lists
            // whiteouts but does not find them: such a name does not exist.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            stat => stat.unwrap(),
        };
        let kind = stat.file_type();
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_file() {
            format!("file {:?}", fs::read(at).unwrap())
        } else if kind.is_symlink() {
            format!("link {}", fs::read_link(at).unwrap().display())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            panic!("{}: {kind:?}", at.display());
        };
        let inode = (stat.dev(), stat.ino());
        let same = first.entry(inode).or_insert_with(|| path.to_owned());
        let shown = format!("{what} {:o} = {same}", stat.mode() & 0o7777);
        out.push((path.to_owned(), shown));
        if kind.is_dir() {
            let names = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name());
            let mut names: Vec<String> = names.map(|n| n.into_string().unwrap()).collect();
            names.sort();
            for name in names {
                let below = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}/{name}")
                };
                visit(&at.join(&name), &below, first, out);
            }
        }
    }
    let mut out = Vec::new();
    visit(root, "", &mut BTreeMap::new(), &mut out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn merged_layers_equal_kernel_overlayfs(stack in vec(steps(), 1..5)) {
        let layers: Vec<Tree> = stack.iter().map(|steps| layer(steps)).collect();
        let merged = merge_all(&layers).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut paths = vec![dir.path().join("empty")];
        fs::create_dir(&paths[0]).unwrap();
        for (i, tree) in layers.iter().enumerate() {
            let path = dir.path().join(i.to_string());
            fs::create_dir(&path).unwrap();
            extract(tree, &path);
            paths.push(path);
        }
        let Some(overlay) = Overlay::new(&paths, dir.path().join("merged")) else {
            return Ok(());
        };
        prop_assert_eq!(show_tree(&merged), show_mount(&overlay.target));
    }
}
