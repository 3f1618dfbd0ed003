//! Why a manifest, index or image config is refused.

use lamina_flist::Sha256Digest;

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("the {what} is malformed")]
    Json {
        /// Which document.
        what: &'static str,
        /// Why.
        source: serde_json::Error,
    },
    /// Larger than allowed.
    #[error("the {what} has {bytes} bytes; {max} is the most")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// Bytes that are not what their digest says.
    #[error("the {what} has digest {got}, expected {want}")]
    WrongDigest {
        /// Which document.
        what: &'static str,
        /// What was asked for.
        want: Sha256Digest,
        /// What came.
        got: Sha256Digest,
    },
    /// A length that is not what the descriptor says.
    #[error("the {what} has {got} bytes, its descriptor says {want}")]
    WrongSize {
        /// Which document.
        what: &'static str,
        /// What was announced.
        want: u64,
        /// What came.
        got: u64,
    },
    /// A schema nobody should serve any more.
    #[error("the manifest has schema version {0}; only 2 is supported")]
    SchemaVersion(u64),
    /// Both an index and a manifest, or neither.
    #[error("the document is ambiguous: {0}")]
    Ambiguous(&'static str),
    /// Something that is no image, such as a chart.
    #[error("not an image: its config has the type {0:?}")]
    NotAnImage(String),
    /// A layer that cannot be read.
    #[error("layer {layer} has the unsupported type {media_type:?}")]
    LayerType {
        /// Which, from 0.
        layer: usize,
        /// Its media type.
        media_type: String,
    },
    /// More of something than allowed.
    #[error("the {what} lists {got} entries; {max} is the most")]
    TooMany {
        /// Which document.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// The config does not describe the manifest's layers.
    #[error("the config has {diff_ids} diff ids for {layers} layers")]
    LayerCount {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// Nothing fits.
    #[error("no image for {wanted}; there is: {}", offered.join(", "))]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        offered: Vec<String>,
    },
    /// A single image that is for something else.
    #[error("the image is for {got}, not for {wanted}")]
    WrongPlatform {
        /// What was asked for.
        wanted: String,
        /// What it is for.
        got: String,
    },
}
