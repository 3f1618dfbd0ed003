//! When nobody has a layer: have it pulled, once for the cluster, by the node that all agree on, else by our own.

use std::sync::Arc;
use std::time::Duration;

use lamina_discovery::NodeId;
use lamina_flist::{Flist, Sha256Digest};
use lamina_proto::lamina::v1::Home;
use lamina_proto::layerstore::v1::layer_store_client::LayerStoreClient;
use lamina_proto::layerstore::v1::{EnsureLayersRequest, Layer};
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::known::Holder;
use super::member::Member;
use crate::docker_config::{DockerConfig, Lent};
use crate::layers::CONFIG_KEY;

/// A home that does not say so much as a refusal within this time is pulling; a reader waits no longer for it than its
/// own deadline.
const HOMES: usize = 4;

/// What a layer is pulled as part of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    /// The reference that was asked for.
    reference: String,
    /// The manifest's digest, which pins it.
    manifest: Option<Sha256Digest>,
    /// os, arch, variant.
    platform: [String; 3],
    /// Who may pull it.
    pub(crate) lent: Lent,
}

impl Image {
    /// The one a flist was made of; `named`: where its layers can be pulled.
    pub(crate) fn of(flist: &Flist, named: Option<&str>) -> Self {
        let provenance = &flist.meta().provenance;
        let platform = provenance.platform.as_deref().unwrap_or_default();
        let mut parts = platform.splitn(3, '/').map(str::to_owned);
        Self {
            reference: named
                .or(provenance.source.as_deref())
                .unwrap_or_default()
                .to_owned(),
            manifest: provenance.manifest,
            platform: std::array::from_fn(|_| parts.next().unwrap_or_default()),
            lent: Lent::default(),
        }
    }

    fn request(&self, layer: &Sha256Digest) -> EnsureLayersRequest {
        let [os, arch, variant] = self.platform.clone();
        let manifest = self.manifest.map(|digest| digest.to_string());
        EnsureLayersRequest {
            image: self.reference.clone(),
            tag: manifest.unwrap_or_default(),
            platform_os: os,
            platform_arch: arch,
            platform_variant: variant,
            layers: vec![Layer {
                digest: layer.to_string(),
                ..Layer::default()
            }],
        }
    }
}

/// Who pulled a layer.
pub(super) enum Brought {
    /// Another node.
    Peer(Holder),
    /// Our own layerstore.
    Own,
}

impl Member {
    /// The nodes that are to pull a layer; whether discovery asks us to come again.
    pub(super) async fn homes(&self, layer: &Sha256Digest) -> (Vec<Home>, bool) {
        match self.discovery.find_homes(layer, &[]).await {
            Ok(mut homes) => {
                homes.truncate(HOMES);
                (homes, false)
            }
            Err(error) => {
                tracing::debug!(%error, %layer, "ask who is to pull a layer");
                (Vec::new(), error.is_rationed())
            }
        }
    }

    /// Has a home pull a layer; says who has it then.
    pub(super) async fn pull_at(
        self: &Arc<Self>,
        home: &Home,
        layer: &Sha256Digest,
        image: &Image,
        until: Instant,
    ) -> Option<Brought> {
        let known = self.known.layer(layer);
        let began = std::time::Instant::now();
        let _pulling = timeout_at(until, known.pulling.lock()).await.ok()?;
        if let Some(holder) = known.brought_since(began) {
            return Some(Brought::Peer(holder));
        }
        if home.node_id == self.node().as_str() {
            return self.ensure_own(layer, image, until).await;
        }
        let holder = Holder::new(&home.node_id, home.endpoint.clone(), None)?;
        let channel = self.pool.to(&holder.endpoint).ok()?;
        // Others on the way do not hear who asks: a home that needs to know refuses, and our own pulls.
        let as_whom = image.lent.latest().filter(|_| self.pool.is_private());
        match ensure(channel, layer, image, as_whom, until).await {
            Ok(()) => {
                known.was_brought(holder.clone());
                Some(Brought::Peer(holder))
            }
            Err(why) => {
                tracing::warn!(%layer, home = %holder.id, why, "a home does not pull a layer");
                None
            }
        }
    }

    /// Has our own layerstore pull it, from the registry if need be.
    pub(super) async fn pull_own(
        self: &Arc<Self>,
        layer: &Sha256Digest,
        image: &Image,
        until: Instant,
    ) -> Option<Brought> {
        let known = self.known.layer(layer);
        let began = std::time::Instant::now();
        let _pulling = timeout_at(until, known.pulling.lock()).await.ok()?;
        if let Some(holder) = known.brought_since(began) {
            return Some(Brought::Peer(holder));
        }
        self.ensure_own(layer, image, until).await
    }

    async fn ensure_own(
        &self,
        layer: &Sha256Digest,
        image: &Image,
        until: Instant,
    ) -> Option<Brought> {
        let as_whom = image.lent.latest();
        match ensure(self.own.clone(), layer, image, as_whom, until).await {
            Ok(()) => Some(Brought::Own),
            Err(why) => {
                tracing::warn!(%layer, why, "our own layerstore does not pull a layer");
                None
            }
        }
    }
}

async fn ensure(
    channel: Channel,
    layer: &Sha256Digest,
    image: &Image,
    as_whom: Option<Arc<DockerConfig>>,
    until: Instant,
) -> Result<(), String> {
    let mut client = LayerStoreClient::new(channel);
    let mut request = tonic::Request::new(image.request(layer));
    if let Some(config) = as_whom {
        let mut config = MetadataValue::from_bytes(config.as_bytes());
        config.set_sensitive(true);
        request.metadata_mut().insert_bin(CONFIG_KEY, config);
    }
    let left = until.saturating_duration_since(Instant::now());
    request.set_timeout(left.max(Duration::from_millis(1)));
    match timeout_at(until, client.ensure_layers(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(format!("{:?}: {}", status.code(), status.message())),
        Err(_) => Err("it takes longer than the reader may wait; it goes on".into()),
    }
}

/// A home as somebody who may be chosen.
pub(super) fn id_of(home: &Home) -> Option<NodeId> {
    NodeId::parse(&home.node_id).ok()
}
