//! What the tar reader accepts, and the name it gives to what it refuses.

use std::io::BufReader;

use super::testing::{Raw, archive, gnu_long, pax};
use super::*;
use crate::limits::TarLimits;

fn entries(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    entries_within(bytes, TarLimits::default())
}

fn entries_within(bytes: &[u8], limits: TarLimits) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    // A tiny buffer, so that every field crosses a refill somewhere.
    let mut reader = TarReader::new(BufReader::with_capacity(7, bytes), limits);
    let mut out = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        loop {
            let n = {
                let buf = reader.data()?;
                data.extend_from_slice(buf);
                buf.len()
            };
            if n == 0 {
                break;
            }
            reader.consume(n);
        }
        out.push((entry, data));
    }
    Ok(out)
}

fn one(raws: &[Raw]) -> (Entry, Vec<u8>) {
    let mut all = entries(&archive(raws)).unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

fn error(raws: &[Raw]) -> TarError {
    entries(&archive(raws)).unwrap_err()
}

#[test]
fn names_come_from_ustar_prefix_gnu_or_pax() {
    let mut raw = Raw::file(b"name", b"x");
    raw.put(345, b"some/prefix");
    assert_eq!(one(&[raw.clone()]).0.path.as_bytes(), b"some/prefix/name");
    // GNU keeps times there, not a prefix.
    assert_eq!(one(&[raw.gnu().clone()]).0.path.as_bytes(), b"name");
    let long = b"d/".repeat(60);
    let got = one(&[gnu_long(b'L', &long), Raw::file(b"short", b"x")]).0;
    assert_eq!(got.path.components().count(), 60);
    let got = one(&[pax(&[("path", b"from/pax")]), Raw::file(b"short", b"x")]).0;
    assert_eq!(got.path.as_bytes(), b"from/pax");
}

#[test]
fn pax_overrides_size_owner_and_time() {
    let mut file = Raw::file(b"f", b"hello");
    file.size(0);
    let records: &[(&str, &[u8])] = &[
        ("size", b"5"),
        ("uid", b"4000000000"),
        ("gid", b"7"),
        ("mtime", b"12.000000034"),
        ("SCHILY.xattr.user.a", b"\0\n"),
    ];
    let (entry, data) = one(&[pax(records), file]);
    assert_eq!(data, b"hello");
    assert_eq!((entry.uid, entry.gid), (4_000_000_000, 7));
    assert_eq!(
        entry.mtime,
        Timestamp {
            secs: 12,
            nanos: 34
        }
    );
    assert_eq!(entry.xattrs[&b"user.a"[..]], b"\0\n");
}

#[test]
fn a_fifo_with_empty_device_fields_is_accepted() {
    // nydus-image refuses it.
    let mut fifo = Raw::new(b"pipe", b'6');
    fifo.put(329, &[0; 16]);
    assert_eq!(one(&[fifo.clone()]).0.kind, EntryKind::Fifo);
    fifo.put(329, &[b' '; 16]);
    assert_eq!(one(&[fifo]).0.kind, EntryKind::Fifo);
}

#[test]
fn devices_keep_their_numbers() {
    let mut null = Raw::new(b"null", b'3');
    null.put(329, b"0000001\0").put(337, b"0000003\0");
    assert_eq!(
        one(&[null]).0.kind,
        EntryKind::CharDevice { major: 1, minor: 3 }
    );
    let mut disk = Raw::new(b"disk", b'4');
    disk.put(329, b"0000010\0")
        .put(337, b"\x80\0\0\0\0\x01\0\0");
    assert_eq!(
        one(&[disk]).0.kind,
        EntryKind::BlockDevice {
            major: 8,
            minor: 65536
        }
    );
    let mut huge = Raw::new(b"huge", b'4');
    huge.put(329, b"7777777\0");
    assert!(matches!(
        error(&[huge]),
        TarError::OutOfRange {
            field: "devmajor",
            ..
        }
    ));
}

#[test]
fn header_only_entries_ignore_their_size() {
    for flag in *b"123456" {
        let mut raw = Raw::link(b"x", flag, b"target");
        raw.size(1000);
        let all = entries(&archive(&[raw, Raw::file(b"next", b"n")])).unwrap();
        assert_eq!(all[1].0.path.as_bytes(), b"next");
    }
}

#[test]
fn sparse_files_of_all_four_encodings_have_the_same_map() {
    let want = EntryKind::File {
        size: 20_000,
        sparse: Some(vec![
            DataSegment {
                offset: 4096,
                len: 5,
            },
            DataSegment {
                offset: 16_384,
                len: 3,
            },
        ]),
    };
    let mut old = Raw::new(b"s", b'S');
    old.gnu().with_data(b"helloabc");
    old.put(386, b"00000010000\0").put(398, b"00000000005\0");
    old.put(410, b"00000040000\0").put(422, b"00000000003\0");
    old.put(483, b"00000047040\0");
    let v00: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"4096"),
        ("GNU.sparse.numbytes", b"5"),
        ("GNU.sparse.offset", b"16384"),
        ("GNU.sparse.numbytes", b"3"),
    ];
    let v01: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.map", b"4096,5,16384,3"),
    ];
    let v10: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"20000"),
    ];
    let mut mapped = b"2\n4096\n5\n16384\n3\n".to_vec();
    mapped.resize(512, 0);
    mapped.extend_from_slice(b"helloabc");
    for raws in [
        vec![old],
        vec![pax(v00), Raw::file(b"s", b"helloabc")],
        vec![pax(v01), Raw::file(b"GNUSparseFile.0/s", b"helloabc")],
        vec![pax(v10), Raw::file(b"GNUSparseFile.0/s", &mapped)],
    ] {
        let (entry, data) = one(&raws);
        assert_eq!(entry.kind, want);
        assert_eq!(entry.path.as_bytes(), b"s");
        assert_eq!(data, b"helloabc");
    }
}

#[test]
fn sparse_segments_are_bounded_over_all_files_together() {
    // Files of few segments each passed, however many files there were.
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"20000"),
        ("GNU.sparse.map", b"4096,5,16384,3"),
    ];
    let file = || [pax(sparse), Raw::file(b"s", b"helloabc")];
    let bytes = archive(&[file(), file()].concat());
    let within = |sparse_segments_total_max| {
        let limits = TarLimits {
            sparse_segments_total_max,
            ..TarLimits::default()
        };
        entries_within(&bytes, limits)
    };
    assert_eq!(within(4).unwrap().len(), 2);
    assert!(matches!(
        within(3),
        Err(TarError::TooManySparseSegments { max: 3 })
    ));
}

#[test]
fn data_of_any_entry_is_bounded_before_it_is_skipped() {
    // The list of names in a GNU dump directory could have any size: skipping it overflowed.
    let huge = u64::MAX.to_string();
    let sizes = pax(&[("size", huge.as_bytes())]);
    for typeflag in *b"0DS" {
        let got = error(&[sizes.clone(), Raw::new(b"d", typeflag)]);
        assert!(
            matches!(
                got,
                TarError::FileTooLarge {
                    bytes: u64::MAX,
                    ..
                }
            ),
            "{got}"
        );
    }
    let mut dumped = Raw::new(b"d/", b'D');
    dumped.with_data(b"Yx\0\0");
    let all = entries(&archive(&[dumped, Raw::file(b"next", b"n")])).unwrap();
    assert_eq!(all[0].0.kind, EntryKind::Directory);
    assert_eq!(all[1].0.path.as_bytes(), b"next");
}

/// Entries, and whether an error is the right one.
type Case = (Vec<Raw>, fn(&TarError) -> bool);

#[test]
fn archives_on_which_readers_disagree_are_refused() {
    let file = Raw::file(b"f", b"x");
    let cases: Vec<Case> = vec![
        (
            vec![pax(&[("path", b"a")]), gnu_long(b'L', b"b"), file.clone()],
            |e| matches!(e, TarError::ConflictingNames { field: "path", .. }),
        ),
        (
            vec![pax(&[("path", b"a")]), pax(&[("path", b"b")]), file.clone()],
            |e| matches!(e, TarError::RepeatedExtension { .. }),
        ),
        (
            vec![gnu_long(b'L', b"a"), gnu_long(b'L', b"b"), file.clone()],
            |e| matches!(e, TarError::RepeatedExtension { .. }),
        ),
        (vec![pax(&[("path", b"a")])], |e| {
            matches!(e, TarError::DanglingExtension { .. })
        }),
        (vec![Raw::new(b"m", b'M')], |e| {
            matches!(e, TarError::UnknownType { .. })
        }),
    ];
    for (raws, expected) in cases {
        let got = error(&raws);
        assert!(expected(&got), "{got}");
    }
    let mut lone = archive(std::slice::from_ref(&file));
    lone.truncate(lone.len() - 512);
    lone.extend(archive(&[file]));
    assert!(matches!(
        entries(&lone),
        Err(TarError::LoneZeroBlock { .. })
    ));
}

#[test]
fn truncation_at_every_byte_is_an_error_or_a_shorter_list() {
    let whole = archive(&[
        pax(&[("path", b"long/name")]),
        Raw::file(b"a", b"hello"),
        gnu_long(b'L', b"other"),
        Raw::file(b"b", &[7; 600]),
    ]);
    let all = entries(&whole).unwrap();
    for len in 0..whole.len() {
        match entries(&whole[..len]) {
            Ok(some) => {
                assert!(len % 512 == 0, "accepted {len}");
                assert_eq!(some, all[..some.len()]);
            }
            Err(TarError::Truncated { .. } | TarError::DanglingExtension { .. }) => {}
            Err(other) => panic!("{len}: {other}"),
        }
    }
}

#[test]
fn a_flipped_header_byte_is_noticed() {
    let whole = archive(&[Raw::file(b"a", b"hello")]);
    for at in 0..512 {
        let mut bad = whole.clone();
        bad[at] ^= 0x01;
        // Only the tail of the checksum field itself does not count.
        if (155..156).contains(&at) {
            continue;
        }
        assert!(entries(&bad).is_err(), "byte {at}");
    }
}
