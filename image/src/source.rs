//! Where images come from, and one image as found there.
//!
//! A [`Source`] is what a person types: `REF`, `oci:DIR[:tag]` or
//! `docker-archive:FILE[:ref]`. Opening it gives a [`SourceImage`]: manifest
//! and config checked against their digests, layers ready to be streamed.

mod archive;
mod layout;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lamina_flist::Sha256Digest;
use tokio::runtime::Handle;

use crate::limits::Limits;
use crate::manifest::{
    Descriptor, Document, ImageConfig, Manifest, ManifestError, check_content, check_digest,
    parse_config, parse_document, sha256,
};
use crate::platform::Platform;
use crate::reference::{ImageRef, ReferenceError};
use crate::registry::{Registry, RegistryError, RegistryOptions};

pub use archive::ArchiveError;
use archive::DockerArchive;
pub use layout::LayoutError;
use layout::OciLayout;

/// What a person types to name an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a registry.
    Registry(ImageRef),
    /// In an OCI image layout directory.
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// `org.opencontainers.image.ref.name` of the image, if there are several.
        tag: Option<String>,
    },
    /// In a file that `docker save` wrote.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// The image's name in it, if there are several.
        name: Option<String>,
    },
}

/// A text that names no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceParseError {
    /// A prefix without a path.
    #[error("{0}: names no path")]
    NoPath(&'static str),
    /// No reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
}

/// Why an image cannot be had from its source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layout.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// An archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The image's documents.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Indexes that point to indexes without end.
    #[error("the index leads to another index, and that to one more")]
    NestedIndex,
}

/// One image, its documents checked.
pub struct SourceImage {
    /// Where it came from, as text.
    pub reference: String,
    /// Digest of its manifest; a docker archive has none.
    pub manifest_digest: Option<Sha256Digest>,
    /// Its config.
    pub config: ImageConfig,
    /// Its layers, lowest first.
    pub layers: Vec<SourceLayer>,
    place: Place,
}

/// One layer as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLayer {
    /// Digest of the plain tar.
    pub diff_id: Sha256Digest,
    /// Digest of the stored bytes, where the source has one.
    pub digest: Option<Sha256Digest>,
    /// Stored bytes.
    pub size: u64,
    /// What the source calls its format, where it says so.
    pub media_type: Option<String>,
}

enum Place {
    Registry(Registry),
    Layout(OciLayout),
    Archive(DockerArchive),
}

impl FromStr for Source {
    type Err = SourceParseError;

    fn from_str(text: &str) -> Result<Self, SourceParseError> {
        if let Some(rest) = text.strip_prefix("oci:") {
            let (dir, tag) = split_tag(rest).ok_or(SourceParseError::NoPath("oci:"))?;
            return Ok(Self::OciLayout { dir, tag });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) =
                split_archive(rest).ok_or(SourceParseError::NoPath("docker-archive:"))?;
            return Ok(Self::DockerArchive { file, name });
        }
        let text = text.strip_prefix("docker://").unwrap_or(text);
        Ok(Self::Registry(text.parse()?))
    }
}

/// `DIR[:tag]`: a colon in the last component starts a tag.
fn split_tag(text: &str) -> Option<(PathBuf, Option<String>)> {
    let (path, tag) = match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') && !tag.is_empty() => (path, Some(tag)),
        _ => (text, None),
    };
    (!path.is_empty()).then(|| (PathBuf::from(path), tag.map(str::to_owned)))
}

/// `FILE[:ref]`: the first colon that leaves an existing file, or the first.
fn split_archive(text: &str) -> Option<(PathBuf, Option<String>)> {
    if text.is_empty() {
        return None;
    }
    if Path::new(text).exists() {
        return Some((PathBuf::from(text), None));
    }
    let splits = text
        .match_indices(':')
        .map(|(at, _)| (&text[..at], &text[at + 1..]));
    let splits: Vec<(&str, &str)> = splits.filter(|(file, _)| !file.is_empty()).collect();
    let existing = splits.iter().find(|(file, _)| Path::new(file).exists());
    let (file, name) = existing.or(splits.first()).copied().unwrap_or((text, ""));
    Some((
        PathBuf::from(file),
        (!name.is_empty()).then(|| name.to_owned()),
    ))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, path, tag) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::OciLayout { dir, tag } => ("oci", dir, tag),
            Self::DockerArchive { file, name } => ("docker-archive", file, name),
        };
        write!(f, "{prefix}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

impl Source {
    /// Finds the image for `platform`. `None` is this machine's, except that
    /// an image which comes for one platform only is taken as it is.
    ///
    /// # Errors
    /// When it is not there, not valid, or for other platforms only.
    pub async fn open(
        &self,
        platform: Option<&Platform>,
        registry: &RegistryOptions,
        limits: &Limits,
    ) -> Result<SourceImage, SourceError> {
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let image = match self {
            Self::Registry(reference) => {
                open_registry(reference, &wanted, registry, limits).await?
            }
            Self::OciLayout { dir, tag } => {
                let layout = OciLayout::open(dir, limits)?;
                let (descriptor, bytes) = layout.find(tag.as_deref(), &wanted, limits)?;
                let manifest = layout.manifest(&descriptor, &bytes, &wanted, limits)?;
                let (digest, manifest) = manifest;
                let config = layout.read("image config", &manifest.config)?;
                let place = Place::Layout(layout);
                image(self.to_string(), digest, &manifest, &config, place, limits)?
            }
            Self::DockerArchive { file, name } => {
                let (archive, config, layers) = DockerArchive::open(file, name.as_deref(), limits)?;
                SourceImage {
                    reference: self.to_string(),
                    manifest_digest: None,
                    config,
                    layers,
                    place: Place::Archive(archive),
                }
            }
        };
        if let Some(wanted) = platform
            && wanted.fit(&image.config.platform).is_none()
        {
            let (wanted, got) = (wanted.to_string(), image.config.platform.to_string());
            return Err(ManifestError::WrongPlatform { wanted, got }.into());
        }
        Ok(image)
    }
}

async fn open_registry(
    reference: &ImageRef,
    wanted: &Platform,
    options: &RegistryOptions,
    limits: &Limits,
) -> Result<SourceImage, SourceError> {
    let registry = Registry::open(reference, options).await?;
    let mut expected = reference.digest().copied();
    let mut selector = reference.selector();
    // An image, or an index that leads to one.
    for _ in 0..2 {
        let served = registry.manifest(&selector, limits).await?;
        if let Some(want) = &expected {
            check_digest("manifest", want, &served.bytes)?;
        }
        match parse_document(&served.bytes, served.content_type.as_deref(), limits)? {
            Document::Index(index) => {
                let chosen = index.choose(wanted)?;
                selector = chosen.digest.to_string();
                expected = Some(chosen.digest);
            }
            Document::Manifest(manifest) => {
                let digest = sha256(&served.bytes);
                let descriptor = &manifest.config;
                let config = registry
                    .small_blob(&descriptor.digest, descriptor.size)
                    .await?;
                check_content("image config", descriptor, &config)?;
                let place = Place::Registry(registry);
                return image(
                    reference.to_string(),
                    digest,
                    &manifest,
                    &config,
                    place,
                    limits,
                );
            }
        }
    }
    Err(SourceError::NestedIndex)
}

fn image(
    reference: String,
    manifest_digest: Sha256Digest,
    manifest: &Manifest,
    config: &[u8],
    place: Place,
    limits: &Limits,
) -> Result<SourceImage, SourceError> {
    let config = parse_config(config, manifest.layers.len(), limits)?;
    let layers = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(d, diff_id)| SourceLayer {
            diff_id: *diff_id,
            digest: Some(d.digest),
            size: d.size,
            media_type: Some(d.media_type.clone()),
        })
        .collect();
    Ok(SourceImage {
        reference,
        manifest_digest: Some(manifest_digest),
        config,
        layers,
        place,
    })
}

impl SourceImage {
    /// The stored bytes of layer `index`, unchecked; the reader may block, so
    /// it is for threads. `handle` runs the transfer.
    ///
    /// # Errors
    /// When the layer cannot be opened.
    pub fn open_layer(&self, index: usize, handle: &Handle) -> io::Result<Box<dyn Read + Send>> {
        let layer = &self.layers[index];
        match &self.place {
            Place::Registry(registry) => {
                let digest = layer.digest.expect("a registry's layers have digests");
                Ok(Box::new(registry.blob(&digest, layer.size, handle)))
            }
            Place::Layout(layout) => {
                let digest = layer.digest.expect("a layout's layers have digests");
                Ok(Box::new(layout.open_blob(&digest)?))
            }
            Place::Archive(archive) => Ok(archive.open_layer(index)),
        }
    }
}

/// Opens a regular file: never waits for a FIFO, never reads a device.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// A whole regular file of at most `max` bytes.
pub(crate) fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {max} bytes"),
        ));
    }
    Ok(bytes)
}

/// The manifest an image layout's descriptor leads to.
fn is_manifest(descriptor: &Descriptor) -> bool {
    crate::manifest::MANIFEST_TYPES.contains(&descriptor.media_type.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_prefix() {
        for (text, want) in [
            ("oci:dir", "oci:dir"),
            ("oci:/a/b:v1", "oci:/a/b:v1"),
            ("oci:/a:b/c", "oci:/a:b/c"),
            ("docker-archive:x.tar", "docker-archive:x.tar"),
            ("docker-archive:x.tar:a/b:1", "docker-archive:x.tar:a/b:1"),
            ("docker://debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
        ] {
            assert_eq!(text.parse::<Source>().unwrap().to_string(), want);
        }
        let Source::DockerArchive { file, name } = "docker-archive:x.tar:a/b:1".parse().unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (file, name.as_deref()),
            (PathBuf::from("x.tar"), Some("a/b:1"))
        );
        let Source::OciLayout { tag, .. } = "oci:/a:b/c".parse().unwrap() else {
            panic!()
        };
        assert_eq!(tag, None);
        for bad in ["oci:", "docker-archive:", "oci::tag", ""] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        assert!(open_regular(&fifo).is_err());
        assert!(open_regular(dir.path()).is_err());
        std::fs::write(dir.path().join("f"), b"12345").unwrap();
        assert!(read_regular(&dir.path().join("f"), 4).is_err());
        assert_eq!(read_regular(&dir.path().join("f"), 5).unwrap(), b"12345");
    }
}
