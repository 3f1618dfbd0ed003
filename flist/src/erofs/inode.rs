//! The 64-byte extended inode.

use super::{FileType, SLOT, mode};
use crate::error::FlistError;
use crate::le::{Fields, u16_at, u32_at, u64_at};
use crate::tree::{Device, Timestamp};

/// Bytes of an inode.
pub(crate) const INODE_SIZE: usize = 64;
/// Bit 5 of a chunk format: 8-byte indexes. The low five bits: unit = 4096 << n.
pub(crate) const CHUNK_INDEXES: u32 = 0x20;

/// How an inode's data is found (`i_format >> 1`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum DataLayout {
    /// Whole blocks from a start block in the unified address space.
    Plain = 0,
    /// The same, with the last partial block right after inode and xattrs.
    Inline = 2,
    /// 8-byte chunk indexes after inode and xattrs.
    Chunks = 4,
}

/// An inode as it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    pub(crate) nid: u64,
    pub(crate) layout: DataLayout,
    /// `i_xattr_icount`.
    pub(crate) xattr_units: u16,
    pub(crate) file_type: FileType,
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// Start block, rdev or chunk format, as the type and layout say.
    pub(crate) data: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) nlink: u32,
}

impl Inode {
    /// Its number: also the inode number the kernel shows.
    pub fn nid(&self) -> u64 {
        self.nid
    }

    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }

    /// `st_mode`: type and permission bits.
    pub fn mode(&self) -> u32 {
        u32::from(self.mode)
    }

    /// Permission, set-id and sticky bits.
    pub fn perm(&self) -> u16 {
        self.mode & 0o7777
    }

    /// Owner.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Group.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Size in bytes: of the file, the symlink's target, the directory's
    /// blocks.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Modification time.
    pub fn mtime(&self) -> Timestamp {
        self.mtime
    }

    /// Link count.
    pub fn nlink(&self) -> u32 {
        self.nlink
    }

    /// Device number, if it is a device.
    pub fn device(&self) -> Option<Device> {
        matches!(self.file_type, FileType::CharDevice | FileType::BlockDevice)
            .then(|| super::decode_rdev(self.data))
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Where the inode is in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.nid * SLOT
    }

    /// Bytes of inline xattrs.
    pub(crate) fn xattr_len(&self) -> u64 {
        match self.xattr_units {
            0 => 0,
            units => 12 + (u64::from(units) - 1) * 4,
        }
    }

    /// First byte after inode and xattrs: the tail, or (aligned to 8) the
    /// chunk indexes.
    pub(crate) fn body_end(&self) -> u64 {
        self.offset() + INODE_SIZE as u64 + self.xattr_len()
    }

    /// Writes the inode at its place.
    pub(crate) fn write(&self, image: &mut [u8]) {
        let at = usize::try_from(self.offset()).expect("inside the image");
        Fields::new(&mut image[at..at + INODE_SIZE])
            .u16(1 | (self.layout as u16) << 1)
            .u16(self.xattr_units)
            .u16(self.mode)
            .u16(0)
            .u64(self.size)
            .u32(self.data)
            .u32(self.nid as u32) // 32-bit stat compatibility
            .u32(self.uid)
            .u32(self.gid)
            .u64(self.mtime.secs.cast_unsigned())
            .u32(self.mtime.nanos)
            .u32(self.nlink); // 16 reserved bytes stay zero
    }

    /// Reads inode `nid`, inside the first `end` bytes of the file.
    ///
    /// Only inodes of the subset pass; where their data lies is checked when
    /// it is read.
    pub(crate) fn read(file: &[u8], end: u64, nid: u64) -> Result<Self, FlistError> {
        let at = nid.checked_mul(SLOT).filter(|at| {
            at.checked_add(INODE_SIZE as u64)
                .is_some_and(|last| last <= end)
        });
        let at = at.ok_or(FlistError::NidOutOfRange(nid))? as usize;
        let raw = file.get(at..at + INODE_SIZE);
        let raw = raw.ok_or(FlistError::NidOutOfRange(nid))?;
        Self::decode(raw, nid)
    }

    fn decode(raw: &[u8], nid: u64) -> Result<Self, FlistError> {
        let short = || FlistError::NidOutOfRange(nid);
        let format = u16_at(raw, 0).ok_or_else(short)?;
        let layout = match format {
            0b0001 => DataLayout::Plain,
            0b0101 => DataLayout::Inline,
            0b1001 => DataLayout::Chunks,
            0b0011 | 0b0111 => return Err(FlistError::CompressedInode(nid)),
            _ => return Err(FlistError::UnsupportedInode { nid, format }),
        };
        let mode = u16_at(raw, 4).ok_or_else(short)?;
        let file_type = FileType::from_mode(u32::from(mode) & mode::MASK)
            .ok_or(FlistError::BadMode { nid, mode })?;
        let nanos = u32_at(raw, 40).ok_or_else(short)?;
        if nanos >= 1_000_000_000 {
            return Err(FlistError::BadTime { nid, nanos });
        }
        let secs = u64_at(raw, 32).ok_or_else(short)?.cast_signed();
        let inode = Self {
            nid,
            layout,
            xattr_units: u16_at(raw, 2).ok_or_else(short)?,
            file_type,
            mode,
            size: u64_at(raw, 8).ok_or_else(short)?,
            data: u32_at(raw, 16).ok_or_else(short)?,
            uid: u32_at(raw, 24).ok_or_else(short)?,
            gid: u32_at(raw, 28).ok_or_else(short)?,
            mtime: Timestamp { secs, nanos },
            nlink: u32_at(raw, 44).ok_or_else(short)?,
        };
        let mut reserved = raw[6..8].iter().chain(&raw[48..]);
        let canonical = reserved.all(|&b| b == 0)
            && u32_at(raw, 20) == Some(nid as u32)
            && inode.xattr_units != 1;
        if canonical {
            Ok(inode)
        } else {
            Err(FlistError::InodeReserved(nid))
        }
    }
}
