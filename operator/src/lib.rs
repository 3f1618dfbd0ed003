//! Makes the cluster match the objects: reconcilers only, never the data path.
//!
//! Every reconciler has the same steps: `dereference` reads what the object names, `validate` and `build`
//! decide without I/O, then it is applied and the status says what became of it. Every call has a deadline,
//! every failure becomes a condition, and what failed is tried again with a growing, jittered pause.

pub mod apply;
pub mod cleanup;
pub mod cluster;
mod context;
mod deletion;
mod ensure;
mod events;
mod fault;
mod flist;
mod http;
mod image;
mod job;
mod keys;
mod lease;
mod metrics;
mod nodes;
mod pki;
mod place;
mod pull_secrets;
mod quantity;
mod retry;
mod run;
mod status;
mod store;
mod warming;

pub use run::{RunConfig, run};

/// Field manager of everything the operator applies.
pub const MANAGER: &str = "lamina-operator";
/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
