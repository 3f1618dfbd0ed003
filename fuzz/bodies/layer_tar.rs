//! A layer's tar: read as it is and with all header checksums made right. What
//! is accepted must merge, and build a flist that is as strict as any other.

use bytes::Bytes;
use lamina_flist::{FileData, Flist, FlistBuilder, Limits, NodeKind, Tree, merge_all};
use lamina_image::TarLimits;
use lamina_image::layer::{BoxError, ChunkSink, read_layer};

const BLOCK: usize = 512;

/// Takes everything, keeps nothing.
struct Discard;

impl ChunkSink for Discard {
    fn push(&mut self, _: Vec<u8>) -> Result<(), BoxError> {
        Ok(())
    }
}

pub(crate) fn run(data: &[u8]) {
    let limits = TarLimits {
        entries_max: 2000,
        extension_bytes_max: 64 << 10,
        file_bytes_max: 1 << 40,
        sparse_segments_max: 1000,
        ..TarLimits::default()
    };
    read(data, &limits);
    read(&repaired(data), &limits);
}

/// Every block that may be a header gets the checksum that fits it.
fn repaired(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

fn read(mut data: &[u8], limits: &TarLimits) {
    let mut entries = 0;
    let Ok(draft) = read_layer(&mut data, limits, &mut Discard, |n| entries = n) else {
        return;
    };
    assert_eq!(entries, draft.stats.entries);
    assert!(draft.stats.notes.len() as u64 <= draft.stats.notes_total);
    let layer = without_large_files(draft.tree());
    build(layer.clone(), true);
    if let Ok(merged) = merge_all([&layer, &layer]) {
        build(merged, false);
    }
}

/// The tree as it is once content has its place; here larger files become
/// holes, since their chunks are gone.
fn without_large_files(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    let files: Vec<_> = tree.walk().map(|(_, id)| id).collect();
    for id in files {
        if let Some(file) = tree.file_mut(id) {
            file.data = match file.size {
                0 => FileData::Inline(Vec::new()),
                _ => FileData::Sparse {
                    blob: 0,
                    segments: Vec::new(),
                },
            };
        }
    }
    tree
}

fn build(tree: Tree, is_layer: bool) {
    let mut builder = FlistBuilder::new(tree);
    builder.is_layer = is_layer;
    let tree = builder.tree.clone();
    // What a flist cannot hold is refused: attributes, paths that links made long.
    let Ok(head) = builder.build() else { return };
    let flist = Flist::parse(Bytes::from(head.bytes)).expect("what was built is a flist");
    flist.check(&Limits::default()).expect("and is strict");
    let back = flist.to_tree().expect("and a tree");
    let whiteouts = |tree: &Tree| {
        tree.walk()
            .filter(|(_, id)| matches!(tree.node(*id).kind, NodeKind::Whiteout))
            .count()
    };
    assert_eq!(
        (back.len(), whiteouts(&back)),
        (tree.len(), whiteouts(&tree))
    );
    assert!(
        is_layer || whiteouts(&back) == 0,
        "a merged tree has no whiteout"
    );
}
