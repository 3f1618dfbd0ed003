use super::*;
use crate::tree::FileContent;
use crate::{Device, EntryName, Timestamp};

fn name(text: &str) -> EntryName {
    EntryName::try_from(text).unwrap()
}

/// The time that marks everything made from `text`.
fn seconds(text: &str) -> i64 {
    i64::try_from(text.len()).unwrap()
}

/// Builds a tree from lines: `d path`, `f path content`, `w path`, `o path`
/// (opaque directory), `i path` (implicit directory), `s path target`,
/// `h path existing`, `l path lower-path`, `c path`.
fn tree(text: &str) -> Tree {
    let mut tree = Tree::new(Metadata::default());
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or("");
        let (kind, path, argument) = (word(), word(), word());
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = tree.resolve(parent.as_bytes()).unwrap();
        let kind_of = match kind {
            "d" | "o" | "i" => NodeKind::directory(),
            "f" => NodeKind::File(FileContent::inline(argument)),
            "w" => NodeKind::Whiteout,
            "s" => NodeKind::Symlink(argument.into()),
            "l" => NodeKind::LinkTo(argument.into()),
            "c" => NodeKind::CharDevice(Device { major: 1, minor: 3 }),
            "h" => {
                let existing = tree.resolve(argument.as_bytes()).unwrap();
                tree.link(parent, name(last), existing).unwrap();
                continue;
            }
            other => panic!("{other}"),
        };
        let meta = Metadata {
            // So that a test sees whose metadata won.
            mtime: Timestamp {
                secs: seconds(text),
                nanos: 0,
            },
            ..Metadata::default()
        };
        let id = tree
            .insert(
                parent,
                name(last),
                Node {
                    meta,
                    kind: kind_of,
                },
            )
            .unwrap();
        tree.set_opaque(id, kind == "o");
        tree.set_implicit(id, kind == "i");
    }
    tree
}

fn show(tree: &Tree) -> Vec<String> {
    let line = |(path, id): (Vec<u8>, NodeId)| {
        let path = String::from_utf8(path).unwrap();
        match &tree.node(id).kind {
            NodeKind::Directory(directory) => {
                assert!(!directory.opaque && !directory.implicit, "{path}");
                format!("{path}/")
            }
            NodeKind::File(file) => format!("{path}={file:?}")
                .replace("FileContent { size: ", "")
                .replace(", data: Inline", "")
                .replace(" }", ""),
            kind => format!("{path} {kind:?}"),
        }
    };
    tree.walk().skip(1).map(line).collect()
}

fn merged(lower: &str, upper: &str) -> Result<Tree, MergeError> {
    merge_all([&tree(lower), &tree(upper)])
}

fn paths(tree: &Tree) -> String {
    let text = |(path, _)| String::from_utf8(path).unwrap();
    tree.walk().skip(1).map(text).collect::<Vec<_>>().join(" ")
}

#[test]
fn upper_files_hide_lower_ones_and_directories_merge() {
    let tree = merged("d d\nf d/a 1\nf d/b 1", "d d\nf d/b 22\nf d/c 3").unwrap();
    assert_eq!(
        show(&tree),
        ["d/", "d/a=1([49])", "d/b=2([50, 50])", "d/c=1([51])"]
    );
}

#[test]
fn a_merged_directory_has_the_upper_metadata_unless_it_is_implicit() {
    let lower = "d d\nf d/a 1";
    let of = |upper: &str| {
        let tree = merged(lower, upper).unwrap();
        tree.node(tree.resolve(b"d").unwrap()).meta.mtime.secs
    };
    assert_eq!(of("d d\nf d/some-file 1"), seconds("d d\nf d/some-file 1"));
    assert_eq!(of("i d\nf d/some-file 1"), seconds(lower));
    let new = merged("f x 1", "i d\nf d/x 1").unwrap();
    assert_eq!(paths(&new), "d d/x x");
}

#[test]
fn whiteouts_hide_files_and_whole_directories_and_vanish() {
    let lower = "d d\nf d/a 1\nd d/e\nf d/e/x 1\nf f 1";
    assert_eq!(paths(&merged(lower, "d d\nw d/e\nw f").unwrap()), "d d/a");
    assert_eq!(paths(&merged(lower, "w d\nw nothing").unwrap()), "f");
    assert_eq!(paths(&merged("w x\nd d\nw d/y", "f z 1").unwrap()), "d z");
}

#[test]
fn opaque_directory_hides_lower_entries() {
    let lower = "d d\nf d/a 1\nd d/e\nf d/e/x 1";
    assert_eq!(paths(&merged(lower, "o d\nf d/b 1").unwrap()), "d d/b");
    assert_eq!(paths(&merged(lower, "d d\no d/e").unwrap()), "d d/a d/e");
}

#[test]
fn type_changes_replace_the_whole_subtree() {
    let lower = "d d\nf d/a 1\nf f 1";
    assert_eq!(
        show(&merged(lower, "f d 1\nd f\nf f/x 1").unwrap()),
        ["d=1([49])", "f/", "f/x=1([49])"]
    );
    let tree = merged(lower, "s d f\nc f").unwrap();
    assert_eq!(paths(&tree), "d f");
    assert_eq!(tree.nlink(Tree::ROOT), 2);
}

#[test]
fn hard_links_of_a_layer_stay_one_inode() {
    let tree = merged("f old 1", "d d\nf d/a 1\nh b d/a").unwrap();
    assert_eq!(tree.resolve(b"b"), tree.resolve(b"d/a"));
    assert_eq!(tree.nlink(tree.resolve(b"b").unwrap()), 2);
    // Hiding one name of a lower inode leaves the other.
    let tree = merged("f a 1\nh b a", "f a 22").unwrap();
    assert_eq!(show(&tree), ["a=2([50, 50])", "b=1([49])"]);
    assert_eq!(tree.nlink(tree.resolve(b"b").unwrap()), 1);
}

#[test]
fn links_to_lower_layers_become_hard_links() {
    let tree = merged("d d\nf d/a 1", "l b d/a").unwrap();
    assert_eq!(tree.resolve(b"b"), tree.resolve(b"d/a"));
    // The target may be hidden by the same layer: the inode lives on.
    let tree = merged("d d\nf d/a 1", "w d\nl b d/a").unwrap();
    assert_eq!(show(&tree), ["b=1([49])"]);
    assert_eq!(tree.nlink(tree.resolve(b"b").unwrap()), 1);
    // A symlink is linked, not followed; one on the way is followed.
    let tree = merged("s s x\nd real\nf real/f 1\ns dir real", "l t s\nl g dir/f").unwrap();
    assert_eq!(tree.resolve(b"t"), tree.resolve(b"s"));
    assert_eq!(tree.resolve(b"g"), tree.resolve(b"real/f"));
}

#[test]
fn links_that_lead_nowhere_are_named() {
    let error = |lower, upper| merged(lower, upper).unwrap_err();
    let dangling = |target: &str| MergeError::DanglingLink {
        target: target.into(),
    };
    assert_eq!(error("f a 1", "l b x"), dangling("x"));
    assert_eq!(error("s a a", "l b a/x"), dangling("a/x"));
    assert_eq!(
        error("f a 1", "l b a/../../etc/passwd"),
        dangling("a/../../etc/passwd")
    );
    assert_eq!(
        error("d a", "l b a"),
        MergeError::LinkToDirectory { target: "a".into() }
    );
}

#[test]
fn three_layers_fold_from_the_lowest() {
    let layers = [tree("d d\nf d/a 1"), tree("w d"), tree("d d\nf d/b 1")];
    assert_eq!(paths(&merge_all(&layers).unwrap()), "d d/b");
}
