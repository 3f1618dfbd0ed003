//! From a reference to the manifest it stands for, and whether this caller may have it.
//!
//! What a reference stood for is noted, with whether it was asked for as nobody. A note of somebody's is
//! used for another only after the registry let that other see the manifest: being on the same node as a
//! private image is no right to it. Nor is an index that names its manifest: what a note says was read from the
//! registry it is about, byte by byte.

use std::time::SystemTime;

use lamina_flist::Sha256Digest;
use lamina_image::manifest::{Document, check_digest, parse_document, sha256};
use lamina_image::registry::{Registry, RegistryError, RegistryOptions};

use super::LibraryConfig;
use super::notes::{RefNote, ref_name};
use super::shelf::Shelf;
use super::wanted::{Image, Pull};
use crate::layers::{EnsureError, EnsureErrorKind};

/// Tries of one request: somebody waits, and asks again anyway.
const ATTEMPTS: u32 = 4;

/// How to talk to the registry of an image as whoever asks for it.
pub(super) fn registry_options(config: &LibraryConfig, image: &Image) -> RegistryOptions {
    let host = image.reference.registry();
    RegistryOptions {
        credentials: image.credentials.clone(),
        insecure: config.insecure_registries.iter().any(|r| r == host),
        attempts: ATTEMPTS,
        ..RegistryOptions::default()
    }
}

/// The manifest that `image` stands for, for this caller.
pub(super) async fn resolve(
    config: &LibraryConfig,
    shelf: &Shelf,
    image: &Image,
) -> Result<Sha256Digest, EnsureError> {
    let name = ref_name(&image.reference.to_string(), &image.platform);
    let note: Option<RefNote> = shelf.note("refs", &name);
    let anonymous = image.is_anonymous().await?;
    let resolver = Resolver {
        config,
        image,
        anonymous,
    };
    if let (Some(note), Pull::IfNotPresent | Pull::Never) = (&note, image.pull) {
        if note.anonymous {
            return Ok(note.manifest);
        }
        match resolver.may_have(note).await {
            Ok(()) => {
                if anonymous {
                    let public = RefNote {
                        anonymous: true,
                        ..note.clone()
                    };
                    shelf.write_note("refs", &name, &public)?;
                }
                return Ok(note.manifest);
            }
            // Gone from the registry, as after a move of the tag: it is asked what there is now.
            Err(error)
                if error.kind() == EnsureErrorKind::NotFound
                    && image.pull == Pull::IfNotPresent => {}
            Err(error) => return Err(error),
        }
    }
    if image.pull == Pull::Never {
        let what = format!(
            "{} ({}) is not on this node, and pullPolicy Never forbids to ask the registry: \
             pull it before, or use IfNotPresent",
            image.reference, image.platform
        );
        return Err(EnsureError::new(EnsureErrorKind::NotFound, what));
    }
    let found = resolver.ask(note.as_ref()).await?;
    shelf.write_note("refs", &name, &found)?;
    Ok(found.manifest)
}

struct Resolver<'a> {
    config: &'a LibraryConfig,
    image: &'a Image,
    anonymous: bool,
}

impl Resolver<'_> {
    async fn registry(&self) -> Result<Registry, EnsureError> {
        let options = registry_options(self.config, self.image);
        let opened = Registry::open(&self.image.reference, &options).await;
        opened.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: RegistryError) -> EnsureError {
        let help = match (&error, self.anonymous) {
            (RegistryError::Denied { .. }, true) => " (without credentials: give a pull secret)",
            (RegistryError::Denied { .. }, false) => " (with the credentials given)",
            _ => "",
        };
        let what = format!("ask the registry for {}{help}", self.image.reference);
        EnsureError::registry(what, error)
    }

    /// Whether the registry shows this caller what was noted.
    async fn may_have(&self, note: &RefNote) -> Result<(), EnsureError> {
        let registry = self.registry().await?;
        let seen = registry.head(&note.served.to_string()).await;
        seen.map(|_| ()).map_err(|error| self.failed(error))
    }

    /// Asks the registry. A manifest seen before is not fetched again: registries count that.
    async fn ask(&self, known: Option<&RefNote>) -> Result<RefNote, EnsureError> {
        let registry = self.registry().await?;
        let pinned = self.image.reference.digest().copied();
        let selector = self.image.reference.selector();
        let said = registry.head(&selector).await.map_err(|e| self.failed(e))?;
        let served = pinned.or(said);
        if let (Some(served), Some(known)) = (served, known)
            && known.served == served
        {
            let note = self.note(served, known.manifest);
            return Ok(RefNote {
                anonymous: note.anonymous || known.anonymous,
                ..note
            });
        }
        let selector = served.map_or(selector, |digest| digest.to_string());
        let limits = &self.config.limits.image;
        let got = registry.manifest(&selector, limits).await;
        let got = got.map_err(|error| self.failed(error))?;
        let wrong = |error| self.failed(RegistryError::Manifest(error));
        if let Some(served) = &served {
            check_digest("manifest", served, &got.bytes).map_err(wrong)?;
        }
        let document = parse_document(&got.bytes, got.content_type.as_deref(), limits);
        let served = sha256(&got.bytes);
        let manifest = match document.map_err(wrong)? {
            Document::Index(index) => {
                let chosen = index.choose(&self.image.platform).map_err(wrong)?;
                self.check_shown(&registry, &chosen.digest).await?;
                chosen.digest
            }
            Document::Manifest(_) => served,
        };
        Ok(self.note(served, manifest))
    }

    /// Has the registry show a manifest that its index names: an index may name anybody's, and a registry that says it
    /// has one need not have it.
    async fn check_shown(
        &self,
        registry: &Registry,
        manifest: &Sha256Digest,
    ) -> Result<(), EnsureError> {
        let limits = &self.config.limits.image;
        let shown = registry.manifest(&manifest.to_string(), limits).await;
        let shown = shown.map_err(|error| self.failed(error))?;
        let checked = check_digest("manifest", manifest, &shown.bytes);
        checked.map_err(|error| self.failed(RegistryError::Manifest(error)))
    }

    fn note(&self, served: Sha256Digest, manifest: Sha256Digest) -> RefNote {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        RefNote {
            reference: self.image.text.clone(),
            served,
            manifest,
            unix_s: now.unwrap_or_default().as_secs(),
            anonymous: self.anonymous,
        }
    }
}
