//! The layerstore: a node's store of image layers, and its part in the cluster's.
//!
//! ```text
//!  layerstore.v1.LayerStore ── service ──┐                     ┌── shelf     layer files, bounded; leases
//!  lamina.v1.Layers ────────── records ──┼── layerstore ───────┼── wanted    registries, as the caller
//!  library of flists ────────────────────┘   (one per layer)   └── cluster   discovery, other nodes
//! ```
//! What always holds: the registry is read for a layer by one node, for all (`docs/layers.md`); nobody gets a private
//! image's layers by asking for the image without a right to it; credentials are used for the pull they came with
//! and never stored; what came from a node or a registry was checked before it is ours.

mod cluster;
mod copy;
mod disk;
mod error;
mod flight;
mod found;
mod home;
mod layerstore;
mod lease;
mod ledger;
mod notes;
mod open;
mod peer_service;
mod peers;
mod record;
mod report;
mod reservation;
mod service;
mod shelf;
mod turns;
mod upload;
mod wanted;

use std::io::Read as _;
use std::path::PathBuf;

pub use cluster::{Cluster, ClusterConfig, ClusterError};
pub(crate) use disk::failure as disk_failure;
pub use error::{EnsureError, EnsureErrorKind};
pub(crate) use flight::{called_off, ended, on_thread, on_thread_within};
pub(crate) use home::CONFIG_KEY;
pub use layerstore::{Ensured, EnsuredLayer, LayerCounts, Layerstore, Origin};
pub use ledger::NoRoom;
pub use open::{OpenLayer, WholeLayers};
pub use peer_service::{Answers, PeerService, ServeChunks};
pub use reservation::Reservation;
pub use service::{LayerService, Reach};
pub use shelf::{HeldLayer, LayerShelf, Pruned};
pub(crate) use turns::{TurnLimits, Turns};
pub use upload::{Upload, Uploads};
pub use wanted::WantedImage;

/// Where a layerstore is and what it may cost.
#[derive(Debug, Clone)]
pub struct LayersConfig {
    /// Its directory; made if missing, used by one process at a time.
    pub dir: PathBuf,
    /// Most bytes of layers; `None`: 60 % of what the disk has for them, and 1 TB at most.
    pub bytes_max: Option<u64>,
    /// Registries (`host[:port]`) spoken to in plain http although they are not this machine.
    pub insecure_registries: Vec<String>,
    /// What one image may cost.
    pub limits: lamina_image::Limits,
    /// Layers pulled at once, from one host at most half of them; each takes less than 64 MiB of memory.
    pub pulls_max: usize,
    /// Others that are served at once.
    pub uploads_max: usize,
}

impl LayersConfig {
    /// The usual bounds.
    pub fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            bytes_max: None,
            insecure_registries: Vec::new(),
            limits: lamina_image::Limits::default(),
            pulls_max: 8,
            uploads_max: 32,
        }
    }
}

/// Bytes that nobody can guess.
fn random_bytes<const N: usize>() -> Result<[u8; N], EnsureError> {
    let mut bytes = [0; N];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| EnsureError::disk("read random bytes", error))?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
