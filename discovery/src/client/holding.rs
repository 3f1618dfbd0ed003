//! What this node holds, named, and how it differs from what it held.

use std::collections::{HashMap, HashSet};

use lamina_proto::discovery::v1::{HeartbeatRequest, LayerStat};

/// A state of this node. Its name is used for no other one, in no life of the node.
#[derive(Debug)]
pub(super) struct Holding {
    /// Without a name.
    message: HeartbeatRequest,
    state: Vec<u8>,
}

impl Holding {
    /// `life` is drawn by chance at the start of this process, `number` counts its states.
    pub(super) fn new(message: HeartbeatRequest, life: u64, number: u64) -> Self {
        Self {
            message,
            state: [life.to_be_bytes(), number.to_be_bytes()].concat(),
        }
    }

    pub(super) fn state(&self) -> &[u8] {
        &self.state
    }

    /// Whether it says this.
    pub(super) fn says(&self, message: &HeartbeatRequest) -> bool {
        self.message == *message
    }

    /// Everything.
    pub(super) fn whole(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            state: self.state.clone(),
            ..self.message.clone()
        }
    }

    /// What is other than in an earlier state.
    pub(super) fn since(&self, before: &Self) -> HeartbeatRequest {
        let (old, new) = (&before.message, &self.message);
        let mut change = HeartbeatRequest {
            node_id: new.node_id.clone(),
            endpoint: new.endpoint.clone(),
            cache_max_bytes: new.cache_max_bytes,
            state: self.state.clone(),
            since: before.state.clone(),
            ..HeartbeatRequest::default()
        };
        if before.state == self.state {
            return change;
        }
        let (were, are) = (sizes(old), sizes(new));
        for (digest, size) in &are {
            if were.get(digest) == Some(size) {
                continue;
            }
            change.layer_digests.push((*digest).to_owned());
            change.layer_stats.extend(size.map(|afs_size| LayerStat {
                digest: (*digest).to_owned(),
                afs_size,
            }));
        }
        let gone = were.keys().filter(|digest| !are.contains_key(*digest));
        change.removed_layer_digests = gone.map(|digest| (*digest).to_owned()).collect();
        change.cached_images = only_in(&new.cached_images, &old.cached_images);
        change.removed_images = only_in(&old.cached_images, &new.cached_images);
        change
    }
}

fn sizes(message: &HeartbeatRequest) -> HashMap<&str, Option<i64>> {
    let unsized_ones = message.layer_digests.iter().map(|digest| (&**digest, None));
    let mut sizes: HashMap<_, _> = unsized_ones.collect();
    for stat in &message.layer_stats {
        sizes.insert(&stat.digest, Some(stat.afs_size));
    }
    sizes
}

fn only_in(these: &[String], those: &[String]) -> Vec<String> {
    let those: HashSet<&String> = those.iter().collect();
    let others = these.iter().filter(|text| !those.contains(text));
    others.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(layers: &[(&str, i64)], images: &[&str]) -> HeartbeatRequest {
        let stats = layers.iter().map(|(digest, afs_size)| LayerStat {
            digest: (*digest).to_owned(),
            afs_size: *afs_size,
        });
        HeartbeatRequest {
            node_id: "a".into(),
            layer_digests: layers.iter().map(|(digest, _)| (*digest).into()).collect(),
            layer_stats: stats.filter(|stat| stat.afs_size > 0).collect(),
            cached_images: images.iter().map(|image| (*image).into()).collect(),
            ..HeartbeatRequest::default()
        }
    }

    #[test]
    fn a_change_says_what_came_went_or_grew_and_nothing_else() {
        let before = Holding::new(
            says(&[("stays", 1), ("goes", 2), ("grows", 3)], &["i", "j"]),
            7,
            1,
        );
        let after = Holding::new(
            says(&[("stays", 1), ("grows", 4), ("comes", 0)], &["j", "k"]),
            7,
            2,
        );
        let mut change = after.since(&before);
        change.layer_digests.sort();
        assert_eq!(change.layer_digests, ["comes", "grows"]);
        assert_eq!(change.layer_stats.len(), 1);
        assert_eq!(change.layer_stats[0].afs_size, 4);
        assert_eq!(change.removed_layer_digests, ["goes"]);
        assert_eq!(change.cached_images, ["k"]);
        assert_eq!(change.removed_images, ["i"]);
        assert_eq!(
            (&*change.since, &*change.state),
            (before.state(), after.state())
        );
        assert_ne!(before.state(), after.state());
    }

    #[test]
    fn the_same_state_is_told_without_lists() {
        let held = Holding::new(says(&[("stays", 1)], &["i"]), 7, 1);
        let change = held.since(&held);
        assert!(change.layer_digests.is_empty() && change.cached_images.is_empty());
        assert_eq!(change.since, held.state());
        assert_eq!(change.node_id, "a");
    }
}
