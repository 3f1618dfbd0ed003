//! What a long operation tells whoever shows it.

/// Told about progress from several threads; must return at once.
///
/// Every method has an empty default: implement what is shown.
pub trait Progress: Send + Sync {
    /// The image is known: sizes of its layers as stored.
    fn layers(&self, _sizes: &[u64]) {}
    /// `bytes` more of layer `index` have arrived.
    fn layer_bytes(&self, _index: usize, _bytes: u64) {}
    /// Layer `index` is done; `reused` if it had been converted before.
    fn layer_done(&self, _index: usize, _reused: bool) {}
    /// A source has this many entries and bytes to go through.
    fn total(&self, _entries: u64, _bytes: u64) {}
    /// `entries` more and `bytes` more are done.
    fn advanced(&self, _entries: u64, _bytes: u64) {}
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {}
