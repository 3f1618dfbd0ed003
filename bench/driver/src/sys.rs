//! The one unsafe operation: mapping a file.

#![allow(unsafe_code)]

use anyhow::Result;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;

/// Maps the whole file read-only, without read-ahead hints beyond the kernel's own.
pub(crate) fn map(file: &File) -> Result<Mmap> {
    // SAFETY: the benchmark's files are read-only copies that nothing changes while it runs.
    Ok(unsafe { MmapOptions::new().map(file)? })
}
