//! Cables between nodes that delay, cut, corrupt, trickle, or swallow: others are asked, and nothing wrong is read.

use std::time::Duration;

use super::nodes::{Cluster, Shape};
use super::proxy::Fault;
use super::readers::Readers;
use super::{READERS, turn};

const SOURCES: [usize; 4] = [0, 1, 2, 3];
const READING: [usize; 4] = [4, 5, 6, 7];
const DELAY: Fault = Fault::Delay(Duration::from_millis(10));

/// The sources' cables have these faults, one after the other, each beside others.
fn read_through(faults: &[[Fault; 4]], has_tls: bool) {
    let _turn = turn();
    let cluster = Cluster::start(Shape {
        has_tls,
        has_proxies: true,
        ..Shape::default()
    });
    for (number, faults) in faults.iter().enumerate() {
        let tag = format!("t{number}");
        let image = cluster.registry.push(&tag, 4, 1 << 20);
        for node in SOURCES {
            cluster.nodes[node].pull(&image);
        }
        let mounted = cluster.publish(&READING, &tag, &image);
        cluster.registry.place.cut();
        for (proxy, fault) in cluster.proxies.iter().zip(faults) {
            proxy.set(*fault);
        }
        Readers::start(READERS, &mounted, &image.files, number as u64).end();
        for proxy in &cluster.proxies {
            proxy.set(Fault::None);
        }
        cluster.registry.place.join();
    }
    cluster.fetched(&READING);
    for (number, proxy) in cluster.proxies[..4].iter().enumerate() {
        let is_sound = faults.iter().all(|faults| faults[number] == Fault::None);
        assert!(
            is_sound || proxy.spoilt() > 0,
            "cable {number} spoilt nothing"
        );
    }
}

#[test]
fn whatever_cables_do_only_right_bytes_are_read() {
    read_through(
        &[
            [Fault::Corrupt, Fault::Cut, Fault::BlackHole, DELAY],
            [Fault::BlackHole, Fault::None, Fault::Corrupt, Fault::Cut],
        ],
        true,
    );
}

#[test]
fn without_tls_what_cables_corrupt_is_noticed_as_well() {
    let faults = [Fault::Corrupt, Fault::Corrupt, Fault::Cut, Fault::None];
    read_through(&[faults], false);
}

#[test]
fn a_node_that_trickles_is_left_for_another_one() {
    let _turn = turn();
    let cluster = Cluster::start(Shape {
        has_proxies: true,
        ..Shape::default()
    });
    let image = cluster.registry.push("t", 4, 1 << 20);
    for node in [0, 1] {
        cluster.nodes[node].pull(&image);
    }
    // From the first byte on: what is fetched ahead is not left to chance.
    cluster.proxies[0].set(Fault::Trickle);
    // Each chooses by chance whom it asks first.
    let reading = [2, 3, 4, 5, 6, 7];
    let mounted = cluster.publish(&reading, "v", &image);
    cluster.registry.place.cut();
    let longest = Readers::start(12, &mounted, &image.files, 7).end();
    assert!(cluster.proxies[0].spoilt() > 0);
    // Two seconds, and what a busy machine may add.
    assert!(longest < Duration::from_secs(8), "{longest:?}");
    cluster.fetched(&reading);
}
