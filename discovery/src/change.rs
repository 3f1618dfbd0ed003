//! A heartbeat that says what is other than before, checked.
//!
//! A node with a thousand layers says the same thousand every few seconds, and reading them is nearly all that a replica
//! does. So a node names each of its states, and says what came and went since a state that the replica has confirmed.

use std::cmp::Ordering;

use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::HeartbeatRequest;

use crate::beat::{BadField, Beat, HeldImage, HeldLayer, check_count};
use crate::image_key::ImageKey;
use crate::limits::Limits;

/// Bytes of a state's name.
const STATE_MAX: usize = 32;

/// A node's name for what it holds; empty when it does not name it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State(Box<[u8]>);

impl State {
    /// Checks what a node sent.
    pub(crate) fn parse(field: &str, bytes: &[u8]) -> Result<Self, BadField> {
        match bytes.len() <= STATE_MAX {
            true => Ok(Self(bytes.into())),
            false => Err(BadField::new(field, "it has more than 32 bytes")),
        }
    }

    /// As it travels.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the node has named it.
    pub fn is_named(&self) -> bool {
        !self.0.is_empty()
    }
}

/// What came and went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Since when.
    pub since: State,
    /// Who, where, the new state, and what came.
    pub added: Beat,
    /// Layers that went, sorted, none of them among those that came.
    pub removed_layers: Vec<Sha256Digest>,
    /// Images that went, likewise.
    pub removed_images: Vec<ImageKey>,
}

impl Change {
    /// Checks what a node sent.
    ///
    /// # Errors
    /// Names the first field that is not as it must be.
    pub fn parse(request: &HeartbeatRequest, limits: &Limits) -> Result<Self, BadField> {
        let added = Beat::parse(request, limits)?;
        let gone = &request.removed_layer_digests;
        let removed_layers = keys(
            "removed_layer_digests",
            gone,
            limits.layers_max,
            str::parse::<Sha256Digest>,
        )?;
        let gone = &request.removed_images;
        let removed_images = keys("removed_images", gone, limits.images_max, ImageKey::parse)?;
        let twice = |layer: &HeldLayer| removed_layers.binary_search(&layer.digest).is_ok();
        if added.layers.iter().any(twice) {
            let why = "one of them is among layer_digests";
            return Err(BadField::new("removed_layer_digests", why));
        }
        let twice = |image: &HeldImage| removed_images.binary_search(&image.key).is_ok();
        if added.images.iter().any(twice) {
            let why = "one of them is among cached_images";
            return Err(BadField::new("removed_images", why));
        }
        Ok(Self {
            since: State::parse("since", &request.since)?,
            added,
            removed_layers,
            removed_images,
        })
    }

    /// Whether the node holds what it held.
    pub(crate) fn is_empty(&self) -> bool {
        self.added.items() == 0 && self.removed_layers.is_empty() && self.removed_images.is_empty()
    }
}

/// What a list of texts names, each once and sorted.
pub(crate) fn keys<T: Ord, E: std::fmt::Display>(
    field: &str,
    said: &[String],
    max: usize,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Vec<T>, BadField> {
    check_count(field, said.len(), max)?;
    let parse = |(index, text): (usize, &String)| {
        parse(text).map_err(|error| BadField::at(field, index, error))
    };
    let mut keys = said
        .iter()
        .enumerate()
        .map(parse)
        .collect::<Result<Vec<T>, _>>()?;
    keys.sort_unstable();
    keys.dedup();
    Ok(keys)
}

/// What a node holds after a change: `old` and `added` are sorted by `key`, and what is in both is taken from `added`.
pub(crate) fn applied<T: Clone, K: Ord>(
    old: &[T],
    added: Vec<T>,
    removed: &[K],
    key: impl Fn(&T) -> &K,
) -> Vec<T> {
    let mut merged = Vec::with_capacity(old.len() + added.len());
    let mut added = added.into_iter().peekable();
    for item in old {
        while let Some(new) = added.next_if(|new| key(new) < key(item)) {
            merged.push(new);
        }
        let is_replaced = added
            .peek()
            .is_some_and(|new| key(new).cmp(key(item)) == Ordering::Equal);
        if !is_replaced && removed.binary_search(key(item)).is_err() {
            merged.push(item.clone());
        }
    }
    merged.extend(added);
    merged
}
