//! What is in the test image: every byte follows from the file's number and
//! its offset, so a reader needs no second copy to compare with.
//!
//! Shared with the tests by path.

use std::path::{Path, PathBuf};

/// Files per directory.
const PER_DIR: u32 = 16;

#[allow(dead_code)] // the tests write the files, the reader reads them
/// Where file `index` is below the root: its name says its size.
pub(crate) fn path(index: u32, size: u64) -> PathBuf {
    PathBuf::from(format!("d{}/f{index}-{size}", index / PER_DIR))
}

/// Number and size from a name made by [`path`].
pub(crate) fn parse(path: &Path) -> Option<(u32, u64)> {
    let name = path.file_name()?.to_str()?.strip_prefix('f')?;
    let (index, size) = name.split_once('-')?;
    Some((index.parse().ok()?, size.parse().ok()?))
}

/// The bytes of a file from `offset` on.
pub(crate) fn fill(index: u32, offset: u64, out: &mut [u8]) {
    let mut word = offset / 8;
    let mut skip = (offset % 8) as usize;
    let mut at = 0;
    while at < out.len() {
        let bytes = mix(u64::from(index) << 40 ^ word).to_le_bytes();
        let take = (8 - skip).min(out.len() - at);
        out[at..at + take].copy_from_slice(&bytes[skip..skip + take]);
        at += take;
        skip = 0;
        word += 1;
    }
}

/// `SplitMix64`'s finaliser: no zero runs, no two files alike.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
