//! EROFS over loop devices: the flist on one device, each blob on another.
//!
//! The device table of an flist names its blobs by position only: handed over
//! in the wrong order, the mount works and files hold each other's bytes. So
//! blobs are given with their ids and put in table order here.

use std::os::fd::BorrowedFd;

use lamina_flist::BlobId;
use rustix::mount::MountAttrFlags;

use super::{LoopDevice, LoopError, LoopIo};
use crate::fscontext::{DetachedMount, FsContext, FsError};

/// One line of the flist's blob table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobSlot {
    /// Which blob the position belongs to.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u64,
}

/// A blob's data: a local file, or a file on the blob FUSE mount.
#[derive(Debug, Clone, Copy)]
pub struct BlobSource<'a> {
    /// Which blob it is.
    pub id: BlobId,
    /// Open for reading.
    pub file: BorrowedFd<'a>,
}

/// An flist could not be mounted over loop devices.
#[derive(Debug, thiserror::Error)]
pub enum LoopMountError {
    /// The flist needs a blob that was not given.
    #[error("blob {0} of the flist is missing")]
    MissingBlob(BlobId),
    /// A blob file ends before its data does.
    #[error("the file of blob {id} has {actual} of {expected} bytes")]
    ShortBlob {
        /// The blob.
        id: BlobId,
        /// From the flist.
        expected: u64,
        /// Of the file.
        actual: u64,
    },
    /// A device could not be set up.
    #[error("setting up a loop device for {what}")]
    Device {
        /// `the flist` or a blob's id.
        what: String,
        /// Why not.
        #[source]
        source: LoopError,
    },
    /// The kernel refused the mount.
    #[error("mounting the flist")]
    Mount(#[from] FsError),
}

/// Mounts an flist, detached. The devices clear themselves when the mount ends.
///
/// `slots` is the flist's blob table in order; `blobs` may come in any order
/// and may hold more than is needed.
///
/// # Errors
/// [`LoopMountError`].
pub fn mount(
    flist: BorrowedFd<'_>,
    slots: &[BlobSlot],
    blobs: &[BlobSource<'_>],
    io: LoopIo,
) -> Result<DetachedMount, LoopMountError> {
    let ordered = in_table_order(slots, blobs)?;
    let image = device(flist, "the flist".to_owned(), io)?;
    let devices = ordered
        .iter()
        .map(|blob| device(blob.file, format!("blob {}", blob.id), io))
        .collect::<Result<Vec<_>, _>>()?;
    let context = FsContext::open("erofs")?;
    context.string("source", image.path())?;
    // Without it the kernel opens the device for writing and is refused.
    context.flag("ro")?;
    for device in &devices {
        context.string("device", device.path())?;
    }
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    Ok(context.mount(attributes)?)
}

fn device(file: BorrowedFd<'_>, what: String, io: LoopIo) -> Result<LoopDevice, LoopMountError> {
    LoopDevice::attach(file, io).map_err(|source| LoopMountError::Device { what, source })
}

fn in_table_order<'a>(
    slots: &[BlobSlot],
    blobs: &[BlobSource<'a>],
) -> Result<Vec<BlobSource<'a>>, LoopMountError> {
    slots
        .iter()
        .map(|slot| {
            let blob = blobs
                .iter()
                .find(|blob| blob.id == slot.id)
                .ok_or(LoopMountError::MissingBlob(slot.id))?;
            let actual =
                rustix::fs::fstat(blob.file).map_or(0, |stat| stat.st_size.cast_unsigned());
            if actual < slot.len {
                return Err(LoopMountError::ShortBlob {
                    id: slot.id,
                    expected: slot.len,
                    actual,
                });
            }
            Ok(*blob)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn file(len: u64) -> std::fs::File {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(len).expect("set length");
        file
    }

    #[test]
    fn blobs_are_put_in_table_order_and_checked() {
        let (a, b) = (BlobId::of(b"a"), BlobId::of(b"b"));
        let (file_a, file_b) = (file(8192), file(4096));
        let given = [
            BlobSource {
                id: b,
                file: file_b.as_fd(),
            },
            BlobSource {
                id: a,
                file: file_a.as_fd(),
            },
        ];
        let slots = [BlobSlot { id: a, len: 8192 }, BlobSlot { id: b, len: 4096 }];
        let ordered = in_table_order(&slots, &given).expect("both given");
        assert_eq!(
            ordered.iter().map(|blob| blob.id).collect::<Vec<_>>(),
            [a, b]
        );

        let long = [BlobSlot { id: b, len: 8192 }];
        assert!(matches!(
            in_table_order(&long, &given),
            Err(LoopMountError::ShortBlob {
                expected: 8192,
                actual: 4096,
                ..
            })
        ));
        let other = BlobId::of(b"c");
        assert!(matches!(
            in_table_order(&[BlobSlot { id: other, len: 0 }], &given),
            Err(LoopMountError::MissingBlob(id)) if id == other
        ));
    }
}
