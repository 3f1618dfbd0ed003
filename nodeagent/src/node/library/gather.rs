//! In a cluster: an image's flist from its layers' records, wherever these are. No data is read for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_discovery::image_key::NamedImage;
use lamina_flist::{Flist, Sha256Digest};
use lamina_image::convert::{ConvertOptions, assemble_image};

use super::card::Card;
use super::flight::Teller;
use super::make::checked;
use super::wanted::Image;
use super::{Inner, Phase};
use crate::layers::{EnsureError, EnsureErrorKind, Layerstore, WantedImage};

impl Inner {
    /// The flist that a conversion which finds nothing stored would give, without the image's name: the same on every
    /// node, by whatever name. It names no stores: its data is with the layers, in the cluster.
    pub(super) async fn gather(
        &self,
        layers: &Layerstore,
        manifest: Sha256Digest,
        image: &Image,
        teller: &Teller,
    ) -> Result<(Flist, Card), EnsureError> {
        teller.tell(Phase::Fetch, 0, 0);
        let wanted = WantedImage {
            named: NamedImage {
                reference: image.reference.pinned(manifest),
                platform: image.platform.clone(),
            },
            credentials: image.credentials().await?,
        };
        let source = layers.resolve(&wanted).await?;
        let total = source.layers.iter().map(|layer| layer.size).sum();
        let done = AtomicU64::new(0);
        let progress = |index: usize| {
            let size = source.layers[index].size;
            let done = done.fetch_add(size, Ordering::Relaxed) + size;
            teller.tell(Phase::Fetch, done, total);
        };
        let records = layers.records(&source, &wanted, progress).await?;
        let _turn = self.queue.turn().await?;
        let options = ConvertOptions {
            limits: self.config.limits.image.clone(),
            // A mirror's name must not make another flist of the same image; who mounts it says where it is.
            name_source: false,
            ..ConvertOptions::default()
        };
        let what = format!("put {} ({}) together", image.reference, image.platform);
        let assembling = {
            let source = Arc::clone(&source);
            move || assemble_image(&source, records, &options).map_err(Box::new)
        };
        let assembled = tokio::task::spawn_blocking(assembling).await;
        let assembled = assembled.map_err(|error| {
            EnsureError::new(EnsureErrorKind::Internal, what.clone()).because(error)
        })?;
        let assembled = assembled.map_err(|error| EnsureError::convert(what, *error))?;
        let flist = Flist::parse(assembled.flist.into());
        checked(flist.map_err(|error| EnsureError::flist("read the flist just made", error))?).await
    }
}
