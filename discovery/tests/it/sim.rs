//! A cluster that starts the same images everywhere, simulated: heartbeats, provider choice, fan-out.
//!
//! The registry of nodes, the pace of heartbeats, the rations and the choice of providers are the real ones; time,
//! network, transfers and faults are made up from a seed. The same seed is the same run.

mod model;
mod network;

use model::{Report, Scenario, World};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn run(scenario: &Scenario, seed: u64) -> Report {
    World::new(scenario.clone(), seed).run()
}

/// What must hold of every run.
fn check(scenario: &Scenario, seed: u64, report: &Report) {
    let told = format!("seed {seed}: {report:?}");
    assert!(report.missing == 0, "not everybody has everything: {told}");
    assert!(
        report.replicas_agree,
        "a replica knows something else than what is: {told}"
    );
    // A layer is read from the registry once; with faults a few times more, for homes that went or could not be asked,
    // and of thousands of nodes for one in a thousand that meets bad peers and bad homes alone.
    let more = 4 + scenario.nodes / 1000;
    let lost = scenario.layers * (1 + more * usize::from(scenario.has_faults()));
    assert!(
        report.origin_reads <= lost,
        "{} of {lost}: {told}",
        report.origin_reads
    );
    // What one node is asked for in any second follows from what it can serve, not from how many nodes there are.
    let asked_max = 8 * scenario.named_per_s as usize * scenario.layers + 64;
    assert!(
        report.peer_requests_peak <= asked_max,
        "{asked_max}: {told}"
    );
    // In the second in which all of them have their first layer each node tells that once.
    let beats_max = scenario.nodes + scenario.nodes / 4 + 16;
    assert!(report.beats_peak <= beats_max, "{beats_max}: {told}");
    // All of them begin in the same second here; a node asks once for each layer, and some again.
    let finds_max = 3 * scenario.nodes * scenario.layers + 64;
    assert!(report.finds_peak <= finds_max, "{finds_max}: {told}");
    assert!(report.wrong_delivered == 0, "{told}");
}

#[test]
fn small_clusters_converge_whatever_fails_a_thousand_seeds() {
    for seed in 0..1000 {
        let scenario = Scenario::small(8 + (seed as usize % 17));
        let report = run(&scenario, seed);
        check(&scenario, seed, &report);
    }
}

#[test]
fn clusters_of_hundreds_converge_whatever_fails() {
    for seed in 0..10 {
        let scenario = Scenario::small(300);
        let report = run(&scenario, seed);
        check(&scenario, seed, &report);
    }
}

#[test]
fn without_faults_the_registry_is_read_once_per_layer() {
    for seed in 0..20 {
        let scenario = Scenario::quiet(100);
        let report = run(&scenario, seed);
        check(&scenario, seed, &report);
        assert_eq!(
            report.origin_reads, scenario.layers,
            "seed {seed}: {report:?}"
        );
    }
}

#[test]
fn ten_thousand_nodes_start_together() {
    let scenario = Scenario::quiet(10_000);
    let report = run(&scenario, 1);
    check(&scenario, 1, &report);
    assert_eq!(report.origin_reads, scenario.layers, "{report:?}");
    assert!(report.took < 60 * SECOND, "{report:?}");
    println!("10,000 nodes: {report:?}");
}

#[test]
fn ten_thousand_nodes_start_together_while_some_fail() {
    let scenario = Scenario {
        layers: 1,
        ..Scenario::small(10_000)
    };
    let report = run(&scenario, 2);
    check(&scenario, 2, &report);
    println!("10,000 nodes, faults: {report:?}");
}

#[test]
fn a_seed_is_a_run() {
    let scenario = Scenario::small(40);
    assert_eq!(run(&scenario, 3), run(&scenario, 3));
    assert_ne!(run(&scenario, 3), run(&scenario, 4));
}
