//! Bringing a flist's data to nodes before anybody asks.

use std::time::Duration;

use futures::future::join_all;
use lamina_crds::warm::{Replicas, Warm};
use lamina_proto::lamina::v1::{self as proto, EnsureRequest};
use tokio::time::timeout;

use crate::context::Ctx;
use crate::ensure::ensure;
use crate::fault::Fault;
use crate::nodes::Place;
use crate::place::ranked;

/// What became of a round.
#[derive(Debug, Default)]
pub(crate) struct Warmed {
    /// Nodes that hold it now.
    pub(crate) nodes: Vec<String>,
    /// How many shall.
    pub(crate) wanted: usize,
    /// Why one does not; work only if nothing worse happened.
    pub(crate) fault: Option<Fault>,
}

/// How long a round may take: nodes are asked many at once, not all at once.
const ROUND: Duration = Duration::from_secs(60);

/// Names of nodes in a status.
const NODES_MAX: usize = 256;

/// Where a status says what became of a round.
pub(crate) struct Round<'a> {
    /// How many nodes shall hold it.
    pub(crate) wanted: &'a mut i32,
    /// How many do.
    pub(crate) warm: &'a mut i32,
    /// Both, for people.
    pub(crate) summary: &'a mut Option<String>,
    /// Their names.
    pub(crate) nodes: &'a mut Vec<String>,
}

/// `3 of 5 nodes hold the data`.
pub(crate) fn summary(warm: i32, wanted: i32) -> String {
    format!("{warm} of {wanted} nodes hold the data")
}

/// What an object says before its first round is over.
pub(crate) fn begins() -> Fault {
    Fault::working("its data is on its way to nodes")
}

/// Nodes to keep `key` on.
pub(crate) fn chosen<'a>(
    key: &str,
    places: &[&'a Place],
    replicas: Option<Replicas>,
) -> Vec<&'a Place> {
    let count = replicas.map_or(0, |replicas| replicas.of(places.len()));
    let order = ranked(key, places.iter().map(|place| place.name.as_str()));
    order
        .into_iter()
        .take(count)
        .filter_map(|name| places.iter().find(|place| place.name == name).copied())
        .collect()
}

/// Asks every one of `places` to have it; what takes longer than a round is work that goes on.
pub(crate) async fn warm(ctx: &Ctx, places: &[&Place], request: &EnsureRequest) -> Warmed {
    warm_within(ROUND, ctx, places, request).await
}

async fn warm_within(
    round: Duration,
    ctx: &Ctx,
    places: &[&Place],
    request: &EnsureRequest,
) -> Warmed {
    let asked = places.iter().map(|place| async {
        let answer = timeout(round, ensure(ctx, place, request.clone())).await;
        answer.unwrap_or_else(|_| {
            let message = format!("node {} is asked again: many are at work", place.name);
            Err(Fault::working(message))
        })
    });
    let mut warmed = Warmed {
        wanted: places.len(),
        ..Warmed::default()
    };
    for (place, answer) in places.iter().zip(join_all(asked).await) {
        match answer {
            Ok(_) => warmed.nodes.push(place.name.clone()),
            Err(fault) => warmed.note(fault),
        }
    }
    warmed.nodes.sort();
    warmed
}

impl Warmed {
    fn note(&mut self, fault: Fault) {
        let worse = self.fault.as_ref().is_none_or(Fault::is_work);
        if worse {
            self.fault = Some(fault);
        }
    }

    /// Writes it into an object's status; the fault says how far it came, too.
    pub(crate) fn record(self, status: Round<'_>) -> Result<(), Fault> {
        let Round {
            wanted,
            warm,
            summary: short,
            nodes,
        } = status;
        *wanted = i32::try_from(self.wanted).unwrap_or(i32::MAX);
        *warm = i32::try_from(self.nodes.len()).unwrap_or(i32::MAX);
        *short = Some(format!("{warm}/{wanted}"));
        *nodes = self.nodes;
        nodes.truncate(NODES_MAX);
        let summary = summary(*warm, *wanted);
        match self.fault {
            Some(fault) => Err(Fault {
                message: format!("{summary}; {}", fault.message),
                ..fault
            }),
            None => Ok(()),
        }
    }
}

/// How long a node keeps layers after it was asked to: three times as long as until it is asked again, so that an
/// operator that is being replaced, or a node that does not answer at once, loses nothing.
const KEEP_S: u32 = 900;

/// How long, in seconds: a replica that holds all of it holds the layers for others, too.
pub(crate) fn keep_s(warm: Warm) -> u32 {
    match warm {
        Warm::All => KEEP_S,
        Warm::Profile => 0,
    }
}

/// As the node is told.
pub(crate) fn amount(warm: Warm) -> i32 {
    match warm {
        Warm::Profile => proto::Warm::Profile,
        Warm::All => proto::Warm::All,
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::testing::FakeApi;

    fn place(name: &str) -> Place {
        Place {
            name: name.to_owned(),
            address: String::new(),
            labels: std::collections::BTreeMap::default(),
        }
    }

    #[test]
    fn no_more_nodes_are_chosen_than_there_are() {
        let all = [place("a"), place("b"), place("c")];
        let places: Vec<&Place> = all.iter().collect();
        assert!(chosen("k", &places, None).is_empty());
        assert_eq!(chosen("k", &places, Some(Replicas::Count(2))).len(), 2);
        assert_eq!(chosen("k", &places, Some(Replicas::Count(9))).len(), 3);
        assert_eq!(
            chosen(
                "k",
                &places,
                Some(Replicas::Every(lamina_crds::warm::All::All))
            )
            .len(),
            3
        );
    }

    // With many nodes at work a round took longer than one look at an object may, and nothing of it was written down.
    #[tokio::test]
    async fn nodes_whose_turn_does_not_come_in_time_are_work() {
        let ctx = FakeApi::default().ctx();
        let _others = ctx.ensures.acquire_many(32).await.unwrap();
        let all = [place("a"), place("b")];
        let places: Vec<&Place> = all.iter().collect();
        let warmed = warm_within(Duration::ZERO, &ctx, &places, &EnsureRequest::default()).await;
        assert_eq!((warmed.wanted, warmed.nodes.len()), (2, 0));
        let fault = warmed.fault.unwrap();
        assert!(fault.is_work(), "{fault:?}");
    }

    #[test]
    fn a_failure_is_told_rather_than_work() {
        let mut warmed = Warmed::default();
        warmed.note(Fault::working("a is at it"));
        warmed.note(Fault::new("NoSpace", "b is full"));
        warmed.note(Fault::working("c is at it"));
        assert_eq!(warmed.fault.unwrap().reason, "NoSpace");
    }
}
