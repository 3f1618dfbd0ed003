//! The mount daemon: serves cached blobs to the kernel and asks the agent for
//! what is missing. It has no network code and outlives the agent; it may be
//! killed itself at any moment and its successor goes on where it was.
//!
//! ```text
//!   kernel (EROFS) --FUSE--> workers --present--> cache/blobs/<id>/data
//!                               | missing
//!                               v
//!                        fill link --agent.sock--> agent
//!   agent, lamina --mountd.sock--> control: register blobs, mount records
//!   holder.sock: descriptors of the FUSE connections, "ready"
//! ```
//!
//! What always holds: one mount daemon per run directory (a lock, waited for);
//! the node id of a blob is on disk before the kernel can see it; every
//! descriptor of a connection is in the holder before anything is mounted on
//! its files.

mod alive;
mod blobs;
mod control;
mod daemon;
mod fill_link;
mod held;
mod protocol;
mod state;
mod trees;

pub use daemon::{MountdConfig, run};
pub use protocol::{
    BlobRegistration, ErrorKind, MOUNTD_SOCKET, MountRecord, MountdClient, MountdError,
    MountdStats, RegisteredBlob, TreeMount, Watch,
};
pub use state::read_records;
