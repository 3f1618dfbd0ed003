//! One index: who holds a thing.

use std::borrow::Borrow;
use std::cmp::Ordering;
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

    /// What `slot` held and what it holds; both sorted, and mostly the same.
    pub(super) fn replace<T: Borrow<K>>(
        &mut self,
        slot: Slot,
        old: impl Iterator<Item = T>,
        new: impl Iterator<Item = T>,
    ) {
        let (mut old, mut new) = (old.peekable(), new.peekable());
        loop {
            let first = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.borrow().cmp(new.borrow()),
            };
            let gone = old.next_if(|_| first != Ordering::Greater);
            let come = new.next_if(|_| first != Ordering::Less);
            match (gone, come) {
                (Some(key), None) => self.remove(key.borrow(), slot),
                (None, Some(key)) => self.insert(key.borrow(), slot),
                _ => {}
            }
        }
    }

    fn insert(&mut self, key: &K, slot: Slot) {
        let slots = self.0.entry(key.clone()).or_default();
        if let Err(at) = slots.binary_search(&slot) {
            slots.insert(at, slot);
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
