//! A flist that is not here: fetched from the stores, or made by converting.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lamina_flist::{Flist, FlistDigest, Sha256Digest};
use lamina_image::convert::{self, ConvertOptions, PackPlace, convert, convert_archive};
use lamina_image::progress::Progress;
use lamina_image::registry::RegistryOptions;
use lamina_store::{
    ChunkIndex, ImagePointer, LoadOptions, fetch_flist, fetch_pointer, publish_flist,
    publish_pointer,
};

use super::card::Card;
use super::flight::Teller;
use super::notes::{FlistNote, archive_name, manifest_name};
use super::resolve::registry_options;
use super::shelf::Held;
use super::stores::Stores;
use super::wanted::{Archive, Image};
use super::{Have, Inner, Phase};
use crate::layers::{EnsureError, EnsureErrorKind};

impl Inner {
    /// The flist of a manifest, if it is here.
    pub(super) fn find(
        &self,
        manifest: &Sha256Digest,
        image: &Image,
        stores: &Stores,
    ) -> Result<Option<Have>, EnsureError> {
        let name = manifest_name(manifest, &image.platform, &stores.name());
        let Some((digest, held)) = self.noted("manifests", &name)? else {
            return Ok(None);
        };
        self.shelf.name(&digest, &image.text);
        Ok(Some(have(held, stores, Some(&image.text))))
    }

    /// The flist that a note leads to, if it is here.
    fn noted(&self, sub: &str, name: &str) -> Result<Option<(FlistDigest, Held)>, EnsureError> {
        let Some(FlistNote { flist }) = self.shelf.note(sub, name) else {
            return Ok(None);
        };
        Ok(self.shelf.get(&flist)?.map(|held| (flist, held)))
    }

    /// Fetches what another node converted; else puts it together from the cluster's layers, or converts: where there
    /// is no cluster, and where stores were named, to be published there.
    pub(super) async fn make_image(
        self: Arc<Self>,
        manifest: Sha256Digest,
        image: Image,
        stores: Stores,
        teller: Teller,
    ) -> Result<Have, EnsureError> {
        if let Some(have) = self.find(&manifest, &image, &stores)? {
            return Ok(have);
        }
        let note = manifest_name(&manifest, &image.platform, &stores.name());
        teller.tell(Phase::Fetch, 0, 0);
        let pointed = self.pointed(&manifest, &image, &stores).await;
        let (flist, card) = match (pointed, &self.config.layers) {
            // Wherever it was read from before, it is read from these here.
            (Some((flist, card)), _) => {
                let stores = stores.shown();
                (flist, Card { stores, ..card })
            }
            (None, Some(layers)) if !stores.were_named => {
                self.gather(layers, manifest, &image, &teller).await?
            }
            (None, _) => {
                self.convert_image(manifest, &image, &stores, &teller)
                    .await?
            }
        };
        self.keep(
            &flist,
            card,
            &stores,
            Some(&image.text),
            ("manifests", &note),
        )
    }

    /// The flist that the stores' pointer leads to. Whatever is wrong with it, converting helps.
    async fn pointed(
        &self,
        manifest: &Sha256Digest,
        image: &Image,
        stores: &Stores,
    ) -> Option<(Flist, Card)> {
        let platform = image.platform.to_string();
        let pointer = match fetch_pointer(&stores.set, manifest, &platform).await {
            Ok(pointer) => pointer?,
            Err(error) => {
                tracing::warn!(%manifest, %error, "look for a converted image in the stores");
                return None;
            }
        };
        match self.fetch(pointer.flist, stores).await {
            Ok(found) if found.1.manifest == manifest.to_string() => Some(found),
            Ok(_) => {
                tracing::warn!(%manifest, flist = %pointer.flist, "a pointer leads to another image");
                None
            }
            Err(error) => {
                let error = crate::chain(&error);
                tracing::warn!(%manifest, flist = %pointer.flist, error, "take a converted image");
                None
            }
        }
    }

    /// A flist from the stores, checked as a whole.
    pub(super) async fn fetch(
        &self,
        digest: FlistDigest,
        stores: &Stores,
    ) -> Result<(Flist, Card), EnsureError> {
        let fetched = fetch_flist(&stores.set, digest).await;
        let flist = fetched
            .map_err(|error| EnsureError::store(format!("fetch the flist {digest}"), error))?;
        if flist.is_layer() {
            let what = format!("{digest} is a layer, not a file system");
            return Err(EnsureError::new(EnsureErrorKind::InvalidArgument, what));
        }
        checked(flist).await
    }

    async fn convert_image(
        &self,
        manifest: Sha256Digest,
        image: &Image,
        stores: &Stores,
        teller: &Teller,
    ) -> Result<(Flist, Card), EnsureError> {
        teller.tell(Phase::Convert, 0, 0);
        let _turn = self.queue.turn().await?;
        let _stores = self.collecting.read().await;
        let registry = registry_options(&self.config, image);
        let options = ConvertOptions {
            platform: Some(image.platform.clone()),
            ..self.options(registry, stores)
        };
        let place = self.place(stores).await?;
        let source = lamina_image::Source::Registry(image.reference.pinned(manifest));
        let converted = convert(&source, &place, &options, told(teller)).await;
        let converted = converted.map_err(|error| {
            let what = format!("convert {} ({})", image.reference, image.platform);
            EnsureError::convert(what, error)
        })?;
        let (flist, card) = published(converted.flist, stores).await?;
        let pointer = ImagePointer {
            flist: flist.digest(),
            manifest,
            platform: image.platform.to_string(),
        };
        publish_pointer(&stores.set, &pointer)
            .await
            .map_err(|error| EnsureError::store("publish the image's pointer", error))?;
        Ok((flist, card))
    }

    /// The flist of an archive of known digest, if it is here.
    pub(super) fn find_archive(
        &self,
        archive: &Archive,
        stores: &Stores,
    ) -> Result<Option<Have>, EnsureError> {
        let Some(sha256) = &archive.sha256 else {
            return Ok(None);
        };
        let name = archive_name(&archive.url, sha256, &stores.name());
        let found = self.noted("archives", &name)?;
        Ok(found.map(|(_, held)| have(held, stores, None)))
    }

    /// Downloads and converts an archive.
    pub(super) async fn make_archive(
        self: Arc<Self>,
        archive: Archive,
        stores: Stores,
        teller: Teller,
    ) -> Result<Have, EnsureError> {
        if let Some(have) = self.find_archive(&archive, &stores)? {
            return Ok(have);
        }
        teller.tell(Phase::Convert, 0, 0);
        let _turn = self.queue.turn().await?;
        let _stores = self.collecting.read().await;
        let options = self.options(RegistryOptions::default(), &stores);
        let place = self.place(&stores).await?;
        let source = convert::Archive {
            url: archive.url.clone(),
            sha256: archive.sha256,
        };
        let converted = convert_archive(&source, &place, &options, told(&teller)).await;
        let converted =
            converted.map_err(|error| EnsureError::convert("convert the archive", error))?;
        let note = archive_name(&archive.url, &converted.sha256, &stores.name());
        let (flist, card) = published(converted.flist, &stores).await?;
        self.keep(&flist, card, &stores, None, ("archives", &note))
    }

    /// Puts a flist on the shelf and notes what it answers.
    fn keep(
        &self,
        flist: &Flist,
        mut card: Card,
        stores: &Stores,
        reference: Option<&str>,
        (sub, note): (&str, &str),
    ) -> Result<Have, EnsureError> {
        if let Some(reference) = reference {
            reference.clone_into(&mut card.reference);
        }
        let held = self.shelf.put(flist, card)?;
        let answer = FlistNote {
            flist: flist.digest(),
        };
        self.shelf.write_note(sub, note, &answer)?;
        Ok(have(held, stores, reference))
    }

    fn options(&self, registry: RegistryOptions, stores: &Stores) -> ConvertOptions {
        ConvertOptions {
            registry,
            limits: self.config.limits.image.clone(),
            records: Some(self.shelf.sub("records")),
            store_urls: stores.shown(),
            ..ConvertOptions::default()
        }
    }

    pub(super) async fn place(&self, stores: &Stores) -> Result<PackPlace, EnsureError> {
        let failed = |error| EnsureError::store("look what the stores hold", error);
        stores.set.check_writable().map_err(failed)?;
        let load = LoadOptions {
            cache: Some(self.shelf.sub("index")),
            ..LoadOptions::default()
        };
        let index = ChunkIndex::load(&stores.set, &load).await.map_err(failed)?;
        Ok(PackPlace {
            stores: Some(stores.set.clone()),
            index: Arc::new(index),
        })
    }
}

/// What the caller gets, if nothing else has to be done for it; `reference`: as it asked.
pub(super) fn have(held: Held, stores: &Stores, reference: Option<&str>) -> Have {
    let mut info = held.card.info();
    if let Some(reference) = reference {
        reference.clone_into(&mut info.reference);
    }
    // What was made of layers is in no store.
    let (shown, exposed) = match info.stores.is_empty() {
        true => Default::default(),
        false => (stores.shown(), stores.exposed()),
    };
    info.stores = shown;
    Have {
        flist: held.path,
        info,
        was_here: true,
        stores: exposed,
        _lease: held.lease,
    }
}

/// Whether the stores simply do not have it.
pub(super) fn is_absent(error: &EnsureError) -> bool {
    error.kind() == EnsureErrorKind::NotFound
}

pub(super) async fn checked(flist: Flist) -> Result<(Flist, Card), EnsureError> {
    let digest = flist.digest();
    let check =
        tokio::task::spawn_blocking(move || Card::checked(&flist).map(|card| (flist, card)));
    let done = check.await.map_err(|error| {
        EnsureError::new(EnsureErrorKind::Internal, "check a flist").because(error)
    })?;
    done.map_err(|error| EnsureError::flist(format!("the flist {digest} is not sound"), error))
}

async fn published(bytes: Vec<u8>, stores: &Stores) -> Result<(Flist, Card), EnsureError> {
    let flist = Flist::parse(bytes.into());
    let flist = flist.map_err(|error| EnsureError::flist("read the flist just made", error))?;
    let (flist, card) = checked(flist).await?;
    let done = publish_flist(&stores.set, &flist).await;
    done.map_err(|error| EnsureError::store("publish the flist", error))?;
    Ok((flist, card))
}

/// Sums up what the layers' threads tell.
struct Told {
    teller: Teller,
    total: AtomicU64,
    done: AtomicU64,
}

fn told(teller: &Teller) -> Arc<dyn Progress> {
    Arc::new(Told {
        teller: teller.clone(),
        total: AtomicU64::new(0),
        done: AtomicU64::new(0),
    })
}

impl Progress for Told {
    fn layers(&self, sizes: &[u64]) {
        self.total.store(sizes.iter().sum(), Ordering::Relaxed);
        self.layer_bytes(0, 0);
    }

    fn layer_bytes(&self, _index: usize, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.load(Ordering::Relaxed);
        self.teller.tell(Phase::Convert, done, total);
    }
}
