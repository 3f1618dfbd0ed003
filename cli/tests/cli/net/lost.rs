//! Nodes and discovery are lost while others read.

use rustix::process::Signal;

use super::nodes::{Cluster, Discovery, Shape};
use super::readers::Readers;
use super::{READERS, turn};
use crate::machine::wait_until;

const SOURCES: [usize; 4] = [0, 1, 2, 3];
const READING: [usize; 4] = [4, 5, 6, 7];
/// How long discovery is away before anything is read, unless `LAMINA_TEST_AWAY_SECONDS` says otherwise: longer than who
/// has a layer is believed unasked.
const AWAY_SECONDS: u64 = 8;

#[test]
fn killed_stopped_and_unreachable_nodes_fail_no_read_while_one_source_lives() {
    let _turn = turn();
    let slow = Shape {
        mbit: 40,
        ..Shape::default()
    };
    let mut cluster = Cluster::start(slow);
    let image = cluster.registry.push("t", 6, 2 << 20);
    for node in SOURCES {
        cluster.nodes[node].pull(&image);
    }
    let mounted = cluster.publish(&READING, "v", &image);
    cluster.registry.place.cut();
    let readers = Readers::start(READERS, &mounted, &image.files, 2);
    let until = |cluster: &Cluster, nodes: &[usize], percent| {
        let all = nodes.len() as u64 * image.bytes();
        let come = || cluster.fetched(nodes).0 >= all * percent / 100;
        assert!(wait_until(come), "nothing is read any more");
    };
    until(&cluster, &READING, 10);
    cluster.nodes[0].kill();
    until(&cluster, &READING, 25);
    cluster.nodes[1].signal(Signal::STOP);
    until(&cluster, &READING, 40);
    cluster.nodes[2].place.cut();
    until(&cluster, &READING, 55);
    // One that comes back is a source again. One that reads is lost for the others, and its mounts are not.
    cluster.nodes[0].restart();
    cluster.nodes[4].kill();
    until(&cluster, &READING[1..], 70);
    let agent = cluster.nodes[5].machine.daemon("agent").unwrap();
    crate::machine::kill(agent);
    cluster.nodes[4].restart();
    readers.end();
    cluster.fetched(&READING);
    cluster.nodes[1].signal(Signal::CONT);
    cluster.nodes[2].place.join();
    cluster.wait_for_nodes(8);
}

#[test]
fn without_discovery_mounts_go_on_and_known_images_are_mounted() {
    let _turn = turn();
    let mut cluster = Cluster::start(Shape::default());
    let [running, known, new] =
        ["running", "known", "new"].map(|tag| cluster.registry.push(tag, 2, 2 << 20));
    cluster.nodes[0].pull(&running);
    cluster.nodes[0].pull(&known);
    cluster.wait_for_layers(4);
    let reading = [1, 2];
    let mounted = cluster.publish(&reading, "running", &running);
    for node in reading {
        cluster.nodes[node].ensure(&known);
    }
    // Something of each layer: then it is known to who reads who has it.
    for root in &mounted {
        for (name, bytes) in running.files.iter() {
            let mut first = [0; 4096];
            let file = std::fs::File::open(root.join(name)).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut first, 0).unwrap();
            assert_eq!(first, bytes[..4096]);
        }
    }
    cluster.discoveries.iter_mut().for_each(Discovery::kill);
    let away = std::env::var("LAMINA_TEST_AWAY_SECONDS")
        .map_or(AWAY_SECONDS, |seconds| seconds.parse().unwrap());
    std::thread::sleep(std::time::Duration::from_secs(away));
    // Nobody is left to read from but those who have it.
    cluster.registry.place.cut();
    Readers::start(READERS, &mounted, &running.files, 3).end();
    cluster.registry.place.join();
    for (volume, image) in [("known", &known), ("new", &new)] {
        let mounted = cluster.publish(&reading, volume, image);
        Readers::start(READERS, &mounted, &image.files, 4).end();
    }
    // They come back, and are told everything again.
    cluster.discoveries.iter_mut().for_each(Discovery::spawn);
    cluster.wait_for_nodes(8);
    let mounted = cluster.publish(&[7], "running", &running);
    cluster.registry.place.cut();
    Readers::start(8, &mounted, &running.files, 5).end();
    cluster.registry.place.join();
}
