//! A request's source, parsed: from here on it can be wrong in no way that a look at it would show.

use lamina_discovery::image_key::NamedImage;
use lamina_flist::{FlistDigest, Sha256Digest};
use lamina_image::registry::{CredentialSource, Credentials, GivenConfig};
use lamina_image::{ImageRef, Platform};
use lamina_proto::lamina::v1::source::From as SourceFrom;
use lamina_proto::lamina::v1::{ArchiveSource, FlistSource, ImageSource, PullPolicy, Source};

use super::Have;
use crate::layers::{EnsureError, EnsureErrorKind};

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Image(Image),
    Flist(WantedFlist),
    Archive(Archive),
}

/// An image in a registry.
#[derive(Debug, Clone)]
pub(super) struct Image {
    /// As given.
    pub(super) text: String,
    pub(super) reference: ImageRef,
    pub(super) platform: Platform,
    pub(super) pull: Pull,
    pub(super) credentials: CredentialSource,
}

/// When a registry is asked what a reference stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pull {
    Always,
    IfNotPresent,
    Never,
}

/// A flist by its digest.
#[derive(Debug, Clone)]
pub(super) struct WantedFlist {
    pub(super) digest: FlistDigest,
    pub(super) stores: Vec<String>,
    pub(super) image: Option<Image>,
    pub(super) archive: Option<Archive>,
}

/// A tar on a web server.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    pub(super) url: String,
    pub(super) sha256: Option<Sha256Digest>,
}

fn invalid(what: impl Into<String>) -> EnsureError {
    EnsureError::new(EnsureErrorKind::InvalidArgument, what)
}

impl Wanted {
    pub(super) fn parse(source: Source) -> Result<Self, EnsureError> {
        match source.from {
            Some(SourceFrom::Image(image)) => Image::try_from(image).map(Self::Image),
            Some(SourceFrom::Flist(flist)) => WantedFlist::try_from(flist).map(Self::Flist),
            Some(SourceFrom::Archive(archive)) => Archive::try_from(archive).map(Self::Archive),
            None => Err(invalid("the source names no image, flist or archive")),
        }
    }
}

impl TryFrom<ImageSource> for Image {
    type Error = EnsureError;

    fn try_from(source: ImageSource) -> Result<Self, EnsureError> {
        let pull = source.pull_policy();
        let text = source.reference;
        let reference: ImageRef = text
            .parse()
            .map_err(|error| invalid(format!("understand the image `{text}`")).because(error))?;
        let platform = match source.platform.as_str() {
            "" => Platform::host(),
            text => text
                .parse()
                .map_err(|error: lamina_image::platform::PlatformError| {
                    invalid(format!("understand the platform of {reference}")).because(error)
                })?,
        };
        let latest = reference.digest().is_none() && reference.selector() == "latest";
        let pull = match pull {
            PullPolicy::Always => Pull::Always,
            PullPolicy::Never => Pull::Never,
            PullPolicy::Unspecified if latest => Pull::Always,
            PullPolicy::Unspecified | PullPolicy::IfNotPresent => Pull::IfNotPresent,
        };
        // Never the node's own credentials: who asks is not the node.
        let credentials = match source.docker_config_json.is_empty() {
            true => CredentialSource::Explicit(Credentials::Anonymous),
            false => CredentialSource::Given(GivenConfig::new(source.docker_config_json)),
        };
        Ok(Self {
            text,
            reference,
            platform,
            pull,
            credentials,
        })
    }
}

/// An image by the manifest that it was found to be, as the layerstore is asked for it.
pub(in crate::node) fn named(
    image: &ImageSource,
    manifest: &str,
) -> Result<NamedImage, EnsureError> {
    let manifest: Sha256Digest = manifest
        .parse()
        .map_err(|_| invalid(format!("`{manifest}` is no digest of a manifest")))?;
    let image = Image::try_from(image.clone())?;
    Ok(NamedImage {
        reference: image.reference.pinned(manifest),
        platform: image.platform,
    })
}

impl Image {
    /// Whether the caller is nobody to this registry.
    pub(super) async fn is_anonymous(&self) -> Result<bool, EnsureError> {
        Ok(self.credentials().await? == Credentials::Anonymous)
    }

    /// Who the caller is to this registry.
    pub(super) async fn credentials(&self) -> Result<Credentials, EnsureError> {
        let found = self.credentials.find(self.reference.registry()).await;
        found.map_err(|error| {
            invalid(format!("use the credentials given for {}", self.reference)).because(error)
        })
    }
}

impl TryFrom<FlistSource> for WantedFlist {
    type Error = EnsureError;

    fn try_from(source: FlistSource) -> Result<Self, EnsureError> {
        let FlistSource {
            digest,
            stores,
            image,
            archive,
        } = source;
        let digest = digest.parse().map_err(|_| {
            invalid(format!(
                "`{digest}` is no flist digest: 64 hex digits expected"
            ))
        })?;
        Ok(Self {
            digest,
            stores,
            image: image.map(TryInto::try_into).transpose()?,
            archive: archive.map(TryInto::try_into).transpose()?,
        })
    }
}

impl WantedFlist {
    /// What is here, as this caller names it: others may have asked for the same flist by a name of theirs.
    pub(super) fn name(&self, mut have: Have) -> Have {
        if let Some(image) = &self.image {
            image.text.clone_into(&mut have.info.reference);
        }
        have
    }
}

impl TryFrom<ArchiveSource> for Archive {
    type Error = EnsureError;

    fn try_from(source: ArchiveSource) -> Result<Self, EnsureError> {
        let ArchiveSource { url, sha256 } = source;
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(invalid(
                "the archive's URL must begin with https:// or http://",
            ));
        }
        let sha256 =
            match sha256.trim_start_matches("sha256:") {
                "" => None,
                hex => Some(format!("sha256:{hex}").parse().map_err(|_| {
                    invalid("the archive's sha256 must be 64 lower-case hex digits")
                })?),
            };
        Ok(Self { url, sha256 })
    }
}
