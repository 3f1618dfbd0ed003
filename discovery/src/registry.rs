//! The live nodes and what they hold: memory that heartbeats rebuild.
//!
//! Pure: time comes with every call, nothing is awaited or written. Always: a node is in it from its heartbeat until
//! its time to live is over and no longer; indexes name exactly the nodes that hold the thing; one that is full
//! refuses newcomers, and never drops somebody before his time. The same calls give the same answers.
//!
//! ```text
//! ids:  node id ─> slot        nodes: slot ─> Node       seen: (last heartbeat, slot), oldest first
//! layers: digest ─> slots      images: key ─> slots      parts: slot ─> parts, digest ─> slots
//! ```

mod holders;
mod node;
mod parts;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use lamina_flist::Sha256Digest;

use crate::beat::Beat;
use crate::change::{Change, State};
use crate::clock::Now;
use crate::image_key::ImageKey;
use crate::limits::Limits;
use crate::node_id::NodeId;
use crate::parts::{Part, Parts};
use crate::ring::Ring;
use holders::Holders;
pub use node::Node;
use parts::PartsOf;

/// Looks come every second; one that is only a little late is no sign of anything.
const TICK_LATE: Duration = Duration::from_secs(2);

/// Where a node is kept.
type Slot = u32;

/// There is no room for what a heartbeat brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many nodes live.
    #[error("there are {0} nodes already: one must expire before another is taken")]
    Nodes(usize),
    /// All nodes together hold too much.
    #[error("all nodes together hold more than {0} layers and images")]
    Items(usize),
    /// With what came, one node holds too much.
    #[error("a node may hold {layers} layers and {images} images at most")]
    OfNode {
        /// Most layers.
        layers: usize,
        /// Most images.
        images: usize,
    },
}

/// Parts cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoParts {
    /// Nobody knows the node.
    #[error("no heartbeat of this node has come: parts are taken of live nodes alone")]
    NotAlive,
    /// All nodes together have too many.
    #[error("all nodes together have more than {0} parts")]
    Full(usize),
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Nodes.
    pub nodes: usize,
    /// Layers that somebody holds, each once.
    pub layers: usize,
    /// Images that somebody holds, each once.
    pub images: usize,
    /// Layers and images, each as often as it is held.
    pub items: usize,
    /// Blobs that nodes have parts of, each as often.
    pub parts: usize,
}

/// Every live node.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    nodes: Vec<Option<Node>>,
    free: Vec<Slot>,
    ids: BTreeMap<NodeId, Slot>,
    seen: BTreeSet<(Duration, Slot)>,
    layers: Holders<Sha256Digest>,
    images: Holders<ImageKey>,
    parts: PartsOf,
    ring: Ring<Slot>,
    items: usize,
    began: Duration,
    ticked: Duration,
    slept: Duration,
    expired: u64,
}

impl Registry {
    /// One that knows nobody, from now on.
    pub fn new(limits: Limits, now: Now) -> Self {
        Self {
            limits,
            nodes: Vec::new(),
            free: Vec::new(),
            ids: BTreeMap::new(),
            seen: BTreeSet::new(),
            layers: Holders::default(),
            images: Holders::default(),
            parts: PartsOf::default(),
            ring: Ring::default(),
            items: 0,
            began: now.since,
            ticked: now.since,
            slept: Duration::ZERO,
            expired: 0,
        }
    }

    /// Takes in a heartbeat, which replaces what the node said before.
    ///
    /// # Errors
    /// When there is no room; what was known of the node stays, and expires when its time has come.
    pub fn beat(&mut self, beat: Beat, now: Now) -> Result<(), Full> {
        self.tick(now);
        self.replace(beat, now)
    }

    /// Takes in a heartbeat that says what is other than before, and answers with the state by which the node is known
    /// now: the change's, unless it is not known in the state since which it is one; then nothing was taken in.
    ///
    /// # Errors
    /// When there is no room; what was known of the node stays, and expires when its time has come.
    pub fn change(&mut self, change: Change, now: Now) -> Result<State, Full> {
        self.tick(now);
        let awake = self.awake(now);
        let slot = self.ids.get(&change.added.node_id).copied();
        let known = slot.and_then(|slot| Some((slot, self.nodes[slot as usize].as_mut()?)));
        let Some((slot, node)) = known else {
            return Ok(State::default());
        };
        if *node.state() != change.since || !change.since.is_named() {
            return Ok(node.state().clone());
        }
        let state = change.added.state.clone();
        if !change.is_empty() {
            let beat = node.after(change);
            let (layers, images) = (self.limits.layers_max, self.limits.images_max);
            if beat.layers.len() > layers || beat.images.len() > images {
                return Err(Full::OfNode { layers, images });
            }
            self.replace(beat, now)?;
            return Ok(state);
        }
        let seen = node.seen();
        node.touch(change.added, awake, now.unix_s);
        self.seen.remove(&(seen, slot));
        self.seen.insert((awake, slot));
        Ok(state)
    }

    fn replace(&mut self, beat: Beat, now: Now) -> Result<(), Full> {
        let slot = self.ids.get(&beat.node_id).copied();
        let before = slot.and_then(|slot| self.nodes[slot as usize].as_ref());
        let items = self.items - before.map_or(0, Node::items) + beat.items();
        if items > self.limits.items_max {
            return Err(Full::Items(self.limits.items_max));
        }
        if slot.is_none() && self.ids.len() >= self.limits.nodes_max {
            return Err(Full::Nodes(self.ids.len()));
        }
        let slot = slot.unwrap_or_else(|| self.room());
        let seen = self.awake(now);
        let node = Node::new(beat, seen, now.unix_s);
        let before = self.nodes[slot as usize].take();
        self.reindex(slot, before.as_ref(), Some(&node));
        if let Some(before) = before {
            self.seen.remove(&(before.seen(), slot));
        } else {
            self.ids.insert(node.id().clone(), slot);
            self.ring.insert(node.id(), slot);
        }
        self.seen.insert((seen, slot));
        self.nodes[slot as usize] = Some(node);
        self.items = items;
        Ok(())
    }

    /// Lets those go whose time is over, and says how many went. Wants to be called at least every second.
    pub fn tick(&mut self, now: Now) -> usize {
        let gap = now.since.saturating_sub(self.ticked);
        self.ticked = self.ticked.max(now.since);
        if gap > (self.limits.ttl / 2).max(TICK_LATE) {
            // This process was stopped, or starved: heartbeats of that time are still to be read, and nobody is
            // dead for our absence.
            self.slept += gap;
        }
        let awake = self.awake(now);
        let mut gone = 0;
        while let Some(&(seen, slot)) = self.seen.first() {
            if seen + self.limits.ttl > awake {
                break;
            }
            self.seen.pop_first();
            if let Some(node) = self.nodes[slot as usize].take() {
                self.reindex(slot, Some(&node), None);
                self.parts.replace(slot, Vec::new());
                self.items -= node.items();
                self.ids.remove(node.id());
                self.ring.remove(node.id());
                self.free.push(slot);
            }
            gone += 1;
        }
        self.expired += gone as u64;
        gone
    }

    /// Nodes that went since the beginning.
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Whether every live node has had its time to say what it holds.
    pub fn is_warm(&self, now: Now) -> bool {
        now.since >= self.began + self.limits.warm_up
    }

    /// Every live node, by id.
    pub fn every(&self) -> impl Iterator<Item = &Node> {
        self.ids.values().filter_map(|slot| self.node(*slot))
    }

    /// A live node.
    pub fn get(&self, id: &NodeId) -> Option<&Node> {
        self.ids.get(id).and_then(|slot| self.node(*slot))
    }

    /// Who holds a layer, by id: of very many, a part that is another one for another `asker`.
    pub fn with_layer(&self, digest: &Sha256Digest, asker: u64) -> Vec<&Node> {
        self.part(self.layers.of(digest), asker)
    }

    /// Who holds every layer of an image, likewise.
    pub fn with_image(&self, key: &ImageKey, asker: u64) -> Vec<&Node> {
        self.part(self.images.of(key), asker)
    }

    /// Who holds both, likewise.
    pub fn with_both(&self, key: &ImageKey, digest: &Sha256Digest, asker: u64) -> Vec<&Node> {
        let layer = self.layers.of(digest);
        let has_layer = |slot: &&Slot| layer.binary_search(slot).is_ok();
        let both: Vec<Slot> = self
            .images
            .of(key)
            .iter()
            .filter(has_layer)
            .copied()
            .collect();
        self.part(&both, asker)
    }

    /// Takes in what a node has parts of, which replaces what it said before.
    ///
    /// # Errors
    /// When the node is not alive, or there is no room; what was known stays.
    pub fn put_parts(&mut self, parts: Parts, now: Now) -> Result<(), NoParts> {
        self.tick(now);
        let slot = self.ids.get(&parts.node_id).copied();
        let slot = slot.ok_or(NoParts::NotAlive)?;
        let count = self.parts.count() - self.parts.of(slot).len() + parts.parts.len();
        if count > self.limits.all_parts_max {
            return Err(NoParts::Full(self.limits.all_parts_max));
        }
        self.parts.replace(slot, parts.parts);
        Ok(())
    }

    /// Who has parts of a layer, and which: of very many nodes, some that are others for another `asker`.
    pub fn with_parts(&self, digest: &Sha256Digest, asker: u64) -> Vec<(&Node, Vec<&Part>)> {
        let nodes = self.part(self.parts.slots(digest), asker);
        let of_it = |node: &Node| {
            let slot = self.ids.get(node.id());
            let parts = slot.map_or(&[][..], |slot| self.parts.of(*slot));
            parts.iter().filter(|part| part.layer == *digest).collect()
        };
        nodes.into_iter().map(|node| (node, of_it(node))).collect()
    }

    /// How many hold a layer.
    pub fn holders(&self, digest: &Sha256Digest) -> usize {
        self.layers.of(digest).len()
    }

    /// The `count` nodes that are to pull a layer, best first. Of the layers that are wanted with it each has a best one of
    /// its own, as far as that goes: two at once on one cable take twice as long. Every replica that knows the same
    /// nodes says the same.
    pub fn homes(
        &self,
        digest: &Sha256Digest,
        beside: &[Sha256Digest],
        count: usize,
    ) -> Vec<&Node> {
        let all: BTreeSet<&Sha256Digest> = beside.iter().chain([digest]).collect();
        let mut taken: HashMap<Slot, usize> = HashMap::new();
        let mut homes = Vec::new();
        for layer in all.into_iter().take_while(|layer| *layer <= digest) {
            homes = self.ring.homes(layer, count);
            let times = |slot: &Slot| taken.get(slot).copied().unwrap_or(0);
            let fewest = (0..homes.len()).min_by_key(|at| times(homes[*at]));
            if let Some(at) = fewest {
                homes[..=at].rotate_right(1);
                *taken.entry(*homes[0]).or_default() += 1;
            }
        }
        homes
            .into_iter()
            .filter_map(|slot| self.node(*slot))
            .collect()
    }

    /// How much there is.
    pub fn totals(&self) -> Totals {
        Totals {
            nodes: self.ids.len(),
            layers: self.layers.len(),
            images: self.images.len(),
            items: self.items,
            parts: self.parts.count(),
        }
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Of `slots` as many as an answer has, evenly spread from a place that depends on the asker: each is as
    /// likely to be named as any other, so that many askers spread over all of them.
    fn part(&self, slots: &[Slot], asker: u64) -> Vec<&Node> {
        let (count, max) = (slots.len(), self.limits.providers_max);
        let mut nodes: Vec<&Node> = if count <= max {
            slots.iter().filter_map(|slot| self.node(*slot)).collect()
        } else {
            let from = (asker % count as u64) as usize;
            let at = |index: usize| slots[(from + index * count / max) % count];
            let part = (0..max).filter_map(|index| self.node(at(index)));
            part.collect()
        };
        nodes.sort_unstable_by(|a, b| a.id().cmp(b.id()));
        nodes
    }

    fn node(&self, slot: Slot) -> Option<&Node> {
        self.nodes[slot as usize].as_ref()
    }

    fn room(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            (self.nodes.len() - 1) as Slot
        })
    }

    /// The time, without what this process slept through.
    fn awake(&self, now: Now) -> Duration {
        now.since.saturating_sub(self.slept)
    }

    fn reindex(&mut self, slot: Slot, before: Option<&Node>, after: Option<&Node>) {
        self.layers.replace(slot, digests(before), digests(after));
        self.images.replace(slot, keys(before), keys(after));
    }
}

fn digests(node: Option<&Node>) -> impl Iterator<Item = &Sha256Digest> {
    let layers = node.map_or(&[][..], Node::layers);
    layers.iter().map(|layer| &layer.digest)
}

fn keys(node: Option<&Node>) -> impl Iterator<Item = &ImageKey> {
    let images = node.map_or(&[][..], Node::images);
    images.iter().map(|image| &image.key)
}

#[cfg(test)]
mod tests;
