//! What a start read on one node is what another one fetches first.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use lamina_proto::lamina::v1::Volume;

use super::nodes::{Cluster, Discovery, Image, Node, Shape};
use super::turn;
use crate::machine::wait_until;

/// What a start reads of each file.
const START_BYTES: usize = 512 << 10;

fn read_start(root: &Path, image: &Image) {
    for (name, bytes) in image.files.iter() {
        let mut got = vec![0; START_BYTES];
        let file = File::open(root.join(name)).unwrap();
        file.read_exact_at(&mut got, 0).unwrap();
        assert_eq!(got, bytes[..START_BYTES], "{name}");
    }
}

fn volume(node: &Node) -> Volume {
    let mut volumes = node.volumes();
    assert_eq!(volumes.len(), 1);
    volumes.remove(0)
}

/// Mounts an image where it never was: what is fetched before anybody reads is what the first start read, and is read.
fn follows(node: &Node, image: &Image) {
    let root = node.publish_and_follow("v", image);
    let follows = || {
        let volume = volume(node);
        volume.profile == "shared" && volume.bytes_prefetched >= image.bytes() / 8
    };
    assert!(wait_until(follows), "{:?}", volume(node));
    let before = volume(node);
    assert_eq!(before.reads_failed, 0, "{}", before.last_error);
    read_start(&root, image);
    let is_used = || volume(node).bytes_prefetched_used > before.bytes_prefetched_used;
    assert!(wait_until(is_used), "{:?}", volume(node));
    let after = volume(node);
    assert!(after.bytes_prefetched_used <= after.bytes_prefetched);
    assert_eq!(after.profile, "shared");
}

#[test]
fn what_one_node_started_another_one_follows_also_after_discovery_started_again() {
    let _turn = turn();
    let mut cluster = Cluster::start(Shape {
        nodes: 3,
        ..Shape::default()
    });
    let image = cluster.registry.push("t", 3, 2 << 20);
    let first = &cluster.nodes[0];
    let root = first.publish("v", &image).unwrap();
    assert_ne!(volume(first).profile, "shared", "nobody started it before");
    read_start(&root, &image);
    first.unpublish("v");
    cluster.wait_for_profiles(1);
    follows(&cluster.nodes[1], &image);

    // All that discovery knew is gone; the node that learnt it, and keeps it, tells it again.
    cluster.discoveries.iter_mut().for_each(Discovery::kill);
    cluster.discoveries.iter_mut().for_each(Discovery::spawn);
    cluster.wait_for_nodes(3);
    cluster.wait_for_profiles(1);
    follows(&cluster.nodes[2], &image);
}
