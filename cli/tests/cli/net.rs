//! Clusters as they are run: eight nodes, two replicas of discovery and a registry, each a process of its own on a
//! machine of its own, on cables of 200 Mbit/s; mutual TLS. One cluster at a time.

mod bad_cables;
mod learned;
mod lost;
mod network;
mod nodes;
mod proxy;
mod readers;
mod registries;
mod renewed;

use std::sync::{Mutex, MutexGuard, PoisonError};

use nodes::{Cluster, Shape};
use readers::Readers;

/// As many as a busy machine has containers.
const READERS: usize = 64;
const ALL: [usize; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Two clusters at once would measure the machine.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn eight_nodes_read_an_image_that_the_registry_gave_once() {
    let _turn = turn();
    let cluster = Cluster::start(Shape::default());
    let image = cluster.registry.push("t", 6, 512 << 10);
    let mounted = cluster.publish(&ALL, "v", &image);
    assert_eq!(cluster.registry.reads(&image), [1; 6]);
    // Each can pass on to the others what it has of each layer so far.
    cluster.wait_for_parts(ALL.len() * 6);
    // From here on there are only nodes to read from.
    cluster.registry.place.cut();
    Readers::start(READERS, &mounted, &image.files, 1).end();
    let (fetched, from_peers) = cluster.fetched(&ALL);
    assert!(fetched >= 7 * image.bytes(), "{fetched}");
    assert!(from_peers > 0);
}
