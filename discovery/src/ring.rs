//! Which nodes pull a layer that nobody holds: the same ones, whoever asks and whichever replica answers.
//!
//! Multi-probe consistent hashing (Appleton, O'Reilly 2015): nodes lie on a ring; a layer has several points on it and
//! belongs to the node that follows one of them most closely. When a node comes or goes, only the layers that are
//! its own move. Replicas that know different nodes for a moment cost one more pull each.

use std::collections::BTreeMap;

use lamina_flist::Sha256Digest;

use crate::node_id::NodeId;
use crate::random::{hash, mix};

/// Points of a layer: the fullest node has a few per cent more than the mean.
const PROBES: u64 = 21;

/// Nodes on the ring, each with something that is kept of it.
#[derive(Debug)]
pub struct Ring<T>(BTreeMap<(u64, NodeId), T>);

impl<T> Default for Ring<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Ring<T> {
    /// Puts a node on it.
    pub fn insert(&mut self, id: &NodeId, kept: T) {
        self.0.insert(place(id), kept);
    }

    /// Takes a node off it.
    pub fn remove(&mut self, id: &NodeId) {
        self.0.remove(&place(id));
    }

    /// The `count` nodes that are to pull a layer, best first.
    pub fn homes(&self, digest: &Sha256Digest, count: usize) -> Vec<&T> {
        let layer = hash(digest.as_bytes());
        let mut near: Vec<(u64, &(u64, NodeId), &T)> = Vec::new();
        for probe in 0..PROBES {
            let point = mix(layer ^ mix(probe));
            near.extend(
                self.after(point)
                    .take(count)
                    .map(|(place, kept)| (place.0.wrapping_sub(point), place, kept)),
            );
        }
        near.sort_by_key(|(distance, place, _)| (*distance, *place));
        let mut homes: Vec<(&(u64, NodeId), &T)> = Vec::with_capacity(count);
        for (_, place, kept) in near {
            if homes.len() < count && homes.iter().all(|(other, _)| *other != place) {
                homes.push((place, kept));
            }
        }
        homes.into_iter().map(|(_, kept)| kept).collect()
    }

    /// Every node once, beginning behind a point.
    fn after(&self, point: u64) -> impl Iterator<Item = (&(u64, NodeId), &T)> {
        let from = (point, NodeId::first());
        let behind = self.0.range(from.clone()..);
        behind.chain(self.0.range(..from))
    }
}

fn place(id: &NodeId) -> (u64, NodeId) {
    (hash(id.as_str().as_bytes()), id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn ring(members: &[NodeId]) -> Ring<NodeId> {
        let mut ring = Ring::default();
        for id in members {
            ring.insert(id, id.clone());
        }
        ring
    }

    fn names(homes: Vec<&NodeId>) -> Vec<String> {
        homes.into_iter().map(NodeId::to_string).collect()
    }

    #[test]
    fn everybody_agrees_on_homes_and_few_layers_move_when_one_goes() {
        let id = |n: usize| NodeId::parse(&format!("n{n}")).unwrap();
        let members: Vec<NodeId> = (0..50).map(id).collect();
        let reversed: Vec<NodeId> = members.iter().rev().cloned().collect();
        let (all, other) = (ring(&members), ring(&reversed));
        let mut without = ring(&members);
        without.remove(&members[0]);
        let mut load = HashMap::new();
        for n in 0..2000_u32 {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            let layer = Sha256Digest::from_bytes(bytes);
            let homes = names(all.homes(&layer, 2));
            assert_eq!(homes, names(other.homes(&layer, 2)));
            assert_ne!(homes[0], homes[1]);
            let fewer = names(without.homes(&layer, 1));
            let next = if homes[0] == "n0" {
                &homes[1]
            } else {
                &homes[0]
            };
            assert_eq!(&fewer[0], next, "the second one takes over");
            *load.entry(homes[0].clone()).or_insert(0) += 1;
        }
        assert_eq!(load.len(), 50);
        assert!(load.values().all(|count| *count <= 80), "{load:?}");
    }

    #[test]
    fn a_small_ring_has_fewer_homes_than_asked_for() {
        let id = NodeId::parse("a").unwrap();
        let layer = Sha256Digest::from_bytes([7; 32]);
        assert!(Ring::<u8>::default().homes(&layer, 2).is_empty());
        assert_eq!(
            names(ring(std::slice::from_ref(&id)).homes(&layer, 3)),
            ["a"]
        );
    }
}
