//! A layer that is here whole, open for reading.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::sync::Arc;

use lamina_flist::{Flist, Sha256Digest};

use super::disk;

/// Whoever holds whole layers.
pub trait WholeLayers: Send + Sync {
    /// Opens a layer; `None` when it is not here, or cannot be read now. Reads the disk: not for async tasks.
    fn open(&self, layer: &Sha256Digest) -> Option<OpenLayer>;
}

/// A layer's file. While it or a clone lives, the layer is not evicted.
#[derive(Clone)]
pub struct OpenLayer {
    /// The file, to be read at any place.
    pub file: Arc<File>,
    /// The layer's flist, checked as a whole but for its packs.
    pub flist: Arc<Flist>,
    /// Where the packs begin in the file; a pack's `embedded_at` counts from there.
    pub packs_at: u64,
    _lease: Arc<dyn Any + Send + Sync>,
}

impl OpenLayer {
    /// A layer that is kept for as long as `lease` lives.
    pub fn new(
        file: Arc<File>,
        flist: Arc<Flist>,
        packs_at: u64,
        lease: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            file,
            flist,
            packs_at,
            _lease: lease,
        }
    }

    /// Whether it was copied from another node, and not read from its registry. Asks the disk.
    pub fn is_copied(&self) -> bool {
        disk::is_copy(&self.file)
    }
}

impl fmt::Debug for OpenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OpenLayer");
        shown.field("flist", &self.flist.digest());
        shown.field("packs_at", &self.packs_at);
        shown.finish_non_exhaustive()
    }
}
