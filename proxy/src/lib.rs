//! Finds a place for every run, and says what is in the cluster.
//!
//! ```text
//!  client ── Execute ──> execute ── first frame ──> ask       what is wanted (pure)
//!                           │                        │
//!                           │                    dispatch ──> choose   whom to ask (pure)
//!                           │                        │            ▲ afslets: addresses, polled status, ledgers
//!  frames ──> source ───────┼────── frames ──────> afslet
//!  answers <── passage <────┴────── answers ──────────┘
//!
//!  client ── Status, ReconcileImageReplica ──> service ──> discovery, layerstores
//! ```
//!
//! Nothing is shared between proxies and nothing is on disk: an afslet's own admission decides, a proxy only guesses
//! well. Always: a command can only have begun after its afslet's first answer came through here, because files and
//! the end of them are not passed on before; so a request is given to another afslet only while nothing of it ran.

mod afslet;
mod afslets;
mod ask;
mod choose;
mod config;
mod dial;
mod dispatch;
mod execute;
mod frame;
mod freed;
mod guard;
mod http;
mod ledger;
mod metrics;
mod overview;
mod passage;
mod phase;
mod replicas;
mod run;
mod service;
mod source;

pub use config::{Limits, Lookup, ProxyConfig, Security};
pub use overview::{AfsletView, Failure, Layerstore, Overview, Summary};
pub use run::{Proxy, run};
