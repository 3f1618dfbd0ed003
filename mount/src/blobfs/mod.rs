//! A file system of one directory with one read-only file per cached blob,
//! named by the blob id: what EROFS mounts use as their devices.
//!
//! [`BlobFs`] knows blobs, presence and filling and no FUSE; [`BlobFsShell`]
//! translates FUSE messages to it and errors to errno, nothing more.
//!
//! What always holds:
//! - a byte is returned only if its map entry is marked present (bytes no entry
//!   covers are padding and zeros); everything else waits for the filler or is
//!   an error, never zeros; that holds, too, while another process evicts;
//! - no thread waits for a fill: a read of missing bytes is put aside and
//!   finished by the filler's call-back, so present bytes are never stuck
//!   behind missing ones;
//! - node ids are given by the caller and stay the same across restarts.

mod core;
mod fuse;
mod stats;
mod touches;

#[cfg(test)]
mod tests;

pub use core::{Attributes, BlobFs, BlobFsOptions, ROOT_INO, ReadError};
pub use fuse::BlobFsShell;
pub use stats::BlobStats;
