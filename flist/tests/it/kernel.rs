//! The kernel mounts what the writer writes, and reads equal data from it.
//!
//! Needs root and file-backed EROFS (Linux 6.12); says so and skips otherwise,
//! unless `LAMINA_TEST_KERNEL=require`.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use lamina_flist::{Device, FlistHead, NodeKind, Tree};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::{World, fsck, name, noise, xattrs};

/// A mounted flist; unmounts when dropped.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts `head` with one file per blob; `None` where the kernel cannot.
    fn new(head: &FlistHead, blobs: &[Vec<u8>]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image.fl");
        fs::write(&image, &head.bytes).unwrap();
        let mut options = vec!["directio".to_owned()];
        let mut devices = Vec::new();
        for (i, blob) in blobs.iter().enumerate() {
            let path = dir.path().join(format!("blob{i}"));
            fs::write(&path, blob).unwrap();
            options.push(format!("device={}", path.display()));
            devices.push(path);
        }
        fsck(&image, &devices).unwrap();
        let target = dir.path().join("mnt");
        fs::create_dir(&target).unwrap();
        let options = CString::new(options.join(",")).unwrap();
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        match mount(&image, &target, "erofs", flags, Some(options.as_c_str())) {
            Ok(()) => Some(Self { dir }),
            Err(error) => {
                let required = std::env::var_os("LAMINA_TEST_KERNEL").is_some();
                assert!(!required, "the kernel refused the flist: {error}");
                eprintln!("SKIPPED: mounting EROFS from a file needs root and Linux 6.12: {error}");
                None
            }
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let target = self.dir.path().join("mnt");
        if let Err(error) = unmount(&target, UnmountFlags::DETACH) {
            eprintln!("cannot unmount {}: {error}", target.display());
        }
    }
}

fn get_xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 70_000];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
    value.truncate(len);
    value
}

fn list_xattrs(path: &Path) -> Vec<String> {
    let mut list = vec![0u8; 70_000];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..len].split(|&b| b == 0).filter(|n| !n.is_empty());
    names
        .map(|n| String::from_utf8(n.to_vec()).unwrap())
        .collect()
}

#[test]
fn two_blobs_read_back_equal() {
    let mut world = World::new(2);
    let a = noise(1, 3_000_001);
    let b = noise(2, 5000);
    let dir = world.dir(Tree::ROOT, "dir");
    world.file(Tree::ROOT, "a", 0, &a);
    let in_b = world.file(dir, "b", 1, &b);
    world.file(dir, "same-as-a", 0, &a);
    world.file(dir, "inline", 0, b"small");
    world.file(dir, "empty", 0, b"");
    world.tree.link(Tree::ROOT, name("b-too"), in_b).unwrap();
    let (builder, blobs) = world.finish();
    let Some(mounted) = Mounted::new(&builder.build().unwrap(), &blobs) else {
        return;
    };
    assert_eq!(fs::read(mounted.path("a")).unwrap(), a);
    assert_eq!(fs::read(mounted.path("dir/same-as-a")).unwrap(), a);
    assert_eq!(fs::read(mounted.path("dir/b")).unwrap(), b);
    assert_eq!(fs::read(mounted.path("dir/inline")).unwrap(), b"small");
    assert_eq!(fs::read(mounted.path("dir/empty")).unwrap(), b"");
    let (one, two) = (mounted.path("dir/b"), mounted.path("b-too"));
    let (one, two) = (one.metadata().unwrap(), two.metadata().unwrap());
    assert_eq!((one.ino(), one.nlink()), (two.ino(), 2));
    assert_eq!(one.mtime_nsec(), 123_456_789);
    assert_eq!((one.uid(), one.gid()), (1000, 70_000));
    assert_eq!(mounted.path("dir").metadata().unwrap().nlink(), 2);
    assert_eq!(mounted.path("").metadata().unwrap().nlink(), 3);
}

#[test]
fn every_kind_of_node_and_attribute_is_as_written() {
    let mut world = World::new(1);
    let long = vec![b'v'; 60_000];
    let file = world.file(Tree::ROOT, "file", 0, &noise(3, 10_000));
    let file_xattrs = xattrs(&[
        (
            "security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ),
        ("trusted.t", b""),
        ("user.long", &long),
        ("user.short", b"x"),
    ]);
    world.tree.meta_mut(file).xattrs = file_xattrs.clone();
    let target = "t/".repeat(2047);
    world.add(
        Tree::ROOT,
        "long-link",
        NodeKind::Symlink(target.clone().into()),
    );
    world.add(Tree::ROOT, "link", NodeKind::Symlink(b"file".to_vec()));
    let device = Device {
        major: 4095,
        minor: 1_048_575,
    };
    world.add(Tree::ROOT, "char", NodeKind::CharDevice(device));
    world.add(Tree::ROOT, "block", NodeKind::BlockDevice(device));
    world.add(Tree::ROOT, "fifo", NodeKind::Fifo);
    world.add(Tree::ROOT, "socket", NodeKind::Socket);
    let sticky = world.dir(Tree::ROOT, "sticky");
    world.tree.meta_mut(sticky).perm = 0o1777;
    world.tree.meta_mut(sticky).mtime.secs = -5;
    let old = world.tree.meta_mut(sticky);
    old.xattrs = xattrs(&[("user.dir", b"yes")]);
    let (builder, blobs) = world.finish();
    let Some(mounted) = Mounted::new(&builder.build().unwrap(), &blobs) else {
        return;
    };
    let path = mounted.path("file");
    for (name, value) in &file_xattrs {
        let name = std::str::from_utf8(name).unwrap();
        assert_eq!(&get_xattr(&path, name), value, "{name}");
    }
    assert_eq!(list_xattrs(&path).len(), 4);
    assert_eq!(get_xattr(&mounted.path("sticky"), "user.dir"), b"yes");
    let read_link = |path| fs::read_link(mounted.path(path)).unwrap();
    assert_eq!(read_link("long-link"), Path::new(&target));
    assert_eq!(read_link("link"), Path::new("file"));
    let stat = |path: &str| fs::symlink_metadata(mounted.path(path)).unwrap();
    let rdev = rustix::fs::makedev(device.major, device.minor);
    assert!(stat("char").file_type().is_char_device());
    assert!(stat("block").file_type().is_block_device());
    assert_eq!((stat("char").rdev(), stat("block").rdev()), (rdev, rdev));
    assert!(stat("fifo").file_type().is_fifo());
    assert!(stat("socket").file_type().is_socket());
    assert_eq!(stat("sticky").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(stat("sticky").mtime(), -5);
}

#[test]
fn holes_are_zeros_and_seekable() {
    let mut world = World::new(2);
    world.file(Tree::ROOT, "shift", 1, &noise(9, 9000));
    let data = noise(4, 20_000);
    let size = 1 << 20;
    let runs = [(40_960, data.clone()), (size - 4096, data[..4096].to_vec())];
    let content = world.sparse(1, size, &runs);
    world.add(Tree::ROOT, "sparse", NodeKind::File(content));
    let content = world.sparse(1, 12_345_678, &[]);
    world.add(Tree::ROOT, "all-hole", NodeKind::File(content));
    let huge = 1u64 << 40;
    let content = world.sparse(0, huge, &[(huge / 2, data.clone())]);
    world.add(Tree::ROOT, "huge", NodeKind::File(content));
    let (builder, blobs) = world.finish();
    let Some(mounted) = Mounted::new(&builder.build().unwrap(), &blobs) else {
        return;
    };
    let mut want = vec![0; size as usize];
    want[40_960..60_960].copy_from_slice(&data);
    want[(size - 4096) as usize..].copy_from_slice(&data[..4096]);
    assert_eq!(fs::read(mounted.path("sparse")).unwrap(), want);
    let holes = fs::read(mounted.path("all-hole")).unwrap();
    assert!(holes.len() == 12_345_678 && holes.iter().all(|&b| b == 0));
    let file = fs::File::open(mounted.path("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), huge);
    let mut buffer = vec![1; 20_000];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, huge / 2).unwrap();
    assert_eq!(buffer, data);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, huge - 20_000).unwrap();
    assert!(buffer.iter().all(|&b| b == 0));
    let sparse = fs::File::open(mounted.path("sparse")).unwrap();
    let at = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert_eq!(at, 40_960);
}

#[test]
fn a_directory_of_100_000_entries_lists_and_looks_up() {
    let mut world = World::new(1);
    world.file(Tree::ROOT, "x", 0, &noise(5, 5000));
    let big = world.dir(Tree::ROOT, "big");
    let names: Vec<String> = (0..100_000u64)
        .map(|i| format!("entry-{:x}-{i}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        .collect();
    for name in &names {
        world.file(big, name, 0, name.as_bytes());
    }
    let (builder, blobs) = world.finish();
    let Some(mounted) = Mounted::new(&builder.build().unwrap(), &blobs) else {
        return;
    };
    let listed = fs::read_dir(mounted.path("big")).unwrap();
    let mut listed: Vec<String> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort();
    let mut want = names.clone();
    want.sort();
    assert_eq!(listed, want);
    for name in names.iter().step_by(97) {
        let path = mounted.path("big").join(name);
        assert_eq!(fs::read(path).unwrap(), name.as_bytes());
    }
    assert!(!mounted.path("big/entry-").exists());
    assert!(!mounted.path("big/zzz").exists());
}
