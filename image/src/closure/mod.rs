//! The files a container will open, from the image alone.
//!
//! ```text
//! layers' bytes passing ─ scan ─▶ Scans ┐
//!                          merged tree ─┼─▶ Graph ─┬─▶ hints: who needs whom
//!                         image config ─┘          └─▶ profile: the command's closure
//! ```
//! Follows what starting programs does: PATH look-up, shebangs, the ELF
//! loader, and for Python the import graph. The result is a guess in likely
//! order of first use, good enough to fetch ahead; nothing is read back to
//! make it.

mod command;
mod elf;
mod graph;
mod hints;
mod imports;
mod libraries;
mod listing;
mod modules;
mod names;
mod programs;
mod pyscan;
mod python;
mod scan;
mod start;
mod view;

use std::ops::Range;

use lamina_flist::NodeId;

pub use graph::Graph;
pub(crate) use scan::Scanner;
pub use scan::{FileScan, Scans};

/// A file, or a part of one, that a start reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The file.
    pub node: NodeId,
    /// The bytes.
    pub range: Range<u64>,
}

#[cfg(test)]
mod tests;
