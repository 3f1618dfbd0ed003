//! Having another node pull a layer for all.
//!
//! The caller's credentials travel with the call, as a docker config for that one registry, and are used for that
//! pull alone.

use std::time::Duration;

use lamina_discovery::choose::Outcome;
use lamina_image::SourceImage;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::{EnsureLayersRequest, Layer};
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;

use super::layerstore::digest_of;
use super::peers::PeerError;
use super::wanted::WantedImage;

/// A docker config.json: who asks.
pub(crate) const CONFIG_KEY: &str = "lamina-docker-config-bin";
/// Present: the callee is to read the registry itself, and nobody else.
pub(super) const AS_HOME_KEY: &str = "lamina-as-home";
/// How long a pull may take. A home that dies is noticed by its connection, long before.
const PULL_DEADLINE: Duration = Duration::from_secs(3600);

/// What a home is asked for.
pub(super) struct Home {
    request: EnsureLayersRequest,
    docker_config: Vec<u8>,
}

impl Home {
    /// One layer of an image, for whoever wants it.
    pub(super) fn new(image: &SourceImage, index: usize, wanted: &WantedImage) -> Self {
        let reference = &wanted.named.reference;
        let platform = &wanted.named.platform;
        let layer = &image.layers[index];
        // By digest: the tag may have moved since.
        let tag = image.manifest_digest.map(|digest| digest.to_string());
        Self {
            request: EnsureLayersRequest {
                image: format!("{}/{}", reference.registry(), reference.repository()),
                tag: tag.unwrap_or_default(),
                platform_os: platform.os.clone(),
                platform_arch: platform.arch.clone(),
                platform_variant: platform.variant.clone(),
                layers: vec![Layer {
                    digest: digest_of(image, index).to_string(),
                    media_type: layer.media_type.clone().unwrap_or_default(),
                    compressed_size: i64::try_from(layer.size).unwrap_or(i64::MAX),
                    ..Layer::default()
                }],
            },
            docker_config: wanted.docker_config(),
        }
    }

    /// Has the node at the other end pull it.
    pub(super) async fn pull(&self, channel: Channel) -> Result<(), PeerError> {
        let mut request = Request::new(self.request.clone());
        let metadata = request.metadata_mut();
        metadata.insert(AS_HOME_KEY, MetadataValue::from_static("1"));
        if !self.docker_config.is_empty() {
            let mut config = MetadataValue::from_bytes(&self.docker_config);
            config.set_sensitive(true);
            metadata.insert_bin(CONFIG_KEY, config);
        }
        let mut client = LayerStoreClient::new(channel);
        let pulled = tokio::time::timeout(PULL_DEADLINE, client.ensure_layers(request)).await;
        pulled
            .map_err(|_| PeerError::late(PULL_DEADLINE))?
            .map(drop)
            .map_err(|status| {
                let mut error = PeerError::from(status);
                if error.outcome == Outcome::Wrong {
                    // The registry's bytes were, not the peer's.
                    error.outcome = Outcome::Dropped;
                }
                error
            })
    }
}

/// What a call says of its caller and of its meaning.
pub(super) struct Asked {
    /// A docker config.json, or nothing.
    pub(super) docker_config: Vec<u8>,
    /// The registry is to be read here.
    pub(super) as_home: bool,
}

impl Asked {
    /// Reads a call's metadata; `None` when it cannot be read.
    pub(super) fn of(metadata: &MetadataMap) -> Option<Self> {
        let docker_config = match metadata.get_bin(CONFIG_KEY) {
            Some(value) => value.to_bytes().ok()?.to_vec(),
            None => Vec::new(),
        };
        Some(Self {
            docker_config,
            as_home: metadata.contains_key(AS_HOME_KEY),
        })
    }
}
