//! One index: who holds a thing.

use std::collections::HashMap;
use std::hash::Hash;

use super::Slot;

/// Slots by key, sorted; a key that nobody holds is not there.
#[derive(Debug)]
pub(super) struct Holders<K>(HashMap<K, Vec<Slot>>);

impl<K> Default for Holders<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Ord + Clone> Holders<K> {
    /// Who holds `key`.
    pub(super) fn of(&self, key: &K) -> &[Slot] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What `slot` held and what it holds; both sorted.
    pub(super) fn replace(&mut self, slot: Slot, old: &[K], new: &[K]) {
        for key in old.iter().filter(|key| new.binary_search(key).is_err()) {
            self.remove(key, slot);
        }
        for key in new.iter().filter(|key| old.binary_search(key).is_err()) {
            let slots = self.0.entry(key.clone()).or_default();
            if let Err(at) = slots.binary_search(&slot) {
                slots.insert(at, slot);
            }
        }
    }

    fn remove(&mut self, key: &K, slot: Slot) {
        let Some(slots) = self.0.get_mut(key) else {
            return;
        };
        if let Ok(at) = slots.binary_search(&slot) {
            slots.remove(at);
        }
        if slots.is_empty() {
            self.0.remove(key);
        }
    }
}
