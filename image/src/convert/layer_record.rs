//! What is known of a layer without its data, and images made of nothing else.
//!
//! A record is the layer's flist without its packs: the tree, where each file's bytes are, which chunks these are. It
//! says of which layer it is. Records of all layers, with the image's documents, give the flist that a conversion
//! which finds none of the chunks stored gives, byte for byte.

use std::path::Path;

use bytes::Bytes;
use lamina_flist::{
    BlobId, EmbeddedPacks, Flist, FlistDigest, FlistHead, FlistMeta, LayerOrigin, Provenance,
    Sha256Digest,
};
use lamina_store::open_flist;

use super::record::{self, RecordError, UnsoundLayer, VERSION};
use super::{ConvertError, ConvertOptions, build_flist};
use crate::layer::PlacedLayer;
use crate::source::SourceImage;

/// The tag of a layer file: by which version's rules it was converted.
const CONVERTED: &str = "lamina.layer";

/// A layer without its data, checked as a whole.
#[derive(Debug, Clone)]
pub struct LayerRecord {
    placed: PlacedLayer,
    origin: LayerOrigin,
}

impl LayerRecord {
    /// Reads a record, or a layer file.
    ///
    /// # Errors
    /// When it is damaged, hostile, no layer, or of another version.
    pub fn open(path: &Path) -> Result<Self, UnsoundLayer> {
        Self::of_flist(&open_flist(path)?)
    }

    /// Reads a record's bytes, whoever sent them.
    ///
    /// # Errors
    /// As [`LayerRecord::open`].
    pub fn parse(bytes: Bytes) -> Result<Self, UnsoundLayer> {
        Self::of_flist(&Flist::parse(bytes)?)
    }

    /// The record of a layer that is open.
    ///
    /// # Errors
    /// As [`LayerRecord::open`].
    pub fn of_flist(flist: &Flist) -> Result<Self, UnsoundLayer> {
        let origin = layer_origin(flist)?.clone();
        let placed = record::decode(flist)?;
        if blob_of(&placed) != origin.blob {
            return Err(UnsoundLayer::Other("its blob is another than it says"));
        }
        Ok(Self { placed, origin })
    }

    pub(super) fn of(
        placed: PlacedLayer,
        digest: Sha256Digest,
        diff_id: Option<Sha256Digest>,
    ) -> Self {
        let origin = LayerOrigin {
            digest,
            diff_id,
            blob: blob_of(&placed),
        };
        Self { placed, origin }
    }

    /// Which layer it is.
    pub fn origin(&self) -> &LayerOrigin {
        &self.origin
    }

    /// The record as a file has it.
    ///
    /// # Errors
    /// When the layer has no place in a flist.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        Ok(self.head(Path::new("a layer's record"), None)?.bytes)
    }

    /// Its flist, with packs that follow or without; `path`: what it is built for.
    pub(super) fn head(
        &self,
        path: &Path,
        embedded: Option<EmbeddedPacks>,
    ) -> Result<FlistHead, RecordError> {
        let tags = [(CONVERTED.to_owned(), VERSION.to_string())];
        let meta = FlistMeta {
            tags: tags.into(),
            provenance: Provenance {
                layers: vec![self.origin.clone()],
                ..Provenance::default()
            },
            ..FlistMeta::default()
        };
        match embedded {
            Some(_) => record::build(path, &self.placed, meta, embedded),
            None => record::build(path, &without_packs(&self.placed), meta, None),
        }
    }
}

/// Which layer a flist says it is, by rules that this version knows. Only its metadata is looked at.
///
/// # Errors
/// When it is no layer that says so.
pub fn layer_origin(flist: &Flist) -> Result<&LayerOrigin, UnsoundLayer> {
    let meta = flist.meta();
    let version = meta.tags.get(CONVERTED).map(String::as_str);
    if !flist.is_layer() || version != Some(VERSION.to_string().as_str()) {
        return Err(UnsoundLayer::Other("it was converted by other rules"));
    }
    match meta.provenance.layers.as_slice() {
        [origin] => Ok(origin),
        _ => Err(UnsoundLayer::Other("it does not say which layer it is")),
    }
}

fn without_packs(placed: &PlacedLayer) -> PlacedLayer {
    let mut placed = placed.clone();
    for pack in &mut placed.packs {
        pack.embedded_at = None;
    }
    placed
}

fn blob_of(placed: &PlacedLayer) -> Option<BlobId> {
    let map = (placed.blob.len > 0).then(|| placed.blob.map_bytes(&placed.chunks));
    map.flatten().map(|bytes| BlobId::of(&bytes))
}

/// A flist made of records.
#[derive(Debug)]
pub struct Assembled {
    /// The flist's bytes.
    pub flist: Vec<u8>,
    /// Its digest.
    pub digest: FlistDigest,
}

/// The flist of `image` from its layers' records, lowest first: what converting it without known chunks gives.
/// Takes a while: not for async tasks.
///
/// # Errors
/// When a record is not that of the image's layer, or they do not fit on each other.
pub fn assemble_image(
    image: &SourceImage,
    records: Vec<LayerRecord>,
    options: &ConvertOptions,
) -> Result<Assembled, ConvertError> {
    if records.len() != image.layers.len() {
        return Err(ConvertError::WrongRecord {
            index: records.len().min(image.layers.len()),
        });
    }
    for (index, (record, layer)) in records.iter().zip(&image.layers).enumerate() {
        let origin = &record.origin;
        let digest = layer.digest.unwrap_or(layer.diff_id);
        if origin.digest != digest || origin.diff_id != Some(layer.diff_id) {
            return Err(ConvertError::WrongRecord { index });
        }
    }
    let placed = records.into_iter().map(|record| record.placed).collect();
    let head = build_flist(image, placed, options)?;
    Ok(Assembled {
        flist: head.bytes,
        digest: head.digest,
    })
}
