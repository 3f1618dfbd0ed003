//! An OCI image layout directory: `oci-layout`, `index.json`, `blobs/`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use lamina_flist::Sha256Digest;

use super::{is_manifest, open_regular, read_regular};
use crate::limits::Limits;
use crate::manifest::{
    Descriptor, Document, Index, Manifest, ManifestError, check_content, parse_document,
};
use crate::platform::Platform;

/// Why a layout does not give an image.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// A file of it cannot be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such tag, or no image at all.
    #[error("{dir}: {why}; there is: {}", tags.join(", "))]
    Tag {
        /// The layout.
        dir: PathBuf,
        /// What is wrong.
        why: String,
        /// What there is.
        tags: Vec<String>,
    },
    /// Several images, and none named.
    #[error("{dir}: it holds several images, name one; there is: {}", tags.join(", "))]
    Several {
        /// The layout.
        dir: PathBuf,
        /// What there is.
        tags: Vec<String>,
    },
    /// A document in it.
    #[error("{dir}")]
    Manifest {
        /// The layout.
        dir: PathBuf,
        /// Why.
        source: ManifestError,
    },
}

/// An opened layout.
pub(super) struct OciLayout {
    dir: PathBuf,
    index: Index,
}

impl OciLayout {
    pub(super) fn open(dir: &Path, limits: &Limits) -> Result<Self, LayoutError> {
        let path = dir.join("index.json");
        let bytes = read_regular(&path, limits.manifest_bytes_max)
            .map_err(|source| LayoutError::Read { path, source })?;
        let dir = dir.to_owned();
        match parse_document(&bytes, None, limits) {
            Ok(Document::Index(index)) => Ok(Self { dir, index }),
            Ok(Document::Manifest(_)) => {
                let source = ManifestError::Ambiguous("its index.json is a manifest");
                Err(LayoutError::Manifest { dir, source })
            }
            Err(source) => Err(LayoutError::Manifest { dir, source }),
        }
    }

    /// The entry for `tag`, with its document.
    pub(super) fn find(
        &self,
        tag: Option<&str>,
        wanted: &Platform,
        limits: &Limits,
    ) -> Result<(Descriptor, Vec<u8>), LayoutError> {
        let descriptor = self.entry(tag, wanted)?;
        if descriptor.size > limits.manifest_bytes_max {
            let (what, bytes) = ("manifest", descriptor.size);
            let max = limits.manifest_bytes_max;
            return Err(self.bad(ManifestError::TooLarge { what, bytes, max }));
        }
        let bytes = self.read("manifest", &descriptor)?;
        Ok((descriptor, bytes))
    }

    fn entry(&self, tag: Option<&str>, wanted: &Platform) -> Result<Descriptor, LayoutError> {
        let images: Vec<&Descriptor> = self
            .index
            .manifests
            .iter()
            .filter(|d| is_manifest(d))
            .collect();
        let dir = self.dir.clone();
        let tags = || {
            let names = images.iter().take(50).map(|d| name_of(d));
            names
                .map(|n| n.unwrap_or("(untagged)").to_owned())
                .collect()
        };
        let fail = |why: String| LayoutError::Tag {
            dir: self.dir.clone(),
            why,
            tags: tags(),
        };
        let named: Vec<&Descriptor> = match tag {
            Some(tag) => images
                .iter()
                .copied()
                .filter(|d| is_named(d, tag))
                .collect(),
            None => images.clone(),
        };
        match named.as_slice() {
            [] if tag.is_some() => Err(fail(format!("no image {:?}", tag.unwrap_or_default()))),
            [] => Err(fail("no image at all".to_owned())),
            [one] => Ok((*one).clone()),
            several => {
                // One image for several platforms may stand here without an index around it.
                let index = Index {
                    manifests: several.iter().map(|d| (*d).clone()).collect(),
                };
                let same_name = several.iter().all(|d| name_of(d) == name_of(several[0]));
                match index.choose(wanted) {
                    Ok(chosen) if same_name => Ok(chosen.clone()),
                    _ => Err(LayoutError::Several { dir, tags: tags() }),
                }
            }
        }
    }

    /// Follows an index to the manifest for `wanted`.
    pub(super) fn manifest(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        wanted: &Platform,
        limits: &Limits,
    ) -> Result<(Sha256Digest, Manifest), super::SourceError> {
        match self.parse(descriptor, bytes, limits)? {
            Document::Manifest(manifest) => Ok((descriptor.digest, manifest)),
            Document::Index(index) => {
                let chosen = index.choose(wanted).map_err(|e| self.bad(e))?;
                if chosen.size > limits.manifest_bytes_max {
                    let (what, bytes) = ("manifest", chosen.size);
                    let max = limits.manifest_bytes_max;
                    return Err(ManifestError::TooLarge { what, bytes, max }.into());
                }
                let bytes = self.read("manifest", chosen)?;
                match self.parse(chosen, &bytes, limits)? {
                    Document::Manifest(manifest) => Ok((chosen.digest, manifest)),
                    Document::Index(_) => Err(super::SourceError::NestedIndex),
                }
            }
        }
    }

    fn parse(
        &self,
        descriptor: &Descriptor,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Document, LayoutError> {
        parse_document(bytes, Some(&descriptor.media_type), limits).map_err(|e| self.bad(e))
    }

    /// A blob whole, checked. The caller has bounded `descriptor.size`.
    pub(super) fn read(
        &self,
        what: &'static str,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, LayoutError> {
        let path = self.blob_path(&descriptor.digest);
        let bytes = read_regular(&path, descriptor.size)
            .map_err(|source| LayoutError::Read { path, source })?;
        check_content(what, descriptor, &bytes).map_err(|e| self.bad(e))?;
        Ok(bytes)
    }

    pub(super) fn open_blob(&self, digest: &Sha256Digest) -> io::Result<File> {
        open_regular(&self.blob_path(digest))
    }

    fn blob_path(&self, digest: &Sha256Digest) -> PathBuf {
        self.dir
            .join("blobs/sha256")
            .join(hex::encode(digest.as_bytes()))
    }

    fn bad(&self, source: ManifestError) -> LayoutError {
        LayoutError::Manifest {
            dir: self.dir.clone(),
            source,
        }
    }
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let named = |key| descriptor.annotations.get(key).map(String::as_str);
    named(REF_NAME).or_else(|| named(IMAGE_NAME))
}

fn is_named(descriptor: &Descriptor, tag: &str) -> bool {
    [REF_NAME, IMAGE_NAME].iter().any(|key| {
        descriptor
            .annotations
            .get(*key)
            .is_some_and(|name| name == tag)
    })
}
