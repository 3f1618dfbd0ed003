//! The start-up closure: ELF files, scripts and Python sources of an image, and
//! its config. Every file of the image has the fuzzer's bytes.

use std::collections::BTreeMap;

use lamina_flist::{EntryName, FileContent, Metadata, Node, NodeId, NodeKind, Timestamp, Tree};
use lamina_image::closure::{Graph, Scans};
use serde_json::json;

const FILES: [&str; 9] = [
    "app/main",
    "app/main.py",
    "etc/ld.so.conf",
    "etc/ld.so.conf.d/a.conf",
    "lib64/ld-linux-x86-64.so.2",
    "usr/bin/python3",
    "usr/lib/libc.so.6",
    "usr/lib/python3.11/os.py",
    "usr/lib/python3.11/site-packages/a/__init__.py",
];

pub(crate) fn run(data: &[u8]) {
    let tree = tree(data);
    let scans = Scans::parse(data);
    let mut configs = vec![
        json!({"config": {"Entrypoint": ["/app/main"], "Env": ["LD_LIBRARY_PATH=/usr/lib"]}}),
        json!({"config": {"Cmd": ["python3", "main.py", "-m", "a"], "WorkingDir": "/app"}}),
    ];
    configs.extend(serde_json::from_slice(data));
    let scans = Vec::from_iter(scans);
    for config in configs {
        let graph = Graph::new(&tree, &scans, &config);
        for needed in graph.closure() {
            assert!(needed.range.start <= needed.range.end, "{needed:?}");
            assert!(needed.range.end <= data.len() as u64, "{needed:?}");
        }
        // Nothing is in a blob.
        assert_eq!(graph.hints(&tree, &[]), None);
    }
}

fn tree(data: &[u8]) -> Tree {
    let mut tree = Tree::new(meta());
    for path in FILES {
        let (parents, name) = path.rsplit_once('/').expect("has a parent");
        let mut at = Tree::ROOT;
        for parent in parents.split('/') {
            at = match tree.lookup(at, parent.as_bytes()) {
                Some(found) => found,
                None => add(&mut tree, at, parent, NodeKind::directory()),
            };
        }
        add(
            &mut tree,
            at,
            name,
            NodeKind::File(FileContent::inline(data)),
        );
    }
    tree
}

fn add(tree: &mut Tree, parent: NodeId, name: &str, kind: NodeKind) -> NodeId {
    let name = EntryName::new(name.as_bytes()).expect("a name");
    let meta = meta();
    tree.insert(parent, name, Node { meta, kind })
        .expect("fits")
}

fn meta() -> Metadata {
    Metadata {
        perm: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { secs: 0, nanos: 0 },
        xattrs: BTreeMap::new(),
    }
}
