//! A command in a root file system: namespaces, cgroups, seccomp, timeout.
//!
//! ```text
//!   Spawner::start ──> prepare ──────> Prepared ──> start ──> Running ──> wait ──> Ended
//!   once per daemon    namespaces in   waits; the             the command
//!                      its cgroup      root is made
//! ```
//!
//! The root file system is whatever mount the caller hands over; making it is not this crate's business.

pub mod cgroup;
mod confine;
pub mod diff;
pub mod ended;
pub mod ids;
pub mod image;
mod init;
mod mounts;
pub mod network_files;
pub mod running;
pub mod slots;
pub mod spawner;
pub mod spec;
mod sys;
pub mod user;
mod wire;

pub use confine::keeps_from_abstract_sockets;
pub use ended::Ended;
pub use ids::IdRange;
pub use running::{Running, Signaller};
pub use spawner::{Prepare, Prepared, Spawner, SpawnerError, Standard};
pub use spec::{Capability, Spec};
pub use sys::tty::{RawMode, set_window_size, window_size};
