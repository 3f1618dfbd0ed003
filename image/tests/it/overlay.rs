//! Merged layers against the kernel: what overlayfs shows over the same layers
//! extracted one by one is what the flist holds.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lamina_flist::Flist;
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat,
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::convert::run;
use crate::disk::{disk_listing, require_root};
use crate::images::{Codec, Listing, TestImage, listing, noise, store};
use crate::raw::Raw;

/// One tar entry, as generated.
#[derive(Debug, Clone)]
enum Op {
    Dir(Vec<u8>, u32),
    File(Vec<u8>, usize, u32),
    Symlink(Vec<u8>),
    Fifo(Vec<u8>),
    /// To the nth file of the layer so far.
    Hard(Vec<u8>, usize),
    Whiteout(Vec<u8>),
    Opaque(Vec<u8>),
}

/// Paths of one to three components from three names.
fn path() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|parts| parts.join("/").into_bytes())
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (path(), 0u32..0o1000).prop_map(|(p, mode)| Op::Dir(p, mode)),
        4 => (path(), 0usize..6000, 0u32..0o7777).prop_map(|(p, n, mode)| Op::File(p, n, mode)),
        1 => path().prop_map(Op::Symlink),
        1 => path().prop_map(Op::Fifo),
        2 => (path(), 0usize..8).prop_map(|(p, n)| Op::Hard(p, n)),
        3 => path().prop_map(Op::Whiteout),
        1 => path().prop_map(Op::Opaque),
    ]
}

/// What a layer leaves at a path.
#[derive(Debug, Clone)]
enum Node {
    Dir {
        mode: u32,
        time: i64,
        opaque: bool,
    },
    /// Files with one number are one inode.
    File(usize),
    Symlink(i64),
    Fifo(i64),
    Whiteout,
}

/// A layer as a model, and as the tar it was made from.
#[derive(Default)]
struct Layer {
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Content seed, size, mode, time.
    files: Vec<(u64, usize, u32, i64)>,
    raws: Vec<Raw>,
    clock: i64,
}

fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|b| *b == b'/').unwrap_or(0)]
}

fn timed(mut raw: Raw, time: i64) -> Raw {
    raw.put(136, format!("{time:011o}\0").as_bytes());
    raw
}

impl Layer {
    fn of(ops: &[Op], number: usize) -> Self {
        let mut layer = Self {
            clock: 1_000_000 * (i64::try_from(number).unwrap() + 1),
            ..Self::default()
        };
        layer.dir(b"", 0o700 + number as u32);
        for op in ops {
            layer.apply(op, number);
        }
        layer
    }

    fn tick(&mut self) -> i64 {
        self.clock += 1;
        self.clock
    }

    fn apply(&mut self, op: &Op, number: usize) {
        let path = match op {
            Op::Dir(p, _)
            | Op::File(p, ..)
            | Op::Symlink(p)
            | Op::Fifo(p)
            | Op::Hard(p, _)
            | Op::Whiteout(p)
            | Op::Opaque(p) => p,
        };
        let own_parent = if matches!(op, Op::Opaque(_)) {
            path
        } else {
            parent(path)
        };
        if !self.parents(own_parent) {
            return;
        }
        match op {
            Op::Dir(_, mode) => self.dir(path, *mode),
            Op::File(_, len, mode) => {
                let (time, seed) = (self.tick(), (number * 1000 + self.files.len()) as u64);
                self.replace(path, Node::File(self.files.len()));
                self.files.push((seed, *len, *mode, time));
                let mut raw = timed(Raw::file(path, &noise(seed, *len)), time);
                raw.mode(*mode);
                self.raws.push(raw);
            }
            Op::Symlink(_) => {
                let time = self.tick();
                self.replace(path, Node::Symlink(time));
                self.raws.push(timed(Raw::link(path, b'2', b"a/b"), time));
            }
            Op::Fifo(_) => {
                let time = self.tick();
                self.replace(path, Node::Fifo(time));
                self.raws.push(timed(Raw::new(path, b'6'), time));
            }
            Op::Hard(_, n) => self.hard(path, *n),
            Op::Whiteout(_) => {
                let name = path.rsplit(|b| *b == b'/').next().unwrap();
                let at = [parent(path), b"/.wh.", name].concat();
                self.raws.push(Raw::file(&at, b""));
                match self.nodes.get_mut(path) {
                    Some(Node::Dir { opaque, .. }) => *opaque = true,
                    Some(_) => {}
                    None => drop(self.nodes.insert(path.clone(), Node::Whiteout)),
                }
            }
            Op::Opaque(_) => {
                self.raws
                    .push(Raw::file(&[path, &b"/.wh..wh..opq"[..]].concat(), b""));
                if let Some(Node::Dir { opaque, .. }) = self.nodes.get_mut(path) {
                    *opaque = true;
                }
            }
        }
    }

    /// Makes parents that are missing; false if something else is in the way.
    fn parents(&mut self, path: &[u8]) -> bool {
        if path.is_empty() {
            return true;
        }
        if !self.parents(parent(path)) {
            return false;
        }
        match self.nodes.get(path) {
            Some(Node::Dir { .. }) => true,
            None | Some(Node::Whiteout) => {
                self.dir(path, 0o755);
                true
            }
            Some(_) => false,
        }
    }

    fn dir(&mut self, path: &[u8], mode: u32) {
        let time = self.tick();
        let opaque = match self.nodes.get(path) {
            Some(Node::Dir { opaque, .. }) => *opaque,
            other => other.is_some(),
        };
        self.nodes
            .insert(path.to_vec(), Node::Dir { mode, time, opaque });
        let name = if path.is_empty() { b"./" } else { path };
        let mut raw = timed(Raw::new(name, b'5'), time);
        raw.mode(mode);
        self.raws.push(raw);
    }

    fn hard(&mut self, path: &[u8], n: usize) {
        let files: Vec<(Vec<u8>, usize)> = self
            .nodes
            .iter()
            .filter_map(|(p, node)| match node {
                Node::File(file) => Some((p.clone(), *file)),
                _ => None,
            })
            .collect();
        let below = [path, b"/"].concat();
        let Some((target, file)) = files.get(n % files.len().max(1)) else {
            return;
        };
        if target == path || target.starts_with(&below) {
            return;
        }
        self.replace(path, Node::File(*file));
        let (_, _, mode, time) = self.files[*file];
        let mut raw = timed(Raw::link(path, b'1', target), time);
        raw.mode(mode);
        self.raws.push(raw);
    }

    fn replace(&mut self, path: &[u8], node: Node) {
        let below = [path, b"/"].concat();
        self.nodes.retain(|p, _| !p.starts_with(&below));
        self.nodes.insert(path.to_vec(), node);
    }

    /// Extracts the layer as overlayfs wants its lower directories.
    fn extract(&self, root: &Path) {
        std::fs::create_dir_all(root).unwrap();
        let at = |path: &[u8]| root.join(std::str::from_utf8(path).unwrap());
        let mut first: BTreeMap<usize, PathBuf> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let to = at(path);
            match node {
                Node::Dir { opaque, .. } => {
                    std::fs::create_dir_all(&to).unwrap();
                    if *opaque {
                        let key = "trusted.overlay.opaque";
                        rustix::fs::setxattr(&to, key, b"y", XattrFlags::empty()).unwrap();
                    }
                }
                Node::File(number) => {
                    if let Some(twin) = first.get(number) {
                        std::fs::hard_link(twin, &to).unwrap();
                        continue;
                    }
                    let (seed, len, mode, time) = self.files[*number];
                    std::fs::write(&to, noise(seed, len)).unwrap();
                    finish(&to, Some(mode), time);
                    first.insert(*number, to);
                }
                Node::Symlink(time) => {
                    symlink("a/b", &to).unwrap();
                    finish(&to, None, *time);
                }
                Node::Fifo(time) => {
                    mknodat(CWD, &to, FileType::Fifo, Mode::empty(), 0).unwrap();
                    finish(&to, Some(0o644), *time);
                }
                Node::Whiteout => {
                    mknodat(CWD, &to, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
                }
            }
        }
        for (path, node) in self.nodes.iter().rev() {
            if let Node::Dir { mode, time, .. } = node {
                finish(&at(path), Some(*mode), *time);
            }
        }
    }
}

fn finish(path: &Path, mode: Option<u32>, time: i64) {
    if let Some(mode) = mode {
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).unwrap();
    }
    let time = Timespec {
        tv_sec: time,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// An overlay over read-only layers, gone with this value.
struct Overlay(PathBuf);

impl Overlay {
    fn over(layers: &[PathBuf], at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let dirs: Vec<&str> = layers.iter().rev().map(|l| l.to_str().unwrap()).collect();
        let options = CString::new(format!("lowerdir={}", dirs.join(":"))).unwrap();
        mount(
            "overlay",
            &at,
            "overlay",
            MountFlags::RDONLY,
            Some(options.as_c_str()),
        )
        .unwrap();
        Self(at)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What the kernel shows, and what we hold.
fn both(stack: &[Vec<Op>]) -> (Listing, Listing) {
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<Layer> = stack
        .iter()
        .enumerate()
        .map(|(number, ops)| Layer::of(ops, number))
        .collect();
    // overlayfs wants two directories at least.
    let mut extracted = vec![dir.path().join("base")];
    std::fs::create_dir(&extracted[0]).unwrap();
    for (number, layer) in layers.iter().enumerate() {
        let to = dir.path().join(format!("l{number}"));
        layer.extract(&to);
        extracted.push(to);
    }
    let overlay = Overlay::over(&extracted, dir.path().join("merged"));
    let kernel = disk_listing(&overlay.0);
    drop(overlay);
    let raws: Vec<Vec<Raw>> = layers.iter().map(|l| l.raws.clone()).collect();
    let image = TestImage {
        codec: Codec::Plain,
        ..TestImage::new(&raws)
    };
    let oci = dir.path().join("oci");
    image.write_layout(&oci);
    let place = dir.path().join("store");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let ours = runtime.block_on(async {
        let done = run(&format!("oci:{}", oci.display()), &place, |_| {})
            .await
            .unwrap();
        let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
        listing(&flist, &store(&place).0).await
    });
    (kernel, ours)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn merged_layers_are_what_the_kernel_shows(
        stack in prop::collection::vec(prop::collection::vec(op(), 0..12), 1..4)
    ) {
        require_root("merged_layers_are_what_the_kernel_shows");
        let (kernel, ours) = both(&stack);
        prop_assert_eq!(ours, kernel);
    }
}
