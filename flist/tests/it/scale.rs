//! Big trees stay linear.

use lamina_flist::{Limits, NodeKind, Tree};

use crate::support::{World, noise, open};

/// 1,000 directories of `per` entries each.
fn many(per: usize) -> World {
    let mut world = World::new(1);
    world.file(Tree::ROOT, "data", 0, &noise(1, 10_000));
    for d in 0..1000 {
        let dir = world.dir(Tree::ROOT, format!("directory-{d}"));
        for i in 0..per {
            world.file(dir, format!("file-{i}.py"), 0, b"inline content of a file");
        }
    }
    world
}

#[test]
fn a_hundred_thousand_entries_come_back() {
    let mut world = many(90);
    let big = world.dir(Tree::ROOT, "one-of-ten-thousand");
    for i in 0..10_000 {
        world.file(big, format!("{i:x}"), 0, b"");
    }
    let tree = world.tree.clone();
    let flist = open(world.finish().0.build().unwrap());
    let summary = flist.check(&Limits::default()).unwrap();
    assert_eq!((summary.files, summary.directories), (100_001, 1002));
    assert!(flist.to_tree().unwrap() == tree);
    // 64 bytes of inode, 24 of data, some 25 of entry, and what does not fit
    // the end of a block.
    assert!(
        flist.as_bytes().len() < 100_000 * 145,
        "{}",
        flist.as_bytes().len()
    );
}

#[test]
fn inodes_of_a_directory_are_next_to_each_other() {
    let flist = open(many(100).finish().0.build().unwrap());
    let root = flist.root().unwrap();
    let dir = flist.lookup(&root, b"directory-7").unwrap().unwrap().nid;
    let dir = flist.inode(dir).unwrap();
    let nids: Vec<_> = flist.read_dir(&dir).map(|e| e.unwrap().nid).collect();
    assert!(nids.is_sorted());
    let blocks = (nids[99] - nids[0]) * 32 / 4096;
    assert!(blocks <= 3, "100 inodes of 96 bytes span {blocks} blocks");
}

#[test]
fn a_path_at_the_limit_is_taken_and_one_beyond_is_not() {
    let deep = |names: usize| {
        let mut world = World::new(0);
        let mut at = Tree::ROOT;
        for _ in 0..names {
            at = world.dir(at, "d");
        }
        world.add(at, "f", NodeKind::Fifo);
        world.finish().0.build()
    };
    let flist = open(deep(2047).unwrap());
    let summary = flist.check(&Limits::default()).unwrap();
    assert_eq!(summary.depth, 2048);
    assert_eq!(flist.to_tree().unwrap().len(), 2049);
    let error = deep(2048).unwrap_err();
    assert!(matches!(error, lamina_flist::BuildError::TooDeep(_)));
}

/// By hand: `cargo test -p lamina-flist --release -- --ignored million --nocapture`.
#[test]
#[ignore = "prints figures; run by hand in release mode"]
fn a_million_entries() {
    let world = many(1000);
    let clock = std::time::Instant::now();
    let step = |what: &str| eprintln!("{:>8.3} s  {what}", clock.elapsed().as_secs_f64());
    let (builder, _) = world.finish();
    step("tree is ready");
    let head = builder.build().unwrap();
    step("built");
    let flist = open(head);
    step("opened");
    flist.verify_sections().unwrap();
    step("sections verified");
    let summary = flist.check(&Limits::default()).unwrap();
    step("checked");
    let tree = flist.to_tree().unwrap();
    step("in memory again");
    assert_eq!(tree.len() as u64, summary.inodes);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    eprintln!("{} bytes, {peak}", flist.as_bytes().len());
}
