//! Where packs live: one trait, its stores, its wrappers.
//!
//! - [`StoreSpec`] and [`StoreUrl`] say where; [`StoreSet`] is the sharded, replicated whole.
//! - [`PackSink`] writes chunks into packs, [`ChunkReader`] reads them back verified, [`ChunkIndex`] knows
//!   what is already stored.
//! - [`Store`] is the trait below them; `conformance` holds the tests every implementation passes.
//!
//! What always holds: objects are named by the hash of their content and never change (but for the small
//! [`ImagePointer`]s, named by what they are about); nothing is listed
//! before it is durable; no byte is handed out that does not match its name.

mod api;
pub mod backend;
mod chunk_index;
mod codec;
#[cfg(any(test, feature = "test-support"))]
pub mod conformance;
mod copy;
mod error;
#[cfg(any(test, feature = "test-support"))]
pub mod fault;
mod flists;
mod gc;
mod health;
pub mod index;
mod key;
mod options;
pub mod pack;
mod pointer;
mod reader;
mod retry;
mod set;
pub mod sink;
mod spec;
mod sys;
pub mod url;
mod verify;

pub use api::{Listed, PackRef, Store};
pub use chunk_index::{ChunkIndex, Known, LoadOptions, default_index_cache};
pub use codec::{ChunkError, decode};
pub use copy::{CopyReport, copy_packs};
pub use error::{ErrorKind, Result, StoreError};
pub use flists::{fetch_flist, publish_flist};
pub use gc::{Forgotten, GcOptions, GcPlan, GcRoots, StorePlan};
pub use key::{ObjectKey, ObjectKind};
pub use options::{Environment, StoreOptions, UrlTrust};
pub use pointer::{ImageKey, ImagePointer, fetch_pointer, publish_pointer};
pub use reader::{ChunkReader, ChunkSource, ReadError, ReadOptions, entries_within, part_within};
pub use retry::Retry;
pub use set::StoreSet;
pub use sink::{PackOptions, PackSink, PackStats, PackTarget, Packed, SinkError};
pub use spec::{ShardRange, StoreSpec};
pub use sys::{OpenFlistError, open_flist};
pub use url::{StoreUrl, StoreUrlError};
pub use verify::{Problem, VerifyReport, verify_flist, verify_stores};
