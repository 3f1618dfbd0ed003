//! Keeping the layers of an image on this node for the cluster, for as long as somebody goes on asking for it.
//!
//! Always: layers that are here are kept without asking a registry; a lease ends by itself, or when the flist is forgotten.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use lamina_flist::Sha256Digest;
use lamina_proto::lamina::v1::source::From;
use lamina_proto::lamina::v1::{ImageSource, Source};

use super::error::NodeError;
use super::library::{self, Have};
use crate::docker_config::DockerConfig;
use crate::layers::{self, Ensured, Layerstore, WantedImage};

/// Longest time that layers are kept for one call.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Keeps the layers of what was made of them.
pub(super) async fn keep(
    layers: &Layerstore,
    source: &Source,
    have: &Have,
    time: Duration,
) -> Result<(), NodeError> {
    let Some(image) = image_of(source).filter(|_| have.info.stores.is_empty()) else {
        return Ok(());
    };
    let digests = digests(&have.flist).await?;
    let shelf = layers.shelf();
    // Until the lease is there, what came stays because somebody has it.
    let _held = match digests.iter().all(|layer| shelf.size(layer).is_some()) {
        true => None,
        false => Some(bring(layers, image, have, &digests).await?),
    };
    let lease = id(&have.info.digest);
    Ok(shelf.lease(lease, digests, time.min(TIME_MAX))?)
}

/// Lets go of what was kept of a flist.
pub(super) fn let_go(layers: &Layerstore, digest: &str) {
    layers.shelf().release(&id(digest));
}

fn id(digest: &str) -> String {
    format!("kept {digest}")
}

fn image_of(source: &Source) -> Option<&ImageSource> {
    match source.from.as_ref()? {
        From::Image(image) => Some(image),
        From::Flist(flist) => flist.image.as_ref(),
        From::Archive(_) => None,
    }
}

/// The credentials of whoever asks for an image, for its registry alone: what its layers are pulled with while it is
/// mounted.
pub(super) async fn docker_config(source: &Source, have: &Have) -> DockerConfig {
    let Some(image) = image_of(source).filter(|image| !image.docker_config_json.is_empty()) else {
        return DockerConfig::default();
    };
    let wanted = async {
        let named = library::named(image, &have.info.manifest)?;
        WantedImage::of(named, image.docker_config_json.clone()).await
    };
    match wanted.await {
        Ok(wanted) => DockerConfig::new(wanted.docker_config()),
        Err(error) => {
            tracing::warn!(%error, "layers that nobody holds will be pulled without credentials");
            DockerConfig::default()
        }
    }
}

/// The layers that a flist was made of.
async fn digests(flist: &Path) -> Result<HashSet<Sha256Digest>, NodeError> {
    let path = flist.to_owned();
    let read = move || {
        let flist = lamina_store::open_flist(&path)?;
        let layers = &flist.meta().provenance.layers;
        Ok(layers.iter().map(|layer| layer.digest).collect())
    };
    let what = format!("read {}", flist.display());
    let read = tokio::task::spawn_blocking(read).await;
    let read: Result<_, lamina_store::OpenFlistError> =
        read.map_err(|error| NodeError::internal(&what, &error))?;
    read.map_err(|error| NodeError::internal(&what, &error))
}

async fn bring(
    layers: &Layerstore,
    image: &ImageSource,
    have: &Have,
    digests: &HashSet<Sha256Digest>,
) -> Result<Ensured, NodeError> {
    let named = library::named(image, &have.info.manifest)?;
    let wanted = WantedImage::of(named, image.docker_config_json.clone()).await?;
    let digests: Vec<Sha256Digest> = digests.iter().copied().collect();
    let ensured = layers.ensure(&wanted, Some(&digests), layers::Origin::Anywhere);
    Ok(ensured.await?)
}
