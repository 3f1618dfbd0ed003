use super::*;

fn name(text: &str) -> EntryName {
    EntryName::try_from(text).unwrap()
}

fn node(kind: NodeKind) -> Node {
    let meta = Metadata::default();
    Node { meta, kind }
}

fn file(bytes: &[u8]) -> Node {
    node(NodeKind::File(FileContent::inline(bytes)))
}

fn paths(tree: &Tree) -> Vec<String> {
    let text = |(path, _)| String::from_utf8(path).unwrap();
    tree.walk().map(text).collect()
}

fn sample() -> (Tree, NodeId, NodeId) {
    let mut tree = Tree::new(Metadata::default());
    let dir = tree
        .insert(Tree::ROOT, name("dir"), node(NodeKind::directory()))
        .unwrap();
    let inner = tree.insert(dir, name("b"), file(b"1")).unwrap();
    tree.link(Tree::ROOT, name("a"), inner).unwrap();
    tree.insert(dir, name("a"), node(NodeKind::directory()))
        .unwrap();
    (tree, dir, inner)
}

#[test]
fn walk_is_pre_order_and_sorted_and_names_hard_links_each_time() {
    let (tree, _, _) = sample();
    assert_eq!(paths(&tree), ["", "a", "dir", "dir/a", "dir/b"]);
    assert_eq!(tree.len(), 4);
}

#[test]
fn link_counts_follow_names_and_subdirectories() {
    let (mut tree, dir, inner) = sample();
    assert_eq!([Tree::ROOT, dir, inner].map(|id| tree.nlink(id)), [3, 3, 2]);
    assert!(tree.remove(Tree::ROOT, b"a"));
    assert_eq!(tree.nlink(inner), 1);
    assert!(tree.remove(dir, b"a"));
    assert_eq!(tree.nlink(dir), 2);
}

#[test]
fn removing_a_directory_keeps_nodes_that_have_other_names() {
    let (mut tree, _, inner) = sample();
    assert!(tree.remove(Tree::ROOT, b"dir"));
    assert!(!tree.remove(Tree::ROOT, b"dir"));
    assert_eq!(paths(&tree), ["", "a"]);
    assert_eq!(
        (tree.len(), tree.nlink(inner), tree.nlink(Tree::ROOT)),
        (2, 1, 2)
    );
}

#[test]
fn changes_that_would_break_the_tree_are_refused() {
    let (mut tree, dir, inner) = sample();
    assert_eq!(
        tree.insert(inner, name("x"), file(b"")),
        Err(TreeError::NotADirectory(name("x")))
    );
    assert_eq!(
        tree.insert(dir, name("b"), file(b"")),
        Err(TreeError::Exists(name("b")))
    );
    assert_eq!(
        tree.link(dir, name("loop"), dir),
        Err(TreeError::LinkToDirectory(name("loop")))
    );
    let full = tree.node(dir).clone();
    assert_eq!(
        tree.insert(dir, name("copy"), full),
        Err(TreeError::NotEmpty(name("copy")))
    );
    assert_eq!(tree.len(), 4, "failed changes change nothing");
    assert_eq!(tree.nlink(dir), 3);
}

#[test]
fn resolve_stays_on_names() {
    let (tree, dir, inner) = sample();
    assert_eq!(tree.resolve(b""), Some(Tree::ROOT));
    assert_eq!(tree.resolve(b"/dir//./b"), Some(inner));
    assert_eq!(tree.resolve(b"dir/"), Some(dir));
    assert_eq!(tree.resolve(b"dir/.."), None);
    assert_eq!(tree.resolve(b"dir/b/x"), None);
}

#[test]
fn a_very_deep_tree_needs_no_stack() {
    let mut tree = Tree::new(Metadata::default());
    let mut at = Tree::ROOT;
    for _ in 0..200_000 {
        at = tree
            .insert(at, name("d"), node(NodeKind::directory()))
            .unwrap();
    }
    assert!(tree.remove(Tree::ROOT, b"d"));
    assert!(tree.is_empty());
}

#[test]
fn equality_sees_hard_link_topology() {
    let build = |linked: bool| {
        let mut tree = Tree::new(Metadata::default());
        let first = tree.insert(Tree::ROOT, name("a"), file(b"x")).unwrap();
        if linked {
            tree.link(Tree::ROOT, name("b"), first).unwrap();
            tree.insert(Tree::ROOT, name("c"), file(b"x")).unwrap();
        } else {
            tree.insert(Tree::ROOT, name("b"), file(b"x")).unwrap();
            tree.link(Tree::ROOT, name("c"), first).unwrap();
        }
        tree
    };
    assert_eq!(build(true), build(true));
    assert_ne!(build(true), build(false));
}
