//! The node's daemons: holder, mount daemon, agent.
pub mod fill;
pub mod holder;
pub mod mountd;
pub mod rundir;
pub mod wire;
