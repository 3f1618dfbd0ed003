//! Outside to flist and back: OCI registry, layer tar, directory.

mod beneath;
pub mod closure;
mod content_map;
pub mod convert;
pub mod decompress;
pub mod diff;
pub mod layer;
pub mod limits;
pub mod manifest;
pub mod pack;
pub mod platform;
pub mod progress;
pub mod reference;
pub mod registry;
pub mod source;
pub mod stack;
pub mod tar;
pub mod unpack;

pub use content_map::MissingError;
pub use limits::{Limits, TarLimits};
pub use platform::Platform;
pub use reference::ImageRef;
pub use source::{Source, SourceImage};
