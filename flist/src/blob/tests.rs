use super::*;
use crate::chunk::Codec;

fn chunks(lens: &[u32]) -> Vec<ChunkRecord> {
    let record = |(i, &len): (usize, &u32)| ChunkRecord {
        id: ChunkId::of(&i.to_le_bytes()),
        pack: 0,
        offset: 0,
        stored_len: len,
        len,
        codec: Codec::Raw,
    };
    lens.iter().enumerate().map(record).collect()
}

fn sample() -> Vec<u8> {
    let mut builder = BlobBuilder::new();
    builder.place(&[(0, 5000), (1, 100)]);
    builder.place(&[(2, 4096)]);
    let layout = builder.finish();
    layout.map_bytes(&chunks(&[5000, 100, 4096])).unwrap()
}

#[test]
fn equal_files_share_an_extent_and_files_start_on_pages() {
    let mut builder = BlobBuilder::new();
    let a = builder.place(&[(0, 5000), (1, 100)]);
    let b = builder.place(&[(1, 100)]);
    let again = builder.place(&[(0, 5000), (1, 100)]);
    assert_eq!((a, b, again), (0, 8192, 0));
    let layout = builder.finish();
    assert_eq!(layout.len, 12_288);
    let offsets: Vec<_> = layout.entries.iter().map(|e| (e.offset, e.chunk)).collect();
    assert_eq!(offsets, [(0, 0), (5000, 1), (8192, 1)]);
}

#[test]
fn sparse_runs_become_unit_aligned_segments() {
    let mut builder = BlobBuilder::new();
    builder.place(&[(9, 1)]);
    let runs = [
        DataRun {
            file_offset: 8192,
            chunks: vec![(0, 5000)],
        },
        DataRun {
            file_offset: 40_960,
            chunks: vec![(1, 10)],
        },
    ];
    let segments = builder.place_sparse(40_970, &runs).unwrap();
    assert_eq!(
        segments,
        [
            Segment {
                file_offset: 8192,
                len: 8192,
                blob_offset: 4096
            },
            Segment {
                file_offset: 40_960,
                len: 10,
                blob_offset: 12_288
            },
        ]
    );
    assert_eq!(
        builder.place_sparse(40_970, &runs).unwrap(),
        segments,
        "shared"
    );
    assert_eq!(builder.finish().len, 16_384);
}

#[test]
fn huge_sparse_files_use_larger_units_and_merge_runs_within_one() {
    let size = 1 << 40; // 16 MiB units
    assert_eq!(sparse_unit(size), 1 << 24);
    assert_eq!(sparse_unit(1 << 28), 4096);
    assert_eq!(sparse_unit((1 << 28) + 1), 8192);
    let mut builder = BlobBuilder::new();
    let runs = [
        DataRun {
            file_offset: (1 << 24) + 4096,
            chunks: vec![(0, 100)],
        },
        DataRun {
            file_offset: (1 << 24) + 40_960,
            chunks: vec![(1, 100)],
        },
        DataRun {
            file_offset: size - 4096,
            chunks: vec![(2, 4096)],
        },
    ];
    let segments = builder.place_sparse(size, &runs).unwrap();
    assert_eq!(
        segments,
        [
            Segment {
                file_offset: 1 << 24,
                len: 1 << 24,
                blob_offset: 0
            },
            Segment {
                file_offset: size - (1 << 24),
                len: 1 << 24,
                blob_offset: 1 << 24
            },
        ]
    );
    let layout = builder.finish();
    let offsets: Vec<_> = layout.entries.iter().map(|e| e.offset).collect();
    assert_eq!(offsets, [4096, 40_960, (1 << 25) - 4096]);
    assert_eq!(layout.len, 1 << 25);
}

#[test]
fn runs_that_are_not_a_file_are_refused() {
    let run = |file_offset, len| DataRun {
        file_offset,
        chunks: vec![(0, len)],
    };
    let place = |size, runs: &[DataRun]| BlobBuilder::new().place_sparse(size, runs);
    assert_eq!(place(9, &[run(1, 1)]), Err(PlaceError::Unaligned(1)));
    assert_eq!(
        place(1 << 20, &[run(0, 4097), run(4096, 1)]),
        Err(PlaceError::Overlap(4096))
    );
    assert_eq!(place(4097, &[run(4096, 2)]), Err(PlaceError::PastEnd(4096)));
}

#[test]
fn a_map_gives_back_what_was_laid_out() {
    let map = BlobMap::parse(sample()).unwrap();
    assert_eq!((map.len(), map.blob_len()), (3, 12_288));
    let entries: Vec<_> = map.iter().map(|e| (e.offset, e.len)).collect();
    assert_eq!(entries, [(0, 5000), (5000, 100), (8192, 4096)]);
    assert_eq!(map.get(2).id, ChunkId::of(&2usize.to_le_bytes()));
    assert_eq!(map.blob_id(), BlobId::of(&sample()));
}

#[test]
fn overlapping_finds_exactly_the_entries_a_range_touches() {
    let map = BlobMap::parse(sample()).unwrap();
    for start in (0..13_000).step_by(50) {
        for len in [0, 1, 100, 4096, 10_000] {
            let range = start..start + len;
            let want: Vec<_> = (0..map.len())
                .filter(|&i| {
                    let e = map.get(i);
                    len > 0 && e.offset < range.end && e.end() > range.start
                })
                .collect();
            let got: Vec<_> = map.overlapping(range.clone()).collect();
            assert_eq!(got, want, "{range:?}");
        }
    }
}

#[test]
fn hostile_maps_are_refused_with_a_reason() {
    let patch = |at: usize, bytes: &[u8]| {
        let mut raw = sample();
        raw[at..at + bytes.len()].copy_from_slice(bytes);
        BlobMap::parse(raw).map(|_| ()).unwrap_err()
    };
    assert_eq!(patch(0, b"X"), BlobMapError::BadMagic);
    assert_eq!(patch(7, b"2"), BlobMapError::BadMagic);
    let huge = patch(8, &u32::MAX.to_le_bytes());
    assert!(matches!(huge, BlobMapError::BadLength { .. }));
    assert_eq!(patch(12, &[1]), BlobMapError::ReservedNotZero(None));
    assert_eq!(patch(16, &[1]), BlobMapError::UnalignedLength(12_289));
    assert_eq!(patch(24 + 12, &[1]), BlobMapError::ReservedNotZero(Some(0)));
    let long = patch(24 + 8, &u32::MAX.to_le_bytes());
    assert!(matches!(
        long,
        BlobMapError::BadEntryLength { entry: 0, .. }
    ));
    let empty = patch(24 + 8, &[0; 4]);
    assert!(matches!(
        empty,
        BlobMapError::BadEntryLength { entry: 0, len: 0 }
    ));
    assert_eq!(
        patch(24 + 48, &4999u64.to_le_bytes()),
        BlobMapError::Overlap(1)
    );
    assert_eq!(
        patch(24 + 96, &u64::MAX.to_le_bytes()),
        BlobMapError::OutOfBlob(2)
    );
    assert_eq!(
        patch(24 + 96, &8193u64.to_le_bytes()),
        BlobMapError::OutOfBlob(2)
    );
}

#[test]
fn truncated_or_extended_maps_are_refused() {
    let raw = sample();
    for len in 0..raw.len() {
        assert!(BlobMap::parse(&raw[..len]).is_err(), "{len}");
    }
    let mut longer = raw;
    longer.push(0);
    assert!(BlobMap::parse(longer).is_err());
}
