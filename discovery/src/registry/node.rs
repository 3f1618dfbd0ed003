//! A live node, and how it is told to others.

use std::time::Duration;

use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::{LayerStat, ServiceInstance};

use crate::beat::{Beat, HeldImage, HeldLayer};
use crate::change::{self, Change, State};
use crate::image_key::ImageKey;
use crate::node_id::NodeId;

/// What the last heartbeat said.
#[derive(Debug)]
pub struct Node {
    beat: Beat,
    seen: Duration,
    unix_s: i64,
}

impl Node {
    pub(super) fn new(beat: Beat, seen: Duration, unix_s: i64) -> Self {
        Self { beat, seen, unix_s }
    }

    /// Its name.
    pub fn id(&self) -> &NodeId {
        &self.beat.node_id
    }

    /// Where its layerstore is.
    pub fn endpoint(&self) -> &str {
        &self.beat.endpoint
    }

    /// What it holds, by digest.
    pub fn layers(&self) -> &[HeldLayer] {
        &self.beat.layers
    }

    /// Images that it holds, by key.
    pub fn images(&self) -> &[HeldImage] {
        &self.beat.images
    }

    /// How it names what it holds.
    pub fn state(&self) -> &State {
        &self.beat.state
    }

    /// What it would say after a change if it said everything.
    pub(super) fn after(&self, change: Change) -> Beat {
        let Change {
            added,
            removed_layers,
            removed_images,
            ..
        } = change;
        let layers = change::applied(self.layers(), added.layers, &removed_layers, |l| &l.digest);
        let images = change::applied(self.images(), added.images, &removed_images, |i| &i.key);
        Beat {
            layers,
            images,
            ..added
        }
    }

    /// It lives, and holds what it held.
    pub(super) fn touch(&mut self, said: Beat, seen: Duration, unix_s: i64) {
        self.beat.endpoint = said.endpoint;
        self.beat.cache_bytes_max = said.cache_bytes_max;
        self.beat.state = said.state;
        (self.seen, self.unix_s) = (seen, unix_s);
    }

    pub(super) fn items(&self) -> usize {
        self.beat.items()
    }

    pub(super) fn seen(&self) -> Duration {
        self.seen
    }

    /// Without lists.
    pub fn brief(&self) -> ServiceInstance {
        let beat = &self.beat;
        ServiceInstance {
            node_id: beat.node_id.as_str().to_owned(),
            endpoint: beat.endpoint.clone().into(),
            last_seen_unix: self.unix_s,
            cache_max_bytes: as_int64(beat.cache_bytes_max),
            ..ServiceInstance::default()
        }
    }

    /// With everything.
    pub fn whole(&self) -> ServiceInstance {
        let sized = self.beat.layers.iter().filter(|layer| layer.bytes > 0);
        let said = self.beat.images.iter().map(|image| image.said.to_string());
        ServiceInstance {
            layer_digests: self.beat.layers.iter().map(digest_text).collect(),
            layer_stats: sized.map(stat).collect(),
            cached_images: said.collect(),
            ..self.brief()
        }
    }

    /// With this layer and this image, as far as it holds them.
    pub fn about(&self, layer: Option<&Sha256Digest>, image: Option<&ImageKey>) -> ServiceInstance {
        let mut told = self.brief();
        let layers = &self.beat.layers;
        let at = layer.and_then(|digest| {
            let found = layers.binary_search_by_key(digest, |layer| layer.digest);
            found.ok().map(|at| &layers[at])
        });
        if let Some(layer) = at {
            told.layer_digests.push(digest_text(layer));
            told.layer_stats
                .extend((layer.bytes > 0).then(|| stat(layer)));
        }
        let images = &self.beat.images;
        let at = image.and_then(|key| {
            let found = images.binary_search_by(|image| image.key.cmp(key));
            found.ok().map(|at| &images[at])
        });
        told.cached_images
            .extend(at.map(|image| image.said.to_string()));
        told
    }

    /// About how many bytes [`Node::whole`] has in a message.
    pub fn whole_bytes(&self) -> usize {
        // A digest has 71 bytes, and is there twice when it has a size.
        let images = self.beat.images.iter().map(|image| image.said.len() + 4);
        400 + self.beat.layers.len() * 160 + images.sum::<usize>()
    }
}

fn digest_text(layer: &HeldLayer) -> String {
    layer.digest.to_string()
}

fn stat(layer: &HeldLayer) -> LayerStat {
    LayerStat {
        digest: layer.digest.to_string(),
        afs_size: as_int64(layer.bytes),
    }
}

fn as_int64(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
