//! The three modes show the same tree, and it is the source's.

use std::os::unix::fs::FileExt;
use std::path::Path;

use lamina_mount::probe::Mode;

use crate::support::mounts::{Mounted, modes};
use crate::support::pack::{pack, pack_sparse};
use crate::support::snapshot::{Detail, assert_same, snapshot};
use crate::support::{sandbox, test_name};

const EVERYTHING: Detail = Detail {
    mtime: true,
    holes: true,
    overlay: false,
};

/// Files of many shapes beside what the POSIX cases use.
fn make_shapes(root: &Path) {
    crate::posix::fixture::make(root);
    let sizes = [0, 1, 1023, 1024, 1025, 4095, 4096, 4097, 65_536, 1_000_001];
    for size in sizes {
        let bytes: Vec<u8> = (0..size)
            .map(|i: u32| (i.wrapping_mul(31) >> 3) as u8)
            .collect();
        std::fs::write(root.join(format!("size-{size}")), &bytes).expect("write");
        std::fs::write(root.join(format!("copy-of-{size}")), &bytes).expect("write");
    }
    let holes = |name: &str, len: u64, data: &[(u64, usize)]| {
        let file = std::fs::File::create(root.join(name)).expect("create");
        file.set_len(len).expect("grow");
        for (offset, count) in data {
            file.write_all_at(&vec![0x5a; *count], *offset)
                .expect("write");
        }
    };
    holes("all-hole", 1 << 22, &[]);
    holes("hole-at-start", 100_000, &[(65_536, 34_464)]);
    holes("hole-at-end", 5_000_000, &[(0, 4096)]);
    holes(
        "many-holes",
        1 << 21,
        &[(8192, 4096), (65_536, 10), (1 << 20, 100_000)],
    );
    std::fs::write(
        root.join("many")
            .join("long")
            .with_extension("x".repeat(200)),
        "x",
    )
    .expect("write");
}

/// `SEEK_DATA` finds none in a file without data. EROFS before Linux 6.15 takes
/// every file for data throughout, which is allowed.
fn knows_holes(all_hole: &Path) -> bool {
    let file = std::fs::File::open(all_hole).expect("open");
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).is_err()
}

#[test]
fn the_three_modes_show_the_source() {
    let sandbox = sandbox!();
    let source = sandbox.dir("source");
    make_shapes(&source);
    let packed = pack(&source, &sandbox.path().join("packed"));
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let mut detail = EVERYTHING;
        if mode != Mode::Fuse && !knows_holes(&mounted.path().join("all-hole")) {
            println!(
                "SKIP {}: holes in mode {mode}: this kernel's EROFS shows none",
                test_name()
            );
            detail.holes = false;
        }
        let expected = snapshot(&source, detail);
        // The second time from the caches.
        for round in ["first", "second"] {
            assert_same(
                &format!("the source and mode {mode}, {round} time,"),
                &expected,
                &snapshot(mounted.path(), detail),
            );
        }
    }
}

#[test]
fn huge_sparse_files_keep_their_holes() {
    let sandbox = sandbox!();
    // Laid out by hand: packing reads whole files, and this has a terabyte.
    let size = 1_u64 << 40;
    let packed = pack_sparse("huge", size, 1 << 39, b"in the middle", sandbox.path());
    for mode in modes() {
        let mounted = Mounted::new(&packed, mode, &sandbox.path().join("mounted"));
        let file = std::fs::File::open(mounted.path().join("huge")).expect("open");
        assert_eq!(file.metadata().expect("stat").len(), 1 << 40, "{mode}");
        let start = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).expect("data");
        assert!(start <= 1 << 39, "{mode}: {start}");
        let mut text = [1_u8; 13];
        file.read_exact_at(&mut text, 1 << 39).expect("read");
        assert_eq!(&text, b"in the middle", "{mode}");
        file.read_exact_at(&mut text, 1 << 30).expect("read");
        assert_eq!(text, [0; 13], "{mode}");
    }
}
