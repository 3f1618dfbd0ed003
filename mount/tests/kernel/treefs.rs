//! Trees on real mounts: large directories, resumed listings, parallel reads,
//! and a successor that takes over a live one.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use lamina_flist::{EntryName, FileContent, FlistBuilder, Metadata, Node, NodeKind, Tree};
use lamina_mount::probe::Mode;
use lamina_mount::session::{FuseConnection, serve};
use lamina_mount::treefs::shell::{TreeFsShell, connect_options};
use lamina_mount::treefs::{BlobFiles, TreeFs};
use lamina_mount::unmount::{UnmountOptions, unmount};

use crate::support::mounts::{Mounted, modes};
use crate::support::pack::{pack, write_flist};
use crate::support::{patient, sandbox};

fn big_directory(count: usize) -> FlistBuilder {
    let mut tree = Tree::new(Metadata {
        perm: 0o755,
        ..Metadata::default()
    });
    for i in 0..count {
        let kind = NodeKind::File(FileContent::inline(i.to_string()));
        let meta = Metadata {
            perm: 0o644,
            ..Metadata::default()
        };
        let name = EntryName::new(format!("entry-{i:06}")).expect("valid");
        tree.insert(Tree::ROOT, name, Node { meta, kind })
            .expect("new");
    }
    FlistBuilder::new(tree)
}

#[test]
fn a_directory_of_100_000_is_listed_whole_and_in_order() {
    let sandbox = sandbox!();
    let count = patient(100_000);
    let flist_path = sandbox.path().join("big.fl");
    let flist = write_flist(big_directory(count), &flist_path);
    let packed = crate::support::pack::Packed {
        flist_path,
        flist,
        blobs: Vec::new(),
    };
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let names: Vec<Vec<u8>> = std::fs::read_dir(mounted.path())
            .expect("list")
            .map(|entry| entry.expect("an entry").file_name().as_bytes().to_vec())
            .collect();
        assert_eq!(names.len(), count, "{mode}");
        assert!(names.is_sorted(), "{mode}");
        // With attributes, as `ls -l` reads it.
        let sizes: u64 = std::fs::read_dir(mounted.path())
            .expect("list")
            .map(|entry| entry.expect("an entry").metadata().expect("stat").len())
            .sum();
        let expected: usize = (0..count).map(|i| i.to_string().len()).sum();
        assert_eq!(sizes, expected as u64, "{mode}");
        assert_eq!(
            std::fs::read(mounted.path().join("entry-004321")).expect("read"),
            b"4321"
        );
    }
}

#[test]
fn a_listing_can_be_resumed_at_every_place_it_was_told() {
    let sandbox = sandbox!();
    let flist_path = sandbox.path().join("dir.fl");
    let flist = write_flist(big_directory(2000), &flist_path);
    let packed = crate::support::pack::Packed {
        flist_path,
        flist,
        blobs: Vec::new(),
    };
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let whole = crate::sys::list_with_offsets(mounted.path());
        assert_eq!(whole.len(), 2002, "{mode}");
        for at in (0..whole.len()).step_by(37).chain([1999, 2000, 2001]) {
            let rest = crate::sys::list_from(mounted.path(), whole[at].1);
            let expected: Vec<CString> = whole[at + 1..]
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            assert_eq!(rest, expected, "{mode}, after entry {at}");
        }
    }
}

#[test]
fn statfs_counts_and_limits_names() {
    let sandbox = sandbox!();
    let source = sandbox.dir("source");
    std::fs::write(source.join("file"), vec![3; 1 << 20]).expect("write");
    let packed = pack(&source, &sandbox.path().join("packed"));
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let stat = rustix::fs::statfs(mounted.path()).expect("statfs");
        assert_eq!(
            (stat.f_namelen, stat.f_bsize, stat.f_bfree),
            (255, 4096, 0),
            "{mode}"
        );
        assert!(stat.f_blocks >= 256, "{mode}: {}", stat.f_blocks);
        let error = std::fs::metadata(mounted.path().join("n".repeat(256))).expect_err("too long");
        assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{mode}");
        let error = File::create(mounted.path().join("new")).expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{mode}");
    }
}

#[test]
fn readers_in_parallel_and_maps_see_the_bytes() {
    let sandbox = sandbox!();
    let source = sandbox.dir("source");
    let bytes: Vec<u8> = (0_u32..2_000_000)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(source.join("file"), &bytes).expect("write");
    let packed = pack(&source, &sandbox.path().join("packed"));
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let path = mounted.path().join("file");
        std::thread::scope(|scope| {
            for thread in 0..16_u64 {
                let (path, bytes) = (&path, &bytes);
                scope.spawn(move || {
                    let file = File::open(path).expect("open");
                    let mut buffer = vec![0; 100_000];
                    for i in 0..20_u64 {
                        let at = (thread * 7_919 + i * 399_989) % (bytes.len() as u64 - 100_000);
                        file.read_exact_at(&mut buffer, at).expect("read");
                        assert_eq!(buffer, bytes[at as usize..][..100_000]);
                    }
                });
            }
        });
        let file = File::open(&path).expect("open");
        let mapped = crate::sys::mmap_read(file.as_fd(), 0, bytes.len()).expect("mmap");
        assert!(mapped == bytes, "{mode}");
    }
}

#[test]
fn hard_links_share_a_node_and_unprivileged_callers_see_no_trusted_names() {
    let sandbox = sandbox!();
    let source = sandbox.dir("source");
    std::fs::write(source.join("a"), "x").expect("write");
    std::fs::hard_link(source.join("a"), source.join("b")).expect("link");
    let set = |name: &str| {
        rustix::fs::setxattr(
            source.join("a"),
            name,
            b"v",
            rustix::fs::XattrFlags::empty(),
        )
        .expect("setxattr");
    };
    set("user.u");
    set("trusted.t");
    let packed = pack(&source, &sandbox.path().join("packed"));
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let stat = |name: &str| std::fs::metadata(mounted.path().join(name)).expect("stat");
        assert_eq!(
            (stat("a").ino(), stat("a").nlink()),
            (stat("b").ino(), 2),
            "{mode}"
        );
        let path = mounted.path().join("a");
        let names = |uid: u32| {
            std::thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let same = None::<rustix::fs::Uid>;
                        let uid = rustix::fs::Uid::from_raw(uid);
                        rustix::thread::set_thread_res_uid(same, uid, same).expect("setresuid");
                        let mut names = vec![0_u8; 1024];
                        let len = rustix::fs::listxattr(&path, &mut names).expect("listxattr");
                        String::from_utf8_lossy(&names[..len]).into_owned()
                    })
                    .join()
                    .expect("the thread")
            })
        };
        assert_eq!(names(0).matches('\0').count(), 2, "{mode}");
        assert_eq!(names(1000), "user.u\0", "{mode}");
    }
}

#[test]
fn a_successor_takes_over_a_mount_with_open_files() {
    let sandbox = sandbox!();
    if !modes().contains(&Mode::Fuse) {
        return; // modes() said why
    }
    let source = sandbox.dir("source");
    crate::posix::fixture::make(&source);
    let packed = pack(&source, &sandbox.path().join("packed"));
    let target = sandbox.dir("target");
    let options = connect_options("lamina-test".to_owned(), 2);
    let connection = FuseConnection::create(&target, &options).expect("connecting");
    let server = || {
        let files = packed
            .blobs
            .iter()
            .map(|(_, path)| File::open(path).expect("a blob"))
            .collect();
        TreeFsShell(Arc::new(TreeFs::new(
            packed.flist.clone(),
            Arc::new(BlobFiles(files)),
        )))
    };
    let first = serve(&connection.devices, &server(), 1, false).expect("serving");
    let file = File::open(target.join("dir/big")).expect("open");
    let mut buffer = [0; 8];
    file.read_exact_at(&mut buffer, 4).expect("read");
    // A second server on the same connection: it knows nothing of what the
    // first one answered and needs not to.
    let second = serve(&connection.devices, &server(), 1, connection.can_resend).expect("serving");
    file.read_exact_at(&mut buffer, 250_000).expect("read");
    assert_eq!(buffer[..4], 62_500_u32.to_le_bytes());
    let detail = crate::support::snapshot::Detail {
        mtime: true,
        holes: true,
        overlay: false,
    };
    crate::support::snapshot::assert_same(
        "the source and the mount",
        &crate::support::snapshot::snapshot(&source, detail),
        &crate::support::snapshot::snapshot(&target, detail),
    );
    drop(file);
    unmount(&target, &UnmountOptions::default()).expect("unmounting");
    drop(connection);
    first.join().expect("the first ends");
    second.join().expect("the second ends");
}
