//! Afslets that come and go behind a name.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use lamina_proxy::Lookup;
use tonic::Code;

use crate::bench::{Bench, config, until};
use crate::client::{Run, channel, execute, start};
use crate::fake::Fake;

type Addresses = Arc<Mutex<Option<Vec<SocketAddr>>>>;

/// A name service that a test writes; without addresses it fails.
fn lookup(addresses: &Addresses) -> Lookup {
    let addresses = Arc::clone(addresses);
    Lookup::by(move |name| {
        assert_eq!(name, "afslets:7170");
        let found = addresses.lock().unwrap().clone();
        Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
    })
}

fn bench(addresses: &Addresses) -> Bench {
    let mut config = config(&[]);
    config.afslets = vec!["afslets:7170".into()];
    config.lookup = lookup(addresses);
    Bench::start(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_no_longer_named_finishes_its_runs_and_gets_no_more() {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 4, 400).await,
    );
    let addresses: Addresses = Arc::new(Mutex::new(Some(vec![one.at])));
    let proxy = bench(&addresses);
    let mut held = Run::begin(channel(proxy.at).await, start(1, 1))
        .await
        .unwrap();
    held.next().await.unwrap();
    *addresses.lock().unwrap() = Some(vec![two.at]);
    let mut last = String::new();
    while last != "n2" {
        let told = execute(proxy.at, start(1, 1)).await;
        assert!(told.is_done(), "{told:?}");
        last = told.node().unwrap().to_owned();
    }
    let before = one.see(|seen| seen.offered);
    for _ in 0..5 {
        assert_eq!(execute(proxy.at, start(1, 1)).await.node(), Some("n2"));
    }
    one.see(|seen| assert_eq!((seen.offered, seen.abandoned), (before, 0)));
    let told = held.finish().await;
    assert!(told.is_done(), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_looked_up_is_as_it_was_and_comes_when_it_can() {
    let one = Fake::start("n1", 4, 400).await;
    let addresses: Addresses = Arc::new(Mutex::new(None));
    let proxy = bench(&addresses);
    let told = execute(proxy.at, start(1, 1)).await;
    assert_eq!(told.status().code(), Code::Unavailable);
    assert!(
        told.status().message().contains("none of 0 afslets"),
        "{told:?}"
    );
    let overview = crate::status::overview(&proxy);
    assert!(overview.contains("no such name"), "{overview}");
    *addresses.lock().unwrap() = Some(vec![one.at]);
    until("it is found", || {
        crate::status::overview(&proxy).contains("\"open\"")
    })
    .await;
    *addresses.lock().unwrap() = None;
    until("it is lost", || {
        crate::status::overview(&proxy).contains("no such name")
    })
    .await;
    assert!(execute(proxy.at, start(1, 1)).await.is_done());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_afslets_than_are_allowed_are_taken() {
    let (one, two) = (
        Fake::start("n1", 4, 400).await,
        Fake::start("n2", 4, 400).await,
    );
    let mut config = config(&[&one, &two]);
    config.limits.afslets_max = 1;
    let proxy = Bench::start(config);
    assert!(execute(proxy.at, start(1, 1)).await.is_done());
    assert!(crate::status::overview(&proxy).contains("\"afslet_instances\":1"));
}
