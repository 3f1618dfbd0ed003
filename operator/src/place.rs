//! Which nodes do what: rendezvous hashing, so that a node that comes or goes moves only what was on it, and
//! an operator of another build chooses the same ones.

use crate::nodes::Place;

/// `nodes` in order of preference for `key`: the same for everybody who asks.
pub(crate) fn ranked<'a>(key: &str, nodes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<(u64, &str)> = nodes
        .into_iter()
        .map(|node| (weight(key, node), node))
        .collect();
    all.sort_by(|a, b| b.cmp(a));
    all.into_iter().map(|(_, node)| node).collect()
}

/// The one of `places` that `key` prefers; none only where there are none.
pub(crate) fn first<'a>(
    key: &str,
    places: impl IntoIterator<Item = &'a Place>,
) -> Option<&'a Place> {
    places
        .into_iter()
        .max_by_key(|place| (weight(key, &place.name), &place.name))
}

/// The first bytes of BLAKE3 over both names, each behind its length.
fn weight(key: &str, node: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for name in [key, node] {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    let hash = hasher.finalize();
    let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    u64::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_node_moves_only_what_was_on_it() {
        let nodes = ["a", "b", "c", "d", "e"];
        for image in 0..200 {
            let key = format!("image {image}");
            let before: Vec<&str> = ranked(&key, nodes).into_iter().take(2).collect();
            let after: Vec<&str> = ranked(&key, ["a", "b", "d", "e"])
                .into_iter()
                .take(2)
                .collect();
            let kept = before.iter().filter(|node| after.contains(node)).count();
            let lost = before.iter().filter(|node| **node == "c").count();
            assert_eq!(kept, 2 - lost, "{key}: {before:?} became {after:?}");
        }
    }

    /// Builds that disagreed would move every warm image at an upgrade of the operator.
    #[test]
    fn the_choice_is_the_same_in_every_build() {
        assert_eq!(weight("python:3.13", "node-a"), 1_507_710_983_655_297_885);
    }

    #[test]
    fn images_are_spread_over_all_nodes() {
        let mut first = std::collections::HashMap::new();
        for image in 0..400 {
            let key = format!("image {image}");
            *first
                .entry(ranked(&key, ["a", "b", "c", "d"])[0])
                .or_insert(0) += 1;
        }
        assert!(first.values().all(|&count| count > 60), "{first:?}");
    }
}
