//! Outside to flist and back: OCI registry, layer tar, directory.

pub mod decompress;
pub mod layer;
pub mod limits;
pub mod manifest;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod source;
pub mod tar;

pub use limits::{Limits, TarLimits};
pub use platform::Platform;
pub use reference::ImageRef;
pub use source::{Source, SourceImage};
