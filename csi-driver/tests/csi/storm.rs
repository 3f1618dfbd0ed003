//! Five thousand calls, random, duplicated, reordered and cancelled, against a model.
//!
//! Calls come in rounds. In a round every volume gets several calls at once, all to publish it, all to
//! unpublish it, or both; some are given up by their caller. After a round each volume is settled as kubelet
//! does, by repeating the last wish until it is granted, and then the node must hold exactly what was wished
//! for. Seeded: a failure names its seed.
//!
//! Twice: before the fake node server, which answers ABORTED now and then, and on a node with the driver, the
//! node server and real mounts (`LAMINA_STORM_IMAGE` and the others of [`real::Real::from_environment`]).

mod real;

use std::collections::BTreeMap;

use futures::future::join_all;
use lamina_proto::csi::v1::{NodePublishVolumeRequest, node_client::NodeClient};
use tonic::{Code, Status, transport::Channel};

use crate::driver::{Driver, publish, unpublish};
use real::Real;

const CALLS: usize = 5000;
const VOLUMES: u64 = 24;
/// Directories of the source that a volume shows.
const KINDS: u64 = 2;

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
    /// Given up after so many turns of the scheduler.
    cancelled: Option<u64>,
}

/// A node that is called, and what it shows.
trait Place {
    fn node(&self) -> NodeClient<Channel>;
    /// Where a volume is mounted.
    fn target(&self, volume: u64) -> String;
    /// The call that mounts it.
    fn publish(&self, id: &str, target: &str, kind: u64) -> NodePublishVolumeRequest;
    /// Before each round.
    fn disturb(&self, random: &mut Random);
    /// How long callers wait at most before they give up, in turns of the scheduler.
    fn patience(&self) -> u64;
    /// What is mounted now, by target.
    fn shown(&self) -> BTreeMap<String, u64>;
}

/// Inline ids, and one id at several targets.
fn id(volume: u64) -> String {
    match volume % 2 {
        0 => format!("csi-{volume:064x}"),
        _ => format!("pv-{}", volume % 3),
    }
}

async fn call(place: &impl Place, call: Call) -> Option<Result<(), Status>> {
    let (id, target, mut node) = (id(call.volume), place.target(call.volume), place.node());
    let work = async move {
        if let Some(kind) = call.wish {
            let ask = place.publish(&id, &target, kind);
            node.node_publish_volume(ask).await.map(drop)
        } else {
            let ask = unpublish(&id, &target);
            node.node_unpublish_volume(ask).await.map(drop)
        }
    };
    let Some(turns) = call.cancelled else {
        return Some(work.await);
    };
    let patience = async {
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        result = work => Some(result),
        () = patience => None,
    }
}

/// Repeats a wish until it is granted.
async fn settle(place: &impl Place, volume: u64, wish: Wish) {
    let once = |wish| Call {
        volume,
        wish,
        cancelled: None,
    };
    for _ in 0..10_000 {
        match call(place, once(wish)).await.unwrap() {
            Ok(()) => return,
            Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
            // Mounted otherwise by an earlier call: kubelet unmounts first.
            Err(status) if status.code() == Code::AlreadyExists => {
                Box::pin(settle(place, volume, None)).await;
            }
            Err(status) => panic!("volume {volume}: {status}"),
        }
    }
    panic!("volume {volume} never settled");
}

async fn storm(place: &impl Place, seed: u64) {
    let mut random = Random(seed);
    let mut model: BTreeMap<u64, Wish> = (0..VOLUMES).map(|v| (v, None)).collect();
    let mut made = 0;
    while made < CALLS {
        place.disturb(&mut random);
        let (calls, wishes) = round(&mut random, place.patience());
        made += calls.len();
        let results = join_all(calls.iter().map(|c| call(place, *c))).await;
        for (call, result) in calls.iter().zip(results) {
            let Some(Err(status)) = result else { continue };
            let may = [Code::Aborted, Code::AlreadyExists];
            assert!(
                may.contains(&status.code()),
                "seed {seed}: volume {}: {status}",
                call.volume
            );
        }
        join_all(wishes.iter().map(|(v, wish)| settle(place, *v, *wish))).await;
        model.extend(wishes);
        let wished: BTreeMap<_, _> = model
            .iter()
            .filter_map(|(v, wish)| wish.map(|kind| (place.target(*v), kind)))
            .collect();
        assert_eq!(place.shown(), wished, "seed {seed}, after {made} calls");
    }
    println!("{made} calls equal the model");
}

/// Calls for some volumes, shuffled, and what is wished for each in the end.
fn round(random: &mut Random, patience: u64) -> (Vec<Call>, BTreeMap<u64, Wish>) {
    let (mut calls, mut wishes) = (Vec::new(), BTreeMap::new());
    for volume in 0..VOLUMES {
        if random.below(3) == 0 {
            continue;
        }
        let kind = random.below(KINDS);
        let wish = (random.below(2) == 0).then_some(kind);
        let mixed = random.below(3) == 0;
        for _ in 0..=random.below(4) {
            let other = mixed && random.below(2) == 0;
            let wish = if other {
                wish.map_or(Some(kind), |_| None)
            } else {
                wish
            };
            let cancelled = (random.below(4) == 0).then(|| 1 + random.below(patience));
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

impl Place for Driver {
    fn node(&self) -> NodeClient<Channel> {
        self.node.clone()
    }

    fn target(&self, volume: u64) -> String {
        format!("/k/pods/{volume}/mount")
    }

    fn publish(&self, id: &str, target: &str, kind: u64) -> NodePublishVolumeRequest {
        let mut ask = publish(id, target);
        ask.volume_context
            .insert("subPath".into(), format!("d{kind}"));
        ask
    }

    fn disturb(&self, random: &mut Random) {
        self.fake.model.lock().unwrap().aborts = random.below(4) as u32;
    }

    fn patience(&self) -> u64 {
        1
    }

    fn shown(&self) -> BTreeMap<String, u64> {
        let node = self.fake.model.lock().unwrap();
        let shown = |sub_path: &str| sub_path.strip_prefix('d').unwrap().parse().unwrap();
        node.volumes
            .values()
            .map(|v| (v.target.clone(), shown(&v.sub_path)))
            .collect()
    }
}

#[tokio::test]
async fn a_storm_of_calls_equals_a_model() {
    storm(&Driver::start(&[]).await, 0x1a31).await;
}

#[tokio::test]
async fn a_storm_of_calls_on_a_real_node_equals_a_model() {
    let Some(place) = Real::from_environment().await else {
        eprintln!(
            "SKIPPED: a_storm_of_calls_on_a_real_node_equals_a_model: run the story csi_storm (python3 -m e2e csi_storm)"
        );
        return;
    };
    // The first publish converts; its time is not a caller's to bear.
    settle(&place, 0, Some(0)).await;
    settle(&place, 0, None).await;
    storm(&place, place.seed).await;
    for volume in 0..VOLUMES {
        settle(&place, volume, None).await;
    }
    assert_eq!(place.left(), Vec::<String>::new(), "left behind");
}
