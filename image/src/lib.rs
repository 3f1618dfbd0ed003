//! Outside to flist and back: OCI registry, layer tar, directory.

pub mod decompress;
pub mod limits;
pub mod platform;
pub mod reference;
pub mod tar;

pub use limits::{Limits, TarLimits};
pub use platform::Platform;
pub use reference::ImageRef;
