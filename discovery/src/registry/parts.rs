//! Who has parts of a layer.

use std::collections::BTreeMap;

use lamina_flist::Sha256Digest;

use super::Slot;
use super::holders::Holders;
use crate::parts::Part;

/// Parts by node, and nodes by layer.
#[derive(Debug, Default)]
pub(super) struct PartsOf {
    of: BTreeMap<Slot, Vec<Part>>,
    layers: Holders<Sha256Digest>,
    count: usize,
}

impl PartsOf {
    /// Parts of all nodes.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Of one node.
    pub(super) fn of(&self, slot: Slot) -> &[Part] {
        self.of.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// Nodes that have any of a layer.
    pub(super) fn slots(&self, layer: &Sha256Digest) -> &[Slot] {
        self.layers.of(layer)
    }

    /// What a node said replaces what it said before; nothing for one that goes. `parts` are sorted by layer.
    pub(super) fn replace(&mut self, slot: Slot, parts: Vec<Part>) {
        let layers = |parts: &[Part]| {
            let mut layers: Vec<Sha256Digest> = parts.iter().map(|part| part.layer).collect();
            layers.dedup();
            layers
        };
        let (old, new) = (layers(self.of(slot)), layers(&parts));
        self.layers.replace(slot, old.iter(), new.iter());
        self.count = self.count - self.of(slot).len() + parts.len();
        match parts.is_empty() {
            true => self.of.remove(&slot),
            false => self.of.insert(slot, parts),
        };
    }
}
