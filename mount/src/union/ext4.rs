//! An empty ext4 file system, as the bytes that are not zero in it. Pure.
//!
//! ```text
//!   block 0       superblock at byte 1,024
//!   block 1..     group descriptors, 32 bytes each
//!   group 0..n    block bitmap, inode bitmap, inode table, data
//! ```
//!
//! Written here because nodes need not have `mkfs.ext4`, and because little has to be written: bitmaps of all
//! but the first and the last group are left to the kernel (`uninit_bg`), so that a terabyte takes some hundred
//! kilobytes. There is no journal: what is in it does not outlive the machine's next start.
//!
//! Format: the kernel's `Documentation/filesystems/ext4`. `e2fsck` agrees, in tests.

mod layout;
#[cfg(test)]
mod tests;

pub(super) use layout::Layout;
use layout::{BLOCK, DESCRIPTOR, GROUP, INODE};

/// Inodes 1 to 10 are the kernel's.
const RESERVED_INODES: u64 = 10;
const ROOT_INODE: u64 = 2;

/// Bytes at an offset of the file system.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
}

/// Everything that is not zero in a fresh file system.
pub(super) fn pieces(layout: &Layout, uuid: [u8; 16], seconds: u32) -> Vec<Piece> {
    let at_block = |block: u64, bytes: Vec<u8>| Piece {
        at: block * BLOCK,
        bytes,
    };
    let last = layout.groups - 1;
    let mut pieces = vec![
        Piece {
            at: 1024,
            bytes: superblock(layout, uuid, seconds),
        },
        at_block(1, descriptors(layout, uuid)),
        at_block(layout.own_at(0), block_bitmap(layout, 0)),
        at_block(
            layout.own_at(0) + 1,
            bitmap(RESERVED_INODES, layout.inodes_per_group),
        ),
        Piece {
            at: (layout.own_at(0) + 2) * BLOCK + (ROOT_INODE - 1) * INODE,
            bytes: root_inode(layout, seconds),
        },
        at_block(layout.root_block(), root_directory()),
    ];
    if last > 0 {
        pieces.push(at_block(layout.own_at(last), block_bitmap(layout, last)));
    }
    pieces
}

fn superblock(layout: &Layout, uuid: [u8; 16], seconds: u32) -> Vec<u8> {
    const ATTRIBUTES: u32 = 0x8;
    const DIR_INDEX: u32 = 0x20;
    /// Without copies of the superblock: nobody would repair it.
    const SPARSE_SUPER2: u32 = 0x200;
    const FILETYPE: u32 = 0x2;
    const EXTENTS: u32 = 0x40;
    const LARGE_FILE: u32 = 0x2;
    const HUGE_FILE: u32 = 0x8;
    const GROUP_CHECKSUMS: u32 = 0x10;
    const DIR_NLINK: u32 = 0x20;
    const EXTRA_ISIZE: u32 = 0x40;
    let inodes = layout.groups * layout.inodes_per_group;
    let free: u64 = (0..layout.groups).map(|group| layout.free(group)).sum();
    let mut bytes = Bytes::new(1024);
    bytes.u32(0x00, inodes);
    bytes.u32(0x04, layout.blocks);
    bytes.u32(0x0C, free);
    bytes.u32(0x10, inodes - RESERVED_INODES);
    // log2 of the block's size over 1 KiB; clusters are blocks.
    bytes.u32(0x18, 2);
    bytes.u32(0x1C, 2);
    bytes.u32(0x20, GROUP);
    bytes.u32(0x24, GROUP);
    bytes.u32(0x28, layout.inodes_per_group);
    bytes.u32(0x30, seconds);
    // Never checked by count of mounts.
    bytes.u16(0x36, 0xFFFF);
    bytes.u16(0x38, 0xEF53);
    // Clean; read-only after an error.
    bytes.u16(0x3A, 1);
    bytes.u16(0x3C, 2);
    bytes.u32(0x40, seconds);
    bytes.u32(0x4C, 1);
    bytes.u32(0x54, RESERVED_INODES + 1);
    bytes.u16(0x58, INODE);
    bytes.u32(0x5C, ATTRIBUTES | DIR_INDEX | SPARSE_SUPER2);
    bytes.u32(0x60, FILETYPE | EXTENTS);
    bytes.u32(
        0x64,
        LARGE_FILE | HUGE_FILE | GROUP_CHECKSUMS | DIR_NLINK | EXTRA_ISIZE,
    );
    bytes.put(0x68, &uuid);
    bytes.put(0x78, b"lamina-upper");
    // Directories are hashed by half MD4, signed; the seed only has to be unknown.
    bytes.put(0xEC, &uuid);
    bytes.u8(0xFC, 1);
    bytes.u32(0x160, 1);
    bytes.u32(0x108, seconds);
    bytes.u16(0x15C, 32);
    bytes.u16(0x15E, 32);
    bytes.0
}

fn descriptors(layout: &Layout, uuid: [u8; 16]) -> Vec<u8> {
    const INODES_UNWRITTEN: u16 = 1;
    const BLOCKS_UNWRITTEN: u16 = 2;
    const TABLE_ZEROED: u16 = 4;
    let mut all = Vec::new();
    for group in 0..layout.groups {
        let (mut flags, mut inodes, mut directories) = (TABLE_ZEROED, layout.inodes_per_group, 0);
        if group == 0 {
            (inodes, directories) = (inodes - RESERVED_INODES, 1);
        } else {
            flags |= INODES_UNWRITTEN;
            if group + 1 < layout.groups {
                flags |= BLOCKS_UNWRITTEN;
            }
        }
        let own = layout.own_at(group);
        let mut bytes = Bytes::new(DESCRIPTOR as usize);
        bytes.u32(0x00, own);
        bytes.u32(0x04, own + 1);
        bytes.u32(0x08, own + 2);
        bytes.u16(0x0C, layout.free(group));
        bytes.u16(0x0E, inodes);
        bytes.u16(0x10, directories);
        bytes.u16(0x12, flags);
        // Inodes never used, at the table's end.
        bytes.u16(0x1C, inodes);
        let sum = checksum(&[&uuid, &(group as u32).to_le_bytes(), &bytes.0[..0x1E]]);
        bytes.u16(0x1E, sum);
        all.append(&mut bytes.0);
    }
    all
}

/// CRC-16 with the polynomial 0x8005, reflected, from all ones.
fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.iter().flat_map(|part| part.iter());
    bytes.fold(0xFFFF, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => (crc >> 1) ^ 0xA001,
        })
    })
}

/// Bits of the blocks in use, and of those that are not there.
fn block_bitmap(layout: &Layout, group: u64) -> Vec<u8> {
    bitmap(layout.used(group), layout.group_blocks(group))
}

/// A block with the first `used` bits set, and those from `there` on.
fn bitmap(used: u64, there: u64) -> Vec<u8> {
    let bit = |at: u64| u8::from(at < used || at >= there) << (at % 8);
    let byte = |first: u64| (first..first + 8).fold(0, |byte, at| byte | bit(at));
    (0..BLOCK).map(|index| byte(index * 8)).collect()
}

fn root_inode(layout: &Layout, seconds: u32) -> Vec<u8> {
    const IN_EXTENTS: u32 = 0x8_0000;
    let mut bytes = Bytes::new(INODE as usize);
    bytes.u16(0x00, 0o40_700_u16);
    bytes.u32(0x04, BLOCK);
    for time in [0x08, 0x0C, 0x10] {
        bytes.u32(time, seconds);
    }
    bytes.u16(0x1A, 2_u16);
    // In units of 512 bytes.
    bytes.u32(0x1C, BLOCK / 512);
    bytes.u32(0x20, IN_EXTENTS);
    // Extents: magic, one of four, a leaf; its length and place.
    bytes.u16(0x28, 0xF30A_u16);
    bytes.u16(0x2A, 1_u16);
    bytes.u16(0x2C, 4_u16);
    bytes.u16(0x38, 1_u16);
    bytes.u32(0x3C, layout.root_block());
    bytes.u16(0x80, 32_u16);
    bytes.0
}

/// `.` and `..`, both itself.
fn root_directory() -> Vec<u8> {
    const DIRECTORY: u8 = 2;
    const FIRST: u64 = 12;
    let mut bytes = Bytes::new(BLOCK as usize);
    for (at, length, name) in [(0, FIRST, "."), (FIRST as usize, BLOCK - FIRST, "..")] {
        bytes.u32(at, ROOT_INODE);
        bytes.u16(at + 4, length);
        bytes.u8(at + 6, name.len() as u8);
        bytes.u8(at + 7, DIRECTORY);
        bytes.put(at + 8, name.as_bytes());
    }
    bytes.0
}

/// Little-endian fields at their offsets.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn u8(&mut self, at: usize, value: u8) {
        self.put(at, &[value]);
    }

    fn u16<T: TryInto<u16>>(&mut self, at: usize, value: T) {
        let value = value.try_into().ok().expect("the layout bounds it");
        self.put(at, &value.to_le_bytes());
    }

    fn u32<T: TryInto<u32>>(&mut self, at: usize, value: T) {
        let value = value.try_into().ok().expect("the layout bounds it");
        self.put(at, &value.to_le_bytes());
    }
}
