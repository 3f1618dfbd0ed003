//! The EROFS superblock and its device table.
//!
//! ```text
//! 1024  superblock, 128 bytes
//! 1152  device slots, 128 bytes each: tag (the blob id in hex), blocks, first
//!       block in the unified address space
//! ```

use std::ops::Range;

use super::{BLOCK_SIZE, COMPAT, DEVICE_SLOT, DEVICES_OFFSET, INCOMPAT, SUPER_OFFSET};
use crate::error::FlistError;
use crate::id::BlobId;
use crate::le::{Fields, array, u16_at, u32_at, u64_at};

const MAGIC: u32 = 0xe0f5_e1e2;
const BLOCK_BITS: u8 = 12;
const VOLUME_NAME: &[u8; 16] = b"lamina\0\0\0\0\0\0\0\0\0\0";
const SIZE: usize = DEVICES_OFFSET - SUPER_OFFSET;
const CHECKSUM: Range<usize> = 4..8;
const UUID: Range<usize> = 48..64;

/// The superblock's variable fields; everything else has one valid value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) root_nid: u16,
    pub(crate) inodes: u64,
    /// Blocks of the flist file up to the end of the tree.
    pub(crate) blocks: u32,
    pub(crate) devices: u16,
}

/// One blob's place in the unified block address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceRange {
    pub(crate) first: u32,
    pub(crate) blocks: u32,
}

impl Superblock {
    /// Writes the superblock without UUID and checksum: see [`seal`].
    pub(crate) fn write(&self, image: &mut [u8]) {
        Fields::new(&mut image[SUPER_OFFSET..DEVICES_OFFSET])
            .u32(MAGIC)
            .u32(0) // checksum
            .u32(COMPAT)
            .u8(BLOCK_BITS)
            .u8(0) // extension slots
            .u16(self.root_nid)
            .u64(self.inodes)
            .u64(0) // build time: only compact inodes use it
            .u32(0)
            .u32(self.blocks)
            .u32(0) // meta_blkaddr
            .u32(0) // xattr_blkaddr
            .put([0; 16]) // uuid
            .put(VOLUME_NAME)
            .u32(INCOMPAT)
            .u16(0) // compression algorithms
            .u16(self.devices)
            .u16((DEVICES_OFFSET / DEVICE_SLOT) as u16)
            .u8(0) // dirblkbits
            .u8(0) // xattr prefixes
            .u32(0)
            .u64(0); // packed inode; 24 reserved bytes stay zero
    }

    /// Reads and verifies the superblock of a whole flist: the checksum and
    /// every field, so that only what [`Superblock::write`] makes passes.
    pub(crate) fn parse(file: &[u8]) -> Result<Self, FlistError> {
        let first = file.get(SUPER_OFFSET..BLOCK_SIZE);
        let first = first.ok_or(FlistError::Truncated("superblock"))?;
        let field = |at| u32_at(first, at).ok_or(FlistError::Truncated("superblock"));
        if field(0)? != MAGIC {
            return Err(FlistError::NotErofs);
        }
        if field(CHECKSUM.start)? != checksum(first) {
            return Err(FlistError::SuperblockChecksum);
        }
        let incompat = field(80)?;
        if incompat != INCOMPAT {
            return Err(FlistError::UnsupportedFeatures(incompat));
        }
        let parsed = Self::fields(first).ok_or(FlistError::Truncated("superblock"))?;
        // Everything not in `parsed` has one valid value: write and compare.
        let mut want = [0; DEVICES_OFFSET];
        parsed.write(&mut want);
        let want = &mut want[SUPER_OFFSET..];
        want[CHECKSUM].copy_from_slice(&first[CHECKSUM]);
        want[UUID].copy_from_slice(&first[UUID]);
        match (0..SIZE).find(|&at| want[at] != first[at]) {
            Some(at) => Err(FlistError::UnsupportedSuperblock(at)),
            None => Ok(parsed),
        }
    }

    fn fields(raw: &[u8]) -> Option<Self> {
        Some(Self {
            root_nid: u16_at(raw, 14)?,
            inodes: u64_at(raw, 16)?,
            blocks: u32_at(raw, 36)?,
            devices: u16_at(raw, 86)?,
        })
    }

    /// First byte after the device table.
    pub(crate) fn devices_end(&self) -> usize {
        DEVICES_OFFSET + usize::from(self.devices) * DEVICE_SLOT
    }
}

/// Writes device slot `index`.
pub(crate) fn write_device(image: &mut [u8], index: usize, id: &BlobId, range: DeviceRange) {
    let at = DEVICES_OFFSET + index * DEVICE_SLOT;
    Fields::new(&mut image[at..at + DEVICE_SLOT])
        .put(id.to_string())
        .u32(range.blocks)
        .u32(range.first);
}

/// Reads device slot `index`: its range, and whether it is exactly the slot
/// that [`write_device`] makes for blob `id`.
pub(crate) fn read_device(file: &[u8], index: usize, id: &BlobId) -> Option<(DeviceRange, bool)> {
    let at = DEVICES_OFFSET + index * DEVICE_SLOT;
    let slot: [u8; DEVICE_SLOT] = array(file, at)?;
    let range = DeviceRange {
        blocks: u32_at(&slot, 64)?,
        first: u32_at(&slot, 68)?,
    };
    let canonical = slot[..64] == *id.to_string().as_bytes() && slot[72..].iter().all(|&b| b == 0);
    Some((range, canonical))
}

/// Sets UUID (from the content: overlayfs wants one, and the same tree must
/// give the same bytes) and checksum; the last step of writing.
pub(crate) fn seal(image: &mut [u8]) {
    let digest = blake3::derive_key("lamina.dev flist 2026 erofs uuid", &image[SUPER_OFFSET..]);
    let mut uuid: [u8; 16] = array(&digest, 0).expect("32 bytes");
    uuid[6] = (uuid[6] & 0x0f) | 0x80; // version 8: application-defined
    uuid[8] = (uuid[8] & 0x3f) | 0x80; // RFC 9562 variant
    let sb = &mut image[SUPER_OFFSET..BLOCK_SIZE];
    sb[UUID].copy_from_slice(&uuid);
    let sum = checksum(sb);
    sb[CHECKSUM].copy_from_slice(&sum.to_le_bytes());
}

/// The kernel's `crc32c(~0, …)` of the first block from the superblock on,
/// the checksum field as zero; it has no final inversion.
fn checksum(first_block: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&first_block[..CHECKSUM.start]);
    let sum = crc32c::crc32c_append(sum, &[0; 4]);
    !crc32c::crc32c_append(sum, &first_block[CHECKSUM.end..])
}
