//! The holder: a tiny process that keeps every `/dev/fuse` descriptor and
//! restarts the daemons that use them.
//!
//! As long as it lives no FUSE connection of this node ends, whatever happens
//! to the mount daemon and the agent: the kernel keeps requests until a
//! successor takes them. It has one thread, no network, no async runtime, and
//! parses nothing but messages of its own children.
//!
//! What always holds: a child is started only after its predecessor was waited
//! for (so nobody reads the same descriptors twice); descriptors leave the
//! holder only when a child says so or the holder ends.

mod client;
mod protocol;
mod replace;
mod server;
mod supervise;

#[cfg(test)]
mod tests;

pub use client::{HolderClient, HolderError};
pub use protocol::{ChildStatus, HOLDER_SOCKET, Programs};
pub use server::{HolderConfig, run};
pub use supervise::ChildSpec;
