//! EROFS: a two-file image made in memory is mounted each way and its one
//! file, which lives on a second device as blobs do, is read back.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use lamina_flist::BlobId;
use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::Finding;
use crate::fscontext::{DetachedMount, FsContext, FsError};
use crate::loopdev::erofs::{BlobSlot, BlobSource};
use crate::loopdev::{LoopDevice, LoopIo};

const BLOCK: usize = 4096;

pub(super) struct ErofsProbe {
    pub(super) available: Finding,
    pub(super) file_backed: Finding,
    pub(super) loop_devices: Finding,
    pub(super) on_loop: Finding,
}

pub(super) fn probe(scratch: &Path) -> io::Result<ErofsProbe> {
    let files = Files::write(scratch)?;
    Ok(ErofsProbe {
        available: Finding::of(
            "opening a context of the file system",
            FsContext::open("erofs").map(drop),
            "images are mounted by the kernel",
            "images are served by a FUSE daemon, slower for walks and small files",
            Some("load the erofs module, or use a kernel with CONFIG_EROFS_FS"),
        ),
        file_backed: Finding::of(
            "mounting a built-in image and its blob from files in the cache, and reading",
            files.file_backed(),
            "the fastest mode works",
            "images need loop devices or FUSE",
            Some(
                "use Linux 6.12 or later with CONFIG_EROFS_FS_BACKED_BY_FILE, \
                 and a cache on ext4, xfs or btrfs rather than tmpfs or overlayfs",
            ),
        ),
        loop_devices: Finding::of(
            "binding a file to a loop device",
            LoopDevice::attach(files.image.as_fd(), LoopIo::Buffered).map(drop),
            "files can be used as block devices",
            "files cannot be used as block devices",
            Some("load the loop module, and give the container /dev/loop-control and /dev/loop*"),
        ),
        on_loop: Finding::of(
            "mounting the built-in image and its blob from loop devices, and reading",
            files.on_loop(),
            "images can be mounted by the kernel over loop devices",
            "images cannot be mounted over loop devices",
            Some("load the erofs (Linux 5.16 or later) and loop modules"),
        ),
    })
}

struct Files {
    image: File,
    blob: File,
    image_path: std::path::PathBuf,
    blob_path: std::path::PathBuf,
}

impl Files {
    fn write(scratch: &Path) -> io::Result<Self> {
        let (image_path, blob_path) = (scratch.join("image"), scratch.join("blob"));
        std::fs::write(&image_path, image())?;
        std::fs::write(&blob_path, blob())?;
        Ok(Self {
            image: File::open(&image_path)?,
            blob: File::open(&blob_path)?,
            image_path: std::path::absolute(image_path)?,
            blob_path: std::path::absolute(blob_path)?,
        })
    }

    fn file_backed(&self) -> io::Result<()> {
        let mount = || -> Result<DetachedMount, FsError> {
            let context = FsContext::open("erofs")?;
            context.string("source", &self.image_path)?;
            context.string("device", &self.blob_path)?;
            context.flag("ro")?;
            context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY)
        };
        read_back(&mount().map_err(io::Error::other)?)
    }

    fn on_loop(&self) -> io::Result<()> {
        let id = BlobId::of(&blob());
        let slots = [BlobSlot {
            id,
            len: BLOCK as u64,
        }];
        let sources = [BlobSource {
            id,
            file: self.blob.as_fd(),
        }];
        let io = LoopIo::DirectIfPossible;
        let mount = crate::loopdev::erofs::mount(self.image.as_fd(), &slots, &sources, io)
            .map_err(io::Error::other)?;
        read_back(&mount)
    }
}

fn read_back(mount: &DetachedMount) -> io::Result<()> {
    let file = rustix::fs::openat(
        mount.as_fd(),
        "f",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut data = vec![0_u8; BLOCK];
    let len = rustix::io::pread(&file, &mut data, 0)?;
    if len == BLOCK && data == blob() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "the mounted file does not hold what was written",
    ))
}

fn blob() -> Vec<u8> {
    b"lamina probes this kernel's EROFS. "
        .iter()
        .copied()
        .cycle()
        .take(BLOCK)
        .collect()
}

/// Block 0: superblock and device table. Block 1: the root directory with its
/// entries inline, then `f`, whose data is block 2 of the unified address
/// space: the first of the extra device. Layouts: `fs/erofs/erofs_fs.h`.
fn image() -> Vec<u8> {
    const ROOT_NID: u64 = 0;
    const FILE_NID: u64 = 4;
    const DEVICE_BLOCK: u32 = 2;
    let mut image = vec![0_u8; 2 * BLOCK];

    let superblock = &mut image[1024..1024 + 128];
    put(superblock, 0, &0xE0F5_E1E2_u32.to_le_bytes());
    superblock[12] = 12; // log2 of the block size
    put(superblock, 14, &(ROOT_NID as u16).to_le_bytes());
    put(superblock, 16, &2_u64.to_le_bytes()); // inodes
    put(superblock, 36, &2_u32.to_le_bytes()); // blocks
    put(superblock, 40, &1_u32.to_le_bytes()); // first block of inodes
    put(superblock, 80, &8_u32.to_le_bytes()); // feature: device table
    put(superblock, 86, &1_u16.to_le_bytes()); // extra devices
    put(superblock, 88, &9_u16.to_le_bytes()); // slot of the table: 9 x 128

    let slot = &mut image[9 * 128..10 * 128];
    put(slot, 0, b"probe");
    put(slot, 64, &1_u32.to_le_bytes()); // blocks
    put(slot, 68, &DEVICE_BLOCK.to_le_bytes());

    let names: [(&[u8], u64, u8); 3] = [
        (b".", ROOT_NID, 2),
        (b"..", ROOT_NID, 2),
        (b"f", FILE_NID, 1),
    ];
    let entries = directory(&names);
    let inode = compact_inode(2, 0o040_755, 2, entries.len() as u32, 0);
    put(&mut image, BLOCK, &inode);
    put(&mut image, BLOCK + 32, &entries);
    let inode = compact_inode(0, 0o100_644, 1, BLOCK as u32, DEVICE_BLOCK);
    put(&mut image, BLOCK + FILE_NID as usize * 32, &inode);
    image
}

/// Entries, then names without terminators.
fn directory(names: &[(&[u8], u64, u8)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut text = Vec::new();
    for (name, nid, file_type) in names {
        let name_offset = (names.len() * 12 + text.len()) as u16;
        entries.extend(nid.to_le_bytes());
        entries.extend(name_offset.to_le_bytes());
        entries.extend([*file_type, 0]);
        text.extend_from_slice(name);
    }
    entries.extend(text);
    entries
}

fn compact_inode(layout: u16, mode: u16, nlink: u16, size: u32, block: u32) -> [u8; 32] {
    let mut inode = [0_u8; 32];
    put(&mut inode, 0, &(layout << 1).to_le_bytes());
    put(&mut inode, 4, &mode.to_le_bytes());
    put(&mut inode, 6, &nlink.to_le_bytes());
    put(&mut inode, 8, &size.to_le_bytes());
    put(&mut inode, 16, &block.to_le_bytes());
    inode
}

fn put(target: &mut [u8], at: usize, bytes: &[u8]) {
    target[at..at + bytes.len()].copy_from_slice(bytes);
}
