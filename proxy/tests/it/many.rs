//! Many runs at once, and proxies side by side.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use lamina_discovery::Random;
use lamina_proto::afsletpb::StartRequest;

use crate::bench::{Bench, soon};
use crate::client::{channel, execute_on, file, start};
use crate::fake::Fake;

fn patient(cpu: i64) -> StartRequest {
    StartRequest {
        proxy_dispatch_max_retries: 1000,
        proxy_dispatch_backoff_ms: 5,
        ..start(cpu, 10)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_at_once_find_room_on_three_afslets_of_four() {
    let mut fakes = Vec::new();
    for n in 0..3 {
        fakes.push(Fake::start(&format!("n{n}"), 4, 1000).await);
    }
    let proxy = Bench::before(&fakes.iter().collect::<Vec<_>>());
    let channel = channel(proxy.at).await;
    let runs = (0..64).map(|n| {
        let files = file("/a", n * 10_000, 64 << 10);
        execute_on(channel.clone(), patient([1, 2, 3][n % 3]), files)
    });
    let told = soon("all of them", join_all(runs)).await;
    for one in &told {
        assert!(one.is_done(), "{one:?}");
    }
    let begun: usize = fakes.iter().map(|fake| fake.see(|seen| seen.begun)).sum();
    assert_eq!(begun, 64);
    let bytes: usize = fakes
        .iter()
        .map(|fake| fake.see(|seen| seen.file_bytes))
        .sum();
    assert_eq!(bytes, (0..64).sum::<usize>() * 10_000);
    for fake in &fakes {
        fake.see(|seen| assert!(seen.begun > 0 && seen.most <= 4));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_proxies_that_know_nothing_of_each_other_share_the_same_afslets() {
    let (one, two) = (
        Fake::start("n1", 4, 1000).await,
        Fake::start("n2", 4, 1000).await,
    );
    let proxies = [Bench::before(&[&one, &two]), Bench::before(&[&one, &two])];
    let channels = [channel(proxies[0].at).await, channel(proxies[1].at).await];
    let runs = (0..64).map(|n| execute_on(channels[n % 2].clone(), patient(2), Vec::new()));
    for told in soon("all of them", join_all(runs)).await {
        assert!(told.is_done(), "{told:?}");
    }
    let begun = one.see(|seen| seen.begun) + two.see(|seen| seen.begun);
    assert_eq!(begun, 64);
    for fake in [&one, &two] {
        fake.see(|seen| assert!(seen.most <= 2, "its admission decides"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_connections_break_no_request_begins_twice() {
    let mut fakes = Vec::new();
    for n in 0..3 {
        fakes.push(Fake::start(&format!("n{n}"), 8, 1000).await);
    }
    let proxy = Bench::before(&fakes.iter().collect::<Vec<_>>());
    let channel = channel(proxy.at).await;
    let runs: Vec<_> = (0..200)
        .map(|n| {
            let wanted = StartRequest {
                request_id: format!("r{n}"),
                ..patient(1)
            };
            let files = file("/a", n * 1000, 16 << 10);
            tokio::spawn(execute_on(channel.clone(), wanted, files))
        })
        .collect();
    let mut random = Random::from_seed(6);
    while !runs.iter().all(tokio::task::JoinHandle::is_finished) {
        fakes[random.below(fakes.len())].cable.tear();
        tokio::time::sleep(Duration::from_millis(random.below(20) as u64)).await;
    }
    let begun: Vec<String> = fakes
        .iter()
        .flat_map(|fake| fake.see(|seen| seen.begun_ids.clone()))
        .collect();
    let different: BTreeSet<&String> = begun.iter().collect();
    assert_eq!(different.len(), begun.len(), "{begun:?}");
    let mut done = 0;
    for (n, run) in runs.into_iter().enumerate() {
        let told = run.await.unwrap();
        let has_begun = different.contains(&format!("r{n}"));
        assert!(has_begun || !told.is_done(), "{told:?}");
        // What was accepted ended with its connection, and says so.
        assert!(told.is_done() || told.end.is_err(), "{told:?}");
        done += usize::from(told.is_done());
    }
    assert!(done > 0 && different.len() >= done, "{done}");
}
