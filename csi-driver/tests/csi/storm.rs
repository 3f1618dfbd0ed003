//! Five thousand calls, random, duplicated, reordered and cancelled, against a model.
//!
//! Calls come in rounds. In a round every volume gets several calls at once, all to publish it, all to
//! unpublish it, or both; some are given up by their caller, and the node server answers ABORTED now and
//! then. After a round each volume is settled as kubelet does, by repeating the last wish until it is
//! granted, and then the node must hold exactly what was wished for. Seeded: a failure names its seed.

use std::collections::BTreeMap;

use futures::future::join_all;
use lamina_proto::csi::v1::node_client::NodeClient;
use tonic::{Code, Status, transport::Channel};

use crate::driver::{Driver, publish, unpublish};

const CALLS: usize = 5000;
const VOLUMES: u64 = 24;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

/// What is wished for a volume: mounted, and how, or not.
type Wish = Option<u64>;

#[derive(Clone, Copy)]
struct Call {
    volume: u64,
    wish: Wish,
    cancelled: bool,
}

fn target(volume: u64) -> String {
    format!("/k/pods/{volume}/mount")
}

/// Inline ids, and one id at several targets.
fn id(volume: u64) -> String {
    match volume % 2 {
        0 => format!("csi-{volume:064x}"),
        _ => format!("pv-{}", volume % 3),
    }
}

async fn call(mut node: NodeClient<Channel>, call: Call) -> Option<Result<(), Status>> {
    let work = async {
        match call.wish {
            Some(kind) => {
                let mut ask = publish(&id(call.volume), &target(call.volume));
                ask.volume_context
                    .insert("subPath".into(), format!("d{kind}"));
                node.node_publish_volume(ask).await.map(drop)
            }
            None => node
                .node_unpublish_volume(unpublish(&id(call.volume), &target(call.volume)))
                .await
                .map(drop),
        }
    };
    if !call.cancelled {
        return Some(work.await);
    }
    tokio::select! {
        biased;
        result = work => Some(result),
        () = tokio::task::yield_now() => None,
    }
}

/// Repeats a wish until it is granted.
async fn settle(node: NodeClient<Channel>, volume: u64, wish: Wish) {
    for _ in 0..10_000 {
        let settled = call(
            node.clone(),
            Call {
                volume,
                wish,
                cancelled: false,
            },
        )
        .await;
        match settled.unwrap() {
            Ok(()) => return,
            Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
            // Mounted otherwise by an earlier call: kubelet unmounts first.
            Err(status) if status.code() == Code::AlreadyExists => {
                Box::pin(settle(node.clone(), volume, None)).await;
            }
            Err(status) => panic!("volume {volume}: {status}"),
        }
    }
    panic!("volume {volume} never settled");
}

#[tokio::test]
async fn a_storm_of_calls_equals_a_model() {
    let seed = 0x1a31;
    let (mut random, driver) = (Random(seed), Driver::start(&[]).await);
    let mut model: BTreeMap<u64, Wish> = (0..VOLUMES).map(|v| (v, None)).collect();
    let mut made = 0;
    while made < CALLS {
        driver.fake.model.lock().unwrap().aborts = random.below(4) as u32;
        let (calls, wishes) = round(&mut random);
        made += calls.len();
        let results = join_all(calls.iter().map(|c| call(driver.node.clone(), *c))).await;
        for (call, result) in calls.iter().zip(results) {
            let code = result.map_or(Code::Ok, |r| r.map_or_else(|s| s.code(), |()| Code::Ok));
            let may = [Code::Ok, Code::Aborted, Code::AlreadyExists];
            assert!(
                may.contains(&code),
                "seed {seed}: volume {} {code:?}",
                call.volume
            );
        }
        join_all(
            wishes
                .iter()
                .map(|(v, wish)| settle(driver.node.clone(), *v, *wish)),
        )
        .await;
        model.extend(wishes);
        check(&driver, &model, seed);
    }
}

/// Calls for some volumes, shuffled, and what is wished for each in the end.
fn round(random: &mut Random) -> (Vec<Call>, BTreeMap<u64, Wish>) {
    let (mut calls, mut wishes) = (Vec::new(), BTreeMap::new());
    for volume in 0..VOLUMES {
        if random.below(3) == 0 {
            continue;
        }
        let kind = random.below(2);
        let wish = (random.below(2) == 0).then_some(kind);
        let mixed = random.below(3) == 0;
        for _ in 0..=random.below(4) {
            let other = mixed && random.below(2) == 0;
            let wish = if other {
                wish.map_or(Some(kind), |_| None)
            } else {
                wish
            };
            let cancelled = random.below(4) == 0;
            calls.push(Call {
                volume,
                wish,
                cancelled,
            });
        }
        wishes.insert(volume, wish);
    }
    for i in (1..calls.len()).rev() {
        calls.swap(i, random.below(i as u64 + 1) as usize);
    }
    (calls, wishes)
}

fn check(driver: &Driver, model: &BTreeMap<u64, Wish>, seed: u64) {
    let wished: BTreeMap<_, _> = model
        .iter()
        .filter_map(|(v, wish)| wish.map(|kind| (target(*v), format!("d{kind}"))))
        .collect();
    let node = driver.fake.model.lock().unwrap();
    let there: BTreeMap<_, _> = node
        .volumes
        .values()
        .map(|v| (v.target.clone(), v.sub_path.clone()))
        .collect();
    assert_eq!(there, wished, "seed {seed}");
}
