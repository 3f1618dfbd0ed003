//! The format against its specification and its reference, e2fsck.

use std::os::unix::fs::FileExt;
use std::process::Command;

use super::layout::{GROUP, RESERVE_MAX, SPARE};
use super::*;

const GIB: u64 = 1 << 30;

#[test]
fn the_checksum_is_that_of_its_specification() {
    assert_eq!(checksum(&[b"1234", b"56789"]), 0x4B37);
}

#[test]
fn every_size_has_room_for_what_was_asked() {
    // Around the ends of groups, where a group more is needed for its own blocks.
    let ends = (1..40)
        .flat_map(|group| (0..64).map(move |less| group * 31_000 * BLOCK + less * 97 * BLOCK));
    for bytes in ends.chain([0, 1, 64 << 10, GIB, 100 * GIB, 15 << 40]) {
        let layout = Layout::holding(bytes).unwrap();
        let free: u64 = (0..layout.groups).map(|group| layout.free(group)).sum();
        let reserve = (layout.blocks / 50).min(RESERVE_MAX);
        let wanted = bytes.div_ceil(BLOCK);
        assert!(free - reserve >= wanted, "{bytes}: {layout:?}");
        // Not much more either: a group's own blocks, at most.
        let most = wanted + 2 * SPARE + layout.own_blocks() + layout.blocks / 49;
        assert!(free - reserve <= most, "{bytes}: {layout:?}");
        assert!(layout.blocks <= layout.groups * GROUP);
    }
    assert_eq!(Layout::holding(16 << 40), None);
    assert_eq!(Layout::holding(u64::MAX), None);
}

/// The reference of the format.
#[test]
fn e2fsck_finds_nothing_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs");
    for bytes in [64 << 10, 5 << 20, 128 << 20, 131 << 20, GIB, 9 * GIB] {
        let layout = Layout::holding(bytes).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(layout.bytes()).unwrap();
        for piece in pieces(&layout, *b"0123456789abcdef", 1_700_000_000) {
            file.write_all_at(&piece.bytes, piece.at).unwrap();
        }
        let checked = Command::new("e2fsck").arg("-fn").arg(&path).output();
        let checked = checked.expect("e2fsck: run `make deps`");
        let said = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{bytes}: {said}");
    }
}
