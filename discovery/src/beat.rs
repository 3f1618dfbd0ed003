//! A heartbeat, checked: who lives where and holds what.
//!
//! Everything that a node says is bounded here, and what is refused is named by its field: nothing of a refused
//! heartbeat is taken in.

use lamina_flist::Sha256Digest;
use lamina_proto::discovery::v1::{HeartbeatRequest, LayerStat};

use crate::change::State;
use crate::image_key::ImageKey;
use crate::limits::Limits;
use crate::node_id::{NodeId, check_endpoint};

/// No layer is larger (1 PiB), nor a cache (1 EiB): sums of them stay far from overflow.
const LAYER_BYTES_MAX: u64 = 1 << 50;
const CACHE_BYTES_MAX: u64 = 1 << 60;

/// A field that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct BadField {
    field: String,
    why: String,
}

impl BadField {
    /// Says why a field is refused.
    pub fn new(field: &str, why: impl std::fmt::Display) -> Self {
        Self {
            field: field.to_owned(),
            why: why.to_string(),
        }
    }

    /// The same of one item of a list.
    pub fn at(field: &str, index: usize, why: impl std::fmt::Display) -> Self {
        Self::new(&format!("{field}[{index}]"), why)
    }

    /// Which one.
    pub fn field(&self) -> &str {
        &self.field
    }
}

/// A layer of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLayer {
    /// Which.
    pub digest: Sha256Digest,
    /// Bytes as the node keeps it; 0 when it does not say.
    pub bytes: u64,
}

/// An image of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldImage {
    /// Which.
    pub key: ImageKey,
    /// As the node spells it.
    pub said: Box<str>,
}

/// A checked heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub node_id: NodeId,
    /// host:port of its layerstore.
    pub endpoint: Box<str>,
    /// What it holds, by digest, each once.
    pub layers: Vec<HeldLayer>,
    /// Of which images it has every layer, by key, each once.
    pub images: Vec<HeldImage>,
    /// Most bytes that it caches.
    pub cache_bytes_max: u64,
    /// How the node names this.
    pub state: State,
}

impl Beat {
    /// Checks what a node sent.
    ///
    /// # Errors
    /// Names the first field that is not as it must be.
    pub fn parse(request: &HeartbeatRequest, limits: &Limits) -> Result<Self, BadField> {
        let node_id =
            NodeId::parse(&request.node_id).map_err(|why| BadField::new("node_id", why))?;
        check_endpoint(&request.endpoint).map_err(|why| BadField::new("endpoint", why))?;
        let cache_bytes_max = u64::try_from(request.cache_max_bytes)
            .ok()
            .filter(|bytes| *bytes <= CACHE_BYTES_MAX)
            .ok_or_else(|| BadField::new("cache_max_bytes", "it is no size of a cache"))?;
        let mut layers = layers(&request.layer_digests, limits)?;
        add_sizes(&mut layers, &request.layer_stats)?;
        Ok(Self {
            node_id,
            endpoint: request.endpoint.as_str().into(),
            layers,
            images: images(&request.cached_images, limits)?,
            cache_bytes_max,
            state: State::parse("state", &request.state)?,
        })
    }

    /// Layers and images.
    pub fn items(&self) -> usize {
        self.layers.len() + self.images.len()
    }
}

pub(crate) fn check_count(field: &str, count: usize, max: usize) -> Result<(), BadField> {
    if count > max {
        return Err(BadField::new(
            field,
            format!("{count} of them are too many; at most {max} are taken"),
        ));
    }
    Ok(())
}

fn layers(digests: &[String], limits: &Limits) -> Result<Vec<HeldLayer>, BadField> {
    let field = "layer_digests";
    check_count(field, digests.len(), limits.layers_max)?;
    let parse = |(index, text): (usize, &String)| {
        let digest = text.parse();
        let digest = digest.map_err(|error| BadField::at(field, index, error))?;
        Ok(HeldLayer { digest, bytes: 0 })
    };
    let layers: Result<Vec<HeldLayer>, BadField> = digests.iter().enumerate().map(parse).collect();
    let mut layers = layers?;
    layers.sort_unstable_by_key(|layer| layer.digest);
    layers.dedup_by_key(|layer| layer.digest);
    Ok(layers)
}

fn add_sizes(layers: &mut [HeldLayer], stats: &[LayerStat]) -> Result<(), BadField> {
    let field = "layer_stats";
    check_count(field, stats.len(), layers.len())?;
    for (index, stat) in stats.iter().enumerate() {
        let bad = |why: &str| BadField::at(field, index, why);
        let digest: Sha256Digest = stat
            .digest
            .parse()
            .map_err(|error| BadField::at(field, index, error))?;
        let layer = layers
            .binary_search_by_key(&digest, |layer| layer.digest)
            .map_err(|_| bad("its digest is not among layer_digests"))?;
        let bytes = u64::try_from(stat.afs_size).ok();
        let bytes = bytes.filter(|bytes| *bytes <= LAYER_BYTES_MAX);
        let bytes = bytes.ok_or_else(|| bad("its afs_size is no size of a layer"))?;
        let known = &mut layers[layer].bytes;
        if *known != 0 && *known != bytes {
            return Err(bad("the same layer has another size before"));
        }
        *known = bytes;
    }
    Ok(())
}

fn images(keys: &[String], limits: &Limits) -> Result<Vec<HeldImage>, BadField> {
    let field = "cached_images";
    check_count(field, keys.len(), limits.images_max)?;
    let parse = |(index, text): (usize, &String)| {
        let key = ImageKey::parse(text).map_err(|error| BadField::at(field, index, error))?;
        let said = text.as_str().into();
        Ok(HeldImage { key, said })
    };
    let images: Result<Vec<HeldImage>, BadField> = keys.iter().enumerate().map(parse).collect();
    let mut images = images?;
    images.sort_by(|a, b| a.key.cmp(&b.key));
    images.dedup_by(|a, b| a.key == b.key);
    Ok(images)
}

#[cfg(test)]
mod tests;
