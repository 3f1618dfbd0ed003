//! Runs commands for the cluster: admission, files in, logs and changes out.
//!
//! ```text
//!  Execute ──> service ──> run ──> admission   what fits (pure)
//!                           ├────> images      mounted once by `lamina node`, shared
//!                           ├────> sandboxes   namespaces, cgroups; some made ahead
//!                           ├────> frames, place   the client's files (order is pure)
//!                           └────> logs, changes   what comes back, as fast as the client reads
//! ```
//!
//! `docs/afslet.md` is the user's page; the contract is `proto/afslet/v1/afslet.proto`.

mod admission;
mod changes;
mod daemon;
mod drain;
mod error;
mod frames;
mod images;
mod limits;
mod live;
mod logs;
mod metrics;
mod node;
mod order;
mod outcome;
mod outlet;
mod parts;
mod place;
mod run;
mod sandboxes;
mod service;
mod sweep;
mod sys;

pub use daemon::{AfsletConfig, run};
pub use lamina_discovery::Security;
pub use limits::Limits;
pub use sandboxes::SpawnerProgram;
