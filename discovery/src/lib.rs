//! Who holds what in the cluster, and whom to read it from.
//!
//! ```text
//!  node ── client ── heartbeats to every replica ──┐
//!       └─ questions to any of them ───────────────┤      ┌── registry   live nodes, indexes (pure)
//!                                                  ├─ service ── resolver  images, asked once
//!  operator, proxy, public clients ────────────────┘      └── profiles   what starts read (pure)
//!
//!  node ── choose: of the providers found, whom to ask for this range (pure; used by readers)
//! ```
//!
//! Nothing is on disk: a replica that starts again is rebuilt by the next heartbeats. What decides (registry,
//! profiles, pace of heartbeats, choice of providers) takes time and chance from its caller, and is what the
//! simulation in `tests/` runs with ten thousand nodes.

pub mod beat;
pub mod change;
pub mod choose;
pub mod client;
pub mod clock;
pub mod daemon;
mod http;
pub mod identity;
pub mod image_key;
pub mod limits;
mod metrics;
pub mod node_id;
pub mod pace;
pub mod parts;
pub mod profiles;
pub mod random;
pub mod ration;
mod reason;
pub mod registry;
pub mod resolve;
pub mod ring;
mod run;
pub mod sections;
pub mod service;
pub mod tls;

pub use clock::{Clock, Now};
pub use image_key::ImageKey;
pub use limits::Limits;
pub use node_id::NodeId;
pub use random::Random;
pub use reason::reason;
pub use run::{DiscoveryConfig, Security, run};
