//! Layers -> trees: normal ones here, hostile ones in `tests/hostile.rs`.

use std::io::BufReader;

use lamina_flist::{NodeKind, Tree};

use super::*;
use crate::limits::TarLimits;
use crate::tar::testing::{Raw, archive, pax};

fn read(raws: &[Raw]) -> Result<LayerDraft, LayerError> {
    let bytes = archive(raws);
    let mut input = BufReader::new(&bytes[..]);
    read_layer(
        &mut input,
        &TarLimits::default(),
        &mut MemorySink::default(),
        |_| {},
    )
}

/// `path` and a letter for the kind, sorted.
fn listing(tree: &Tree) -> Vec<String> {
    tree.walk()
        .map(|(path, id)| {
            let kind = match &tree.node(id).kind {
                NodeKind::Directory(d) if d.opaque => "D!".to_owned(),
                NodeKind::Directory(_) => "D".to_owned(),
                NodeKind::File(f) => format!("F{}", f.size),
                NodeKind::Symlink(to) => format!("L{}", String::from_utf8_lossy(to)),
                NodeKind::Whiteout => "W".to_owned(),
                NodeKind::LinkTo(to) => format!("H{}", String::from_utf8_lossy(to)),
                NodeKind::CharDevice(_) | NodeKind::BlockDevice(_) => "V".to_owned(),
                NodeKind::Fifo => "P".to_owned(),
                NodeKind::Socket => "S".to_owned(),
            };
            format!("{} {kind}", String::from_utf8_lossy(&path))
        })
        .collect()
}

fn tree(raws: &[Raw]) -> Vec<String> {
    listing(&read(raws).unwrap().tree)[1..].to_vec()
}

#[test]
fn later_entries_replace_earlier_ones() {
    let dir = |n: &[u8]| Raw::new(n, b'5');
    assert_eq!(
        tree(&[Raw::file(b"a", b"1"), Raw::file(b"a", b"22")]),
        ["a F2"]
    );
    // A directory over a directory keeps its entries, a file takes them away.
    assert_eq!(
        tree(&[Raw::file(b"d/x", b"1"), dir(b"d/")]),
        ["d D", "d/x F1"]
    );
    assert_eq!(
        tree(&[Raw::file(b"d/x", b"1"), Raw::file(b"d", b"1")]),
        ["d F1"]
    );
    // The directory took a file's place, which hid the lower directory.
    assert_eq!(tree(&[Raw::file(b"d", b"1"), dir(b"d")]), ["d D!"]);
}

#[test]
fn whiteouts_hide_lower_layers_only_whatever_the_order() {
    let wh = |n: &[u8]| Raw::file(n, b"");
    assert_eq!(tree(&[wh(b"d/.wh.x")]), ["d D", "d/x W"]);
    for raws in [
        [wh(b".wh.x"), Raw::file(b"x", b"1")],
        [Raw::file(b"x", b"1"), wh(b".wh.x")],
    ] {
        assert_eq!(tree(&raws), ["x F1"]);
    }
    for raws in [
        [wh(b".wh.d"), Raw::file(b"d/y", b"1")],
        [Raw::file(b"d/y", b"1"), wh(b".wh.d")],
    ] {
        assert_eq!(tree(&raws), ["d D!", "d/y F1"]);
    }
    assert_eq!(
        tree(&[wh(b"d/.wh..wh..opq"), Raw::file(b"d/y", b"1")]),
        ["d D!", "d/y F1"]
    );
}

#[test]
fn entries_below_a_link_land_where_it_points_inside_the_root() {
    let sym = |n: &[u8], to: &[u8]| Raw::link(n, b'2', to);
    let below = |link: &[u8]| vec![sym(b"l", link), Raw::file(b"l/x", b"1")];
    assert_eq!(
        tree(&below(b"usr/lib")),
        ["l Lusr/lib", "usr D", "usr/lib D", "usr/lib/x F1"]
    );
    assert_eq!(tree(&below(b"/abs")), ["abs D", "abs/x F1", "l L/abs"]);
    assert_eq!(
        tree(&below(b"../../../etc")),
        ["etc D", "etc/x F1", "l L../../../etc"]
    );
    assert_eq!(tree(&below(b"/")), ["l L/", "x F1"]);
}

#[test]
fn hard_links_share_a_node_or_point_below() {
    let hard = |n: &[u8], to: &[u8]| Raw::link(n, b'1', to);
    let draft = read(&[Raw::file(b"a", b"1"), hard(b"b", b"./a")]).unwrap();
    assert_eq!(draft.tree.resolve(b"a"), draft.tree.resolve(b"b"));
    assert_eq!(draft.tree.nlink(draft.tree.resolve(b"a").unwrap()), 2);
    assert_eq!(tree(&[hard(b"b", b"/lower/a")]), ["b Hlower/a"]);
    // Twice the same name is what some writers do.
    let raws = [Raw::file(b"a", b"1"), hard(b"b", b"a"), hard(b"b", b"a")];
    assert_eq!(tree(&raws), ["a F1", "b F1"]);
}

#[test]
fn overlay_xattrs_are_dropped_and_reported() {
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.com.apple.x", b"1"),
        ("SCHILY.xattr.security.capability", b"cap"),
    ];
    let draft = read(&[pax(records), Raw::new(b"d", b'5')]).unwrap();
    let meta = &draft.tree.node(draft.tree.resolve(b"d").unwrap()).meta;
    assert_eq!(
        meta.xattrs.keys().collect::<Vec<_>>(),
        [b"security.capability"]
    );
    let notes: Vec<String> = draft.stats.notes.iter().map(Note::to_string).collect();
    assert_eq!(notes.len(), 3);
    assert!(
        notes.iter().any(|n| n.contains("trusted.overlay.opaque")),
        "{notes:?}"
    );
}

#[test]
fn content_is_inline_dense_or_sparse() {
    let big: Vec<u8> = (0..300_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.size", b"1000000"),
        ("GNU.sparse.map", b"5000,3,500000,4,503900,1"),
    ];
    let bytes = archive(&[
        Raw::file(b"small", b"abc"),
        Raw::file(b"big", &big),
        pax(sparse),
        Raw::file(b"holes", b"abcdefgh"),
    ]);
    let mut sink = MemorySink::default();
    let mut input = BufReader::with_capacity(4096, &bytes[..]);
    let draft = read_layer(&mut input, &TarLimits::default(), &mut sink, |_| {}).unwrap();
    let pending: Vec<&Pending> = draft.files.iter().map(|(_, p)| p).collect();
    assert_eq!(pending[0], &Pending::Inline(b"abc".to_vec()));
    let Pending::Dense(range) = pending[1] else {
        panic!("{:?}", pending[1])
    };
    let joined: Vec<u8> = sink.chunks[range.start as usize..range.end as usize].concat();
    assert!(joined == big);
    // Runs start on pages; 500000 and 503900 are on neighbouring ones, so one run.
    let Pending::Sparse(runs) = pending[2] else {
        panic!("{:?}", pending[2])
    };
    let at = |i: usize| (runs[i].0, &sink.chunks[runs[i].1.start as usize]);
    assert_eq!(runs.len(), 2);
    assert_eq!(at(0).0, 4096);
    assert_eq!(at(0).1[904..], b"abc"[..]);
    assert_eq!(at(1).0, 499_712);
    assert_eq!(at(1).1.len(), 288 + 3900 + 1);
    assert_eq!(at(1).1[288..292], b"defg"[..]);
    assert_eq!(at(1).1.last(), Some(&b'h'));
}
