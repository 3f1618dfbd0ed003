//! The subset of EROFS that a flist uses, as on-disk records.
//!
//! Source of the format: Linux `fs/erofs/erofs_fs.h`. Always: 4 KiB blocks,
//! 64-byte extended inodes, `meta_blkaddr` 0 (so a nid is a file offset / 32),
//! a device table of one slot per blob right after the superblock, feature
//! flags exactly [`COMPAT`] and [`INCOMPAT`]. Nothing compressed, no shared
//! xattrs, no long xattr prefixes, no compact inodes.

pub(crate) mod dirent;
pub(crate) mod inode;
pub(crate) mod layout;
pub(crate) mod superblock;
pub(crate) mod view;
pub(crate) mod writer;
pub(crate) mod xattr;

/// Block size; `BLOCK` of the crate as the type offsets are sliced with.
pub(crate) const BLOCK_SIZE: usize = 4096;
/// A nid counts units of this many bytes.
pub(crate) const SLOT: u64 = 32;
/// Where the superblock is.
pub(crate) const SUPER_OFFSET: usize = 1024;
/// Where the device table is.
pub(crate) const DEVICES_OFFSET: usize = 1152;
/// Bytes of one device slot.
pub(crate) const DEVICE_SLOT: usize = 128;
/// `SB_CHKSUM | MTIME`.
pub(crate) const COMPAT: u32 = 0x1 | 0x2;
/// `CHUNKED_FILE | DEVICE_TABLE`.
pub(crate) const INCOMPAT: u32 = 0x4 | 0x8;

/// Longest directory or symlink tail kept next to its inode; a longer one
/// takes a block of its own. A tail of `t` bytes does not fit what is left of
/// its block in `t / 4096` of cases and then wastes `t / 2` bytes on average;
/// a block of its own wastes `4096 - t`. They are equal near 3,000.
pub(crate) const TAIL_MAX: usize = 3072;

/// Most devices: the device table must end within the first 8 MiB (kernel),
/// and the root's nid, which comes after it, must fit 16 bits (2 MiB).
pub(crate) const BLOBS_MAX: usize = 16_000;

/// The address that means "hole" in a chunk index.
pub(crate) const NULL_BLOCK: u32 = u32::MAX;

/// `st_mode` type bits.
pub(crate) mod mode {
    pub(crate) const MASK: u32 = 0o170_000;
    pub(crate) const FIFO: u32 = 0o010_000;
    pub(crate) const CHAR: u32 = 0o020_000;
    pub(crate) const DIR: u32 = 0o040_000;
    pub(crate) const BLOCK: u32 = 0o060_000;
    pub(crate) const FILE: u32 = 0o100_000;
    pub(crate) const LINK: u32 = 0o120_000;
    pub(crate) const SOCKET: u32 = 0o140_000;
}

/// What an inode or a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// Regular file.
    File = 1,
    /// Directory.
    Directory = 2,
    /// Character device.
    CharDevice = 3,
    /// Block device.
    BlockDevice = 4,
    /// Named pipe.
    Fifo = 5,
    /// Socket.
    Socket = 6,
    /// Symbolic link.
    Symlink = 7,
}

impl FileType {
    /// From the number in a directory entry.
    pub(crate) fn from_dirent(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            _ => return None,
        })
    }

    /// From the type bits of `st_mode`.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & mode::MASK {
            mode::FILE => Self::File,
            mode::DIR => Self::Directory,
            mode::CHAR => Self::CharDevice,
            mode::BLOCK => Self::BlockDevice,
            mode::FIFO => Self::Fifo,
            mode::SOCKET => Self::Socket,
            mode::LINK => Self::Symlink,
            _ => return None,
        })
    }

    /// The type bits of `st_mode`.
    pub fn mode(self) -> u32 {
        match self {
            Self::File => mode::FILE,
            Self::Directory => mode::DIR,
            Self::CharDevice => mode::CHAR,
            Self::BlockDevice => mode::BLOCK,
            Self::Fifo => mode::FIFO,
            Self::Socket => mode::SOCKET,
            Self::Symlink => mode::LINK,
        }
    }
}

/// `dev_t` as EROFS stores it (`new_encode_dev`), if the numbers fit.
pub(crate) fn encode_rdev(device: crate::tree::Device) -> Option<u32> {
    let crate::tree::Device { major, minor } = device;
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// The inverse of [`encode_rdev`].
pub(crate) fn decode_rdev(rdev: u32) -> crate::tree::Device {
    crate::tree::Device {
        major: (rdev >> 8) & 0xfff,
        minor: (rdev & 0xff) | ((rdev >> 12) & 0xf_ff00),
    }
}
