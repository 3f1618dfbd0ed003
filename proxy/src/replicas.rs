//! Has an image on so many nodes: whom to ask is decided here (pure), the asking is a call of their layerstores.
//!
//! The same nodes are chosen whoever asks and however often, so that asking twice, or two proxies at once, brings no
//! more than was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use lamina_proto::afsproxy::v1::{LayerstoreTarget, ReconciledLayerPlacement};
use lamina_proto::discovery::v1::ServiceInstance;

/// An image's layers and the nodes that there are.
pub(crate) struct Placement {
    key: String,
    /// Lowest first.
    layers: Vec<String>,
    nodes: BTreeMap<String, Node>,
}

struct Node {
    endpoint: String,
    has: BTreeSet<String>,
}

impl Placement {
    pub(crate) fn new(key: String, layers: Vec<String>, services: Vec<ServiceInstance>) -> Self {
        let wanted: BTreeSet<&String> = layers.iter().collect();
        let nodes = services.into_iter().map(|service| {
            let held = service.layer_digests.into_iter();
            let mut has: BTreeSet<String> = held.filter(|layer| wanted.contains(layer)).collect();
            // Lists of layers are left out where they are very long.
            if service.cached_images.contains(&key) {
                has.extend(layers.iter().cloned());
            }
            let endpoint = service.endpoint;
            (service.node_id, Node { endpoint, has })
        });
        let nodes = nodes.collect();
        Self { key, layers, nodes }
    }

    pub(crate) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Nodes that have every layer.
    pub(crate) fn whole(&self) -> usize {
        let nodes = self.nodes.values();
        nodes.filter(|node| self.missing(node) == 0).count()
    }

    fn missing(&self, node: &Node) -> usize {
        let layers = self.layers.iter();
        layers.filter(|layer| !node.has.contains(*layer)).count()
    }

    /// Whom to ask, best first: name and endpoint of those that do not have all of it.
    pub(crate) fn candidates(&self) -> Vec<(String, String)> {
        let mut rest: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, node)| (self.missing(node), self.weight(name), name, node))
            .filter(|(missing, ..)| *missing > 0)
            .collect();
        rest.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
        let named = |(_, _, name, node): (usize, u64, &String, &Node)| {
            (name.clone(), node.endpoint.clone())
        };
        rest.into_iter().map(named).collect()
    }

    /// Other nodes for other images (rendezvous hashing).
    fn weight(&self, node: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.key, node).hash(&mut hasher);
        hasher.finish()
    }

    /// A node has these now; whether it has every layer.
    pub(crate) fn pulled(&mut self, name: &str, layers: impl IntoIterator<Item = String>) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        let wanted: BTreeSet<&String> = self.layers.iter().collect();
        let layers = layers.into_iter().filter(|layer| wanted.contains(layer));
        node.has.extend(layers);
        self.nodes
            .get(name)
            .is_some_and(|node| self.missing(node) == 0)
    }

    /// Who has each layer.
    pub(crate) fn message(&self) -> Vec<ReconciledLayerPlacement> {
        let of = |layer: &String| ReconciledLayerPlacement {
            digest: layer.clone(),
            instances: self
                .nodes
                .iter()
                .filter(|(_, node)| node.has.contains(layer))
                .map(|(name, node)| LayerstoreTarget {
                    node_id: name.clone(),
                    endpoint: node.endpoint.clone(),
                })
                .collect(),
        };
        self.layers.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, layers: &[&str], images: &[&str]) -> ServiceInstance {
        let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        ServiceInstance {
            node_id: name.into(),
            endpoint: format!("{name}:1"),
            layer_digests: owned(layers),
            cached_images: owned(images),
            ..ServiceInstance::default()
        }
    }

    fn placement(services: Vec<ServiceInstance>) -> Placement {
        Placement::new("key".into(), vec!["a".into(), "b".into()], services)
    }

    #[test]
    fn nodes_with_every_layer_count_and_those_with_most_are_asked_first() {
        let mut placement = placement(vec![
            service("n1", &["a", "b", "z"], &[]),
            service("n2", &[], &["key"]),
            service("n3", &["z"], &["other"]),
            service("n4", &["b"], &[]),
        ]);
        assert_eq!((placement.whole(), placement.nodes()), (2, 4));
        let names: Vec<String> = placement
            .candidates()
            .into_iter()
            .map(|one| one.0)
            .collect();
        assert_eq!(names, ["n4", "n3"]);
        assert!(!placement.pulled("n4", ["b".into(), "c".into()]));
        assert!(placement.pulled("n4", ["a".into()]));
        assert!(!placement.pulled("stranger", ["a".into(), "b".into()]));
        assert_eq!(placement.whole(), 3);
        let message = placement.message();
        let of_a: Vec<&str> = message[0]
            .instances
            .iter()
            .map(|one| one.node_id.as_str())
            .collect();
        assert_eq!(of_a, ["n1", "n2", "n4"]);
    }

    #[test]
    fn the_same_nodes_are_chosen_however_often_and_others_for_other_images() {
        let services: Vec<_> = (0..20)
            .map(|n| service(&format!("n{n}"), &[], &[]))
            .collect();
        let first = placement(services.clone()).candidates();
        assert_eq!(first, placement(services.clone()).candidates());
        let other = Placement::new("other".into(), vec!["a".into()], services);
        assert_ne!(first, other.candidates());
    }
}
