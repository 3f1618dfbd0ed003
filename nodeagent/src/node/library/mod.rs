//! The node's library of flists: from "this image" to a checked flist on this node's disk.

mod error;

use std::path::PathBuf;
use std::sync::Arc;

use lamina_flist::FlistDigest;
use lamina_proto::lamina::v1::{FlistInfo, Source};

pub use error::{EnsureError, EnsureErrorKind};

/// Where a library is and what it may cost.
#[derive(Debug, Clone)]
pub struct LibraryConfig {
    /// Its directory; made if missing, used by one process at a time.
    pub dir: PathBuf,
    /// Stores used where a request names none.
    pub stores: Vec<String>,
    /// Registries (`host[:port]`) spoken to in plain http although they are not this machine.
    pub insecure_registries: Vec<String>,
    /// What it may cost.
    pub limits: LibraryLimits,
}

/// Bounds of a library.
#[derive(Debug, Clone)]
pub struct LibraryLimits {
    /// Flists kept; the least recently used goes first, one in use never.
    pub flists_max: usize,
    /// Bytes of flists kept.
    pub bytes_max: u64,
    /// Bytes of records of converted layers.
    pub records_bytes_max: u64,
    /// Conversions at once.
    pub conversions_max: usize,
    /// Conversions waiting for their turn; one more is refused.
    pub queue_max: usize,
    /// What one image may cost.
    pub image: lamina_image::Limits,
}

impl Default for LibraryLimits {
    fn default() -> Self {
        Self {
            flists_max: 1000,
            bytes_max: 4 << 30,
            records_bytes_max: 1 << 30,
            conversions_max: 2,
            queue_max: 64,
            image: lamina_image::Limits::default(),
        }
    }
}

/// What is being done for a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asking a registry or the stores what there is.
    Resolve,
    /// Waiting for other conversions, then converting; bytes are stored bytes of layers.
    Convert,
    /// Reading a flist from a store.
    Fetch,
}

impl Phase {
    /// Its name in `EnsureProgress`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Convert => "convert",
            Self::Fetch => "fetch",
        }
    }
}

/// A flist on this node. While it or a clone lives, the library keeps the file.
#[derive(Debug, Clone)]
pub struct Have {
    /// The flist's file.
    pub flist: PathBuf,
    /// What it is. `bytes_local` and `volumes` are the caller's to fill.
    pub info: FlistInfo,
    /// Stores to read its data from, credentials included: not for logs.
    pub stores: Vec<String>,
}

/// The library.
#[derive(Debug)]
pub struct Library {
    config: LibraryConfig,
}

impl Library {
    /// Opens the library, clearing away what a killed process left.
    ///
    /// # Errors
    /// The directory cannot be used, another process uses it, or a store of the configuration makes no
    /// sense.
    pub fn open(config: LibraryConfig) -> Result<Arc<Self>, EnsureError> {
        Ok(Arc::new(Self { config }))
    }

    /// Makes the source's flist available here. What it begins goes on when the caller is gone; the next
    /// equal call finds it. `stores` empty: the node's own.
    ///
    /// # Errors
    /// By kind, see [`EnsureErrorKind`].
    pub async fn ensure(
        self: &Arc<Self>,
        source: Source,
        stores: &[String],
        progress: impl Fn(Phase, u64, u64) + Send + Sync + 'static,
    ) -> Result<Have, EnsureError> {
        let _ = (source, stores, &self.config);
        progress(Phase::Resolve, 0, 0);
        Err(EnsureError::new(
            EnsureErrorKind::Internal,
            "ensure: this build cannot",
        ))
    }

    /// Every flist here.
    pub fn list(&self) -> Vec<FlistInfo> {
        Vec::new()
    }

    /// Forgets a flist; `delete_stored`: also deletes it from its stores with the packs no other flist
    /// there needs. Gives the bytes freed. One that is not here is no failure.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody holds it ([`Have`]) or a conversion runs; else a store's.
    pub async fn forget(
        self: &Arc<Self>,
        digest: FlistDigest,
        delete_stored: bool,
        stores: &[String],
    ) -> Result<u64, EnsureError> {
        let _ = (digest, delete_stored, stores);
        Ok(0)
    }
}
