//! The file as a whole: its bytes are pinned, and any damage is found.

use bytes::Bytes;
use lamina_flist::{
    Device, EmbeddedPacks, ExtraSection, Flist, FlistBuilder, FlistDigest, FlistError, FlistMeta,
    HintFile, HintTable, Limits, NodeKind, PackId, PackRecord, Profile, ProfileRange,
    ProfileSource, Sha256Digest, Tree,
};

use crate::support::{World, name, noise, open, xattrs};

/// A tree with one of everything.
pub(crate) fn sample() -> World {
    let mut world = World::new(2);
    world.tree.meta_mut(Tree::ROOT).xattrs = xattrs(&[("user.root", b"1")]);
    let dir = world.dir(Tree::ROOT, "dir");
    let a = world.file(dir, "a", 0, &noise(1, 100_000));
    world.file(dir, "b", 1, &noise(2, 1025));
    world.file(dir, "inline", 0, &noise(3, 1024));
    world.file(dir, "empty", 0, b"");
    world.tree.link(Tree::ROOT, name("a-link"), a).unwrap();
    let sparse = world.sparse(1, 1 << 20, &[(8192, noise(4, 10_000))]);
    world.add(dir, "sparse", NodeKind::File(sparse));
    world.add(Tree::ROOT, "s", NodeKind::Symlink(b"dir/a".to_vec()));
    world.add(Tree::ROOT, "s-long", NodeKind::Symlink(vec![b'x'; 4095]));
    let device = Device {
        major: 8,
        minor: 257,
    };
    world.add(Tree::ROOT, "block", NodeKind::BlockDevice(device));
    world.add(Tree::ROOT, "char", NodeKind::CharDevice(device));
    world.add(Tree::ROOT, "fifo", NodeKind::Fifo);
    world.add(Tree::ROOT, "socket", NodeKind::Socket);
    let big = world.dir(Tree::ROOT, "big");
    for i in 0..300 {
        world.file(big, format!("{i:0100}"), 0, b"x");
    }
    world.tree.meta_mut(a).xattrs = xattrs(&[("security.capability", b"cap"), ("user.x", b"")]);
    world
}

pub(crate) fn sample_builder() -> FlistBuilder {
    let (mut builder, _) = sample().finish();
    builder.meta.stores = vec!["dir:///store".into()];
    builder.meta.tags.insert("tag".into(), "value".into());
    builder.profile = Some(Profile {
        source: ProfileSource::Recorded,
        ranges: vec![ProfileRange {
            blob: 1,
            first_entry: 0,
            count: 1,
        }],
    });
    builder.hints = Some(sample_hints());
    builder
}

fn range(blob: u16, first_entry: u32, count: u32) -> ProfileRange {
    ProfileRange {
        blob,
        first_entry,
        count,
    }
}

/// Files with several ranges, with none, and with the same content.
fn sample_hints() -> HintTable {
    let file = |ranges: &[ProfileRange], needs: &[u32]| HintFile {
        ranges: ranges.to_vec(),
        needs: needs.to_vec(),
    };
    HintTable {
        files: vec![
            file(&[range(1, 0, 1), range(0, 1, 1)], &[3, 1, 0]),
            file(&[], &[2]),
            file(&[range(0, 0, 1)], &[]),
            file(&[range(0, 0, 1)], &[2]),
        ],
    }
}

#[test]
fn bytes_of_a_fixed_tree_never_change() {
    // A change here is a break of the format: raise its version.
    let head = sample_builder().build().unwrap();
    assert_eq!(head.digest.to_string(), GOLDEN_HINTED);
    let mut builder = sample_builder();
    builder.hints = None;
    let head = builder.build().unwrap();
    assert_eq!(head.digest.to_string(), GOLDEN_SAMPLE);
    let empty = World::new(0).finish().0.build().unwrap();
    assert_eq!(empty.digest.to_string(), GOLDEN_EMPTY);
    assert_eq!(empty.bytes.len(), 4096 + 16 + 2);
}

#[test]
fn metadata_and_profile_come_back() {
    let builder = sample_builder();
    let (meta, profile) = (builder.meta.clone(), builder.profile.clone());
    let flist = open(builder.build().unwrap());
    assert_eq!(flist.meta(), &meta);
    assert_eq!(flist.profile(), profile);
}

#[test]
fn hints_are_read_in_place() {
    let builder = sample_builder();
    let table = builder.hints.clone().unwrap();
    let flist = open(builder.build().unwrap());
    flist.check(&Limits::default()).unwrap();
    let hints = flist.hints().unwrap();
    assert_eq!(hints.to_table(), table);
    assert_eq!((hints.len(), hints.is_empty()), (4, false));
    assert_eq!(hints.ranges(0).collect::<Vec<_>>(), table.files[0].ranges);
    assert_eq!(hints.needs(0).collect::<Vec<_>>(), [3, 1, 0]);
    assert_eq!((hints.ranges(1).len(), hints.needs(4).len()), (0, 0));
    let at = |blob, entry| hints.file_at(blob, entry);
    // Of files with the same content, the first.
    assert_eq!((at(0, 0), at(0, 1), at(1, 0)), (Some(2), Some(0), Some(0)));
    assert_eq!((at(0, 2), at(1, 1), at(2, 0)), (None, None, None));
    assert_eq!(at(u16::MAX, u32::MAX), None);
}

#[test]
fn hints_may_be_empty_or_absent() {
    let (mut builder, _) = World::new(0).finish();
    let plain = open(builder.clone().build().unwrap());
    assert!(plain.hints().is_none());
    builder.hints = Some(HintTable::default());
    let flist = open(builder.build().unwrap());
    flist.check(&Limits::default()).unwrap();
    let hints = flist.hints().unwrap();
    assert!(hints.is_empty() && hints.file_at(0, 0).is_none());
}

#[test]
fn hints_over_the_limits_are_not_built() {
    let limits = |files, edges| Limits {
        hint_files_max: files,
        hint_edges_max: edges,
        ..Limits::default()
    };
    let flist = open(sample_builder().build().unwrap());
    flist.check(&limits(4, 5)).unwrap();
    for limits in [limits(3, 5), limits(4, 4)] {
        let refused = flist.check(&limits).unwrap_err();
        assert!(matches!(refused, FlistError::Limit { .. }));
        let mut builder = sample_builder();
        builder.limits = limits;
        let built = builder.build().unwrap_err();
        let lamina_flist::BuildError::BadTables(built) = built else {
            panic!("{built}");
        };
        assert_eq!(built, refused);
    }
}

#[test]
fn tables_come_back() {
    let builder = sample_builder();
    let (chunks, packs, blobs) = (
        builder.chunks.clone(),
        builder.packs.clone(),
        builder.blobs.clone(),
    );
    let flist = open(builder.build().unwrap());
    assert_eq!(flist.chunks().collect::<Vec<_>>(), chunks);
    assert_eq!(flist.packs().collect::<Vec<_>>(), packs);
    assert_eq!(flist.blob_count(), 2);
    for (i, layout) in blobs.iter().enumerate() {
        let info = flist.blob(i).unwrap();
        assert_eq!(info.len, layout.len);
        assert!(
            flist
                .blob_entries(i)
                .unwrap()
                .eq(layout.entries.iter().copied())
        );
        let map = flist.blob_map_bytes(i).unwrap();
        assert_eq!(layout.map_bytes(&chunks).unwrap(), map);
        let map = lamina_flist::BlobMap::parse(map).unwrap();
        assert_eq!((map.blob_id(), map.blob_len()), (info.id, info.len));
    }
    assert_eq!(
        (flist.blob(2), flist.chunk(999), flist.pack(9)),
        (None, None, None)
    );
}

#[test]
fn rewriting_metadata_keeps_tree_and_tables() {
    let flist = open(sample_builder().build().unwrap());
    let mut meta = FlistMeta::default();
    meta.tags.insert("new".into(), "tag".into());
    let new = open(flist.rewrite(&meta, None).unwrap());
    assert_eq!((new.meta(), new.profile()), (&meta, None));
    assert_eq!(new.hints().unwrap().to_table(), sample_hints());
    assert!(new.to_tree().unwrap() == flist.to_tree().unwrap());
    new.verify_sections().unwrap();
    new.check(&Limits::default()).unwrap();
    let same = flist
        .rewrite(flist.meta(), flist.profile().as_ref())
        .unwrap();
    assert_eq!(same.digest, flist.digest());
}

#[test]
fn a_layer_carries_its_packs() {
    let packs = [noise(7, 5000), noise(8, 300)];
    let (mut builder, _) = World::new(0).finish();
    let mut at = 0;
    for bytes in &packs {
        builder.packs.push(PackRecord {
            id: PackId::of(bytes),
            sha256: Sha256Digest::from_bytes([0; 32]),
            len: bytes.len() as u64,
            embedded_at: Some(at),
        });
        at += bytes.len() as u64;
    }
    let all = packs.concat();
    builder.is_layer = true;
    builder.embedded = Some(EmbeddedPacks {
        len: all.len() as u64,
        digest: *blake3::hash(&all).as_bytes(),
    });
    builder.hints = Some(HintTable::default());
    builder.extra = vec![ExtraSection {
        kind: 99,
        bytes: b"behind the packs".to_vec(),
    }];
    let head = builder.build().unwrap();
    assert_eq!(head.tail.len(), 24 + 16);
    let mut bytes = head.bytes.clone();
    assert!(
        Flist::parse(Bytes::from(bytes.clone())).is_err(),
        "packs are missing"
    );
    bytes.extend_from_slice(&all);
    let last = bytes.len() - 1;
    bytes.extend_from_slice(&head.tail);
    let layer = Flist::parse(Bytes::from(bytes.clone())).unwrap();
    assert_eq!(layer.extra_sections()[0].bytes, b"behind the packs");
    let same = layer.rewrite(layer.meta(), None).unwrap();
    assert_eq!(same, head);
    assert_eq!(layer.digest(), head.digest);
    layer.verify_sections().unwrap();
    layer.check(&Limits::default()).unwrap();
    assert_eq!(layer.embedded_packs().unwrap(), all);
    let start = layer.embedded_offset().unwrap() + layer.pack(1).unwrap().embedded_at.unwrap();
    assert_eq!(bytes[start as usize..][..300], packs[1]);
    bytes[last] ^= 1;
    let damaged = Flist::parse(Bytes::from(bytes)).unwrap();
    assert_eq!(damaged.verify_sections(), Err(FlistError::SectionDigest(7)));
    damaged.verify_metadata().unwrap();
}

#[test]
fn a_layer_of_small_files_only_has_no_blob() {
    let mut world = World::new(3);
    world.file(Tree::ROOT, "small", 0, b"x");
    world.file(Tree::ROOT, "large", 2, &noise(1, 5000));
    let (mut builder, _) = world.finish();
    builder.profile = Some(Profile {
        source: ProfileSource::Static,
        ranges: vec![range(2, 0, 1)],
    });
    builder.hints = Some(HintTable {
        files: vec![HintFile {
            ranges: vec![range(2, 0, 1)],
            needs: Vec::new(),
        }],
    });
    let flist = open(builder.build().unwrap());
    assert_eq!(flist.blob_count(), 1);
    assert_eq!(flist.profile().unwrap().ranges[0].blob, 0);
    assert_eq!(flist.hints().unwrap().file_at(0, 0), Some(0));
    flist.check(&Limits::default()).unwrap();
    let inode = flist
        .resolve(b"large", lamina_flist::FollowSymlinks::Always)
        .unwrap();
    let span = flist.span_at(&inode, 4999).unwrap().unwrap();
    assert_eq!(
        span.source,
        lamina_flist::SpanSource::Blob { blob: 0, offset: 0 }
    );
}

#[test]
fn truncation_at_every_byte_is_an_error() {
    let bytes = sample_builder().build().unwrap().bytes;
    for len in 0..bytes.len() {
        let cut = Bytes::copy_from_slice(&bytes[..len]);
        assert!(Flist::parse(cut).is_err(), "{len} of {}", bytes.len());
    }
    let longer = [bytes.as_slice(), b"\0"].concat();
    assert!(matches!(
        Flist::parse(longer.into()),
        Err(FlistError::LengthMismatch { .. })
    ));
}

fn damage_is_found(bytes: &[u8], digest: FlistDigest) -> bool {
    let Ok(flist) = Flist::parse(Bytes::copy_from_slice(bytes)) else {
        return true;
    };
    // Not by its name: the file alone must show it.
    assert!(bytes[..1024].len() == 1024 && flist.digest() == digest);
    flist.verify_sections().is_err()
}

#[test]
fn every_single_flipped_byte_is_found() {
    let head = sample_builder().build().unwrap();
    let mut bytes = head.bytes;
    // The first block (header, superblock, devices) and all tables byte by
    // byte; of the rest of the tree, which one digest covers, a sample.
    let tree_end = Flist::parse(bytes.clone().into()).unwrap();
    let tree_end = bytes.len() - table_bytes(&tree_end);
    let rest = (4096..tree_end).step_by(61);
    for at in (0..4096).chain(rest).chain(tree_end..bytes.len()) {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            assert!(
                damage_is_found(&bytes, head.digest),
                "byte {at} ^ {flip:#x}"
            );
            bytes[at] ^= flip;
        }
    }
}

fn table_bytes(flist: &Flist) -> usize {
    let entries: usize = (0..flist.blob_count())
        .map(|i| flist.blob_entries(i).unwrap().len())
        .sum();
    16 + flist.blob_count() * 56
        + entries * 16
        + flist.chunk_count() * 56
        + flist.pack_count() * 80
        + flist.meta().to_json().len()
        + flist.profile().map_or(0, |p| 8 + p.ranges.len() * 12)
        + flist.hints().map_or(0, |_| 24 + 4 * 8 + 4 * 16 + 5 * 4)
}

const GOLDEN_HINTED: &str = "a74dd9a33059b188b2ef274709903ecf846af1e8c5bc881489fce6dad5023a14";
const GOLDEN_SAMPLE: &str = "8fbf9ecc7729c2e1f7c51b9754783bdbfc8aa9bf3c77306d7361ce8ac62a6246";
const GOLDEN_EMPTY: &str = "3403daa76beedc80fd6b4a1de4efd3d3b51077054618aa85ca58cf080e05e893";
