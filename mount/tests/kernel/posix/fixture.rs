//! The tree below the unions of the POSIX cases.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

/// Fixed, so that the trees of two runs are equal; odd nanoseconds show rounding.
const MTIME: Timespec = Timespec {
    tv_sec: 1_700_000_000,
    tv_nsec: 123_456_789,
};

/// `user:1000:r--`, mask `r--`, in the kernel's xattr encoding (`linux/posix_acl_xattr.h`).
const ACL: [u8; 44] = [
    2, 0, 0, 0, // version
    1, 0, 6, 0, 255, 255, 255, 255, // owner rw-
    2, 0, 4, 0, 232, 3, 0, 0, // user 1000 r--
    4, 0, 0, 0, 255, 255, 255, 255, // group ---
    16, 0, 4, 0, 255, 255, 255, 255, // mask r--
    32, 0, 0, 0, 255, 255, 255, 255, // other ---
];
/// `cap_net_raw+ep`, `struct vfs_cap_data` revision 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Files: path, mode, uid, gid, content.
const FILES: &[(&str, u32, u32, u32, &str)] = &[
    ("dir/file", 0o644, 0, 0, "hello\n"),
    ("dir/exec", 0o755, 0, 0, "#!/bin/sh\nexit 0\n"),
    ("dir/sub/a", 0o644, 0, 0, "a"),
    ("dir/sub/b", 0o600, 3, 4, "b"),
    ("pair/a", 0o644, 0, 0, "first"),
    ("pair/b", 0o644, 0, 0, "second"),
    ("deep/1/2/3/file", 0o644, 0, 0, "deep"),
    ("suid", 0o4755, 0, 0, "suid"),
    ("capable", 0o755, 0, 0, "capable"),
    ("hard1", 0o644, 0, 0, "hard"),
    ("owned/file", 0o600, 1000, 1000, "mine"),
    ("sticky/foreign", 0o666, 1001, 1001, "theirs"),
    ("sticky/mine", 0o666, 1000, 1000, "ours"),
    ("private/secret", 0o644, 0, 0, "secret"),
    ("writable", 0o666, 0, 0, "anyone"),
    ("group", 0o640, 0, 1000, "group"),
    ("tagged", 0o644, 9, 9, "tagged"),
    ("trusted", 0o644, 0, 0, "trusted"),
    ("acl", 0o640, 0, 0, "acl"),
    ("odd/\u{1}\u{7f}", 0o644, 0, 0, "control"),
    ("odd/äöü", 0o644, 0, 0, "umlauts"),
    ("odd/-rf", 0o644, 0, 0, "option"),
    ("dots/.hidden", 0o644, 0, 0, "hidden"),
];
const DIRECTORIES: &[(&str, u32, u32)] = &[
    ("dir", 0o755, 0),
    ("dir/sub", 0o755, 0),
    ("pair", 0o755, 0),
    ("empty", 0o755, 0),
    ("deep", 0o755, 0),
    ("deep/1", 0o755, 0),
    ("deep/1/2", 0o755, 0),
    ("deep/1/2/3", 0o755, 0),
    ("owned", 0o755, 1000),
    ("sticky", 0o1777, 0),
    ("sticky/dir", 0o755, 0),
    ("private", 0o700, 0),
    ("many", 0o755, 0),
    ("longs", 0o755, 0),
    ("odd", 0o755, 0),
    ("dots", 0o755, 0),
    ("tagdir", 0o2775, 0),
];
const SYMLINKS: &[(&str, &str)] = &[
    ("link", "dir/file"),
    ("dangling", "nowhere"),
    ("loop1", "loop2"),
    ("loop2", "loop1"),
    ("dirlink", "dir"),
];

/// Makes the tree in the existing directory `root`.
pub(crate) fn make(root: &Path) {
    rustix::fs::chmod(root, Mode::from_raw_mode(0o755)).expect("chmod");
    for (path, mode, owner) in DIRECTORIES {
        std::fs::create_dir(root.join(path)).expect("mkdir");
        own(&root.join(path), *owner, *owner, *mode);
    }
    for (path, mode, uid, gid, content) in FILES {
        std::fs::write(root.join(path), content).expect("write");
        own(&root.join(path), *uid, *gid, *mode);
    }
    make_large(root);
    for (path, target) in SYMLINKS {
        std::os::unix::fs::symlink(target, root.join(path)).expect("symlink");
    }
    std::fs::hard_link(root.join("hard1"), root.join("hard2")).expect("link");
    make_nodes(root);
    set_xattrs(root);
    set_times(root);
}

fn own(path: &Path, uid: u32, gid: u32, mode: u32) {
    rustix::fs::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).expect("chown");
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).expect("chmod");
}

fn make_large(root: &Path) {
    let big: Vec<u8> = (0_u32..75_000).flat_map(u32::to_le_bytes).collect();
    std::fs::write(root.join("dir/big"), big).expect("write");
    let sparse = std::fs::File::create(root.join("dir/sparse")).expect("create");
    sparse.set_len(1 << 20).expect("grow");
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[7; 9000], 512 * 1024).expect("write");
    std::fs::write(root.join("longs").join("n".repeat(255)), "long").expect("write");
    for i in 0..40 {
        std::fs::write(root.join(format!("many/f{i:03}")), "").expect("write");
    }
}

fn make_nodes(root: &Path) {
    let node = |name: &str, kind, major, minor| {
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(CWD, root.join(name), kind, mode, device).expect("mknod");
        rustix::fs::chmod(root.join(name), mode).expect("chmod");
    };
    node("fifo", FileType::Fifo, 0, 0);
    node("sock", FileType::Socket, 0, 0);
    node("null", FileType::CharacterDevice, 1, 3);
    node("wide", FileType::BlockDevice, 259, 70_000);
}

fn set_xattrs(root: &Path) {
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(root.join(path), name, value, XattrFlags::empty()).expect(name);
    };
    set("tagged", "user.a", b"one");
    set("tagged", "user.b", b"two");
    set("tagged", "user.empty", b"");
    set("tagdir", "user.dir", b"yes");
    set("trusted", "trusted.t", b"t");
    set("acl", "system.posix_acl_access", &ACL);
    set("capable", "security.capability", &CAPABILITY);
}

/// Deepest first, so that setting one does not change another.
fn set_times(root: &Path) {
    fn visit(path: &Path) {
        let meta = std::fs::symlink_metadata(path).expect("stat");
        if meta.is_dir() {
            for entry in std::fs::read_dir(path).expect("list") {
                visit(&entry.expect("entry").path());
            }
        }
        let times = Timestamps {
            last_access: MTIME,
            last_modification: MTIME,
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
    }
    visit(root);
}
