//! A packed tree mounted in each of the three modes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lamina_mount::erofs::{ErofsOptions, mount_erofs};
use lamina_mount::loopdev::LoopIo;
use lamina_mount::loopdev::erofs::{BlobSlot, BlobSource};
use lamina_mount::probe::{Mode, ModeRequest, choose_mode};
use lamina_mount::session::{FuseConnection, Serving, serve};
use lamina_mount::treefs::shell::{TreeFsShell, connect_options};
use lamina_mount::treefs::{BlobFiles, TreeFs};
use lamina_mount::unmount::{UnmountOptions, unmount};

use super::features;
use super::pack::Packed;

/// The modes this kernel has; says which it has not.
pub(crate) fn modes() -> Vec<Mode> {
    [Mode::Erofs, Mode::ErofsLoop, Mode::Fuse]
        .into_iter()
        .filter(
            |mode| match choose_mode(ModeRequest::Only(*mode), features()) {
                Ok(_) => true,
                Err(error) => {
                    println!("SKIP {} in mode {mode}: {error}", super::test_name());
                    eprintln!("SKIP {} in mode {mode}: {error}", super::test_name());
                    false
                }
            },
        )
        .collect()
}

/// A mount that ends with the value.
pub(crate) struct Mounted {
    target: PathBuf,
    fuse: Option<(Vec<OwnedFd>, Serving)>,
}

impl Mounted {
    pub(crate) fn new(packed: &Packed, mode: Mode, target: &Path) -> Self {
        std::fs::create_dir_all(target).expect("mkdir");
        let fuse = match mode {
            Mode::Erofs => {
                erofs(packed, target);
                None
            }
            Mode::ErofsLoop => {
                erofs_loop(packed, target);
                None
            }
            Mode::Fuse => Some(fuse(packed, target)),
        };
        Self {
            target: target.to_owned(),
            fuse,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.target
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let options = UnmountOptions {
            step_deadline: Duration::from_secs(10),
            busy_grace: Duration::from_secs(2),
            detach: true,
            ..UnmountOptions::default()
        };
        if let Err(error) = unmount(&self.target, &options) {
            eprintln!("{error}");
        }
        if let Some((devices, serving)) = self.fuse.take() {
            // With the mount gone, the last descriptors end the connection.
            drop(devices);
            if !std::thread::panicking() {
                serving.join().expect("the FUSE session ends well");
            }
        }
    }
}

fn erofs(packed: &Packed, target: &Path) {
    let devices: Vec<PathBuf> = packed.blobs.iter().map(|(_, path)| path.clone()).collect();
    mount_erofs(&packed.flist_path, &devices, ErofsOptions::default())
        .expect("mounting")
        .attach(target)
        .expect("attaching");
}

pub(crate) fn slots(packed: &Packed) -> Vec<BlobSlot> {
    (0..packed.flist.blob_count())
        .map(|index| packed.flist.blob(index).expect("in the table"))
        .map(|blob| BlobSlot {
            id: blob.id,
            len: blob.len,
        })
        .collect()
}

fn erofs_loop(packed: &Packed, target: &Path) {
    let flist = File::open(&packed.flist_path).expect("the flist");
    let files: Vec<_> = packed
        .blobs
        .iter()
        .map(|(id, path)| (*id, File::open(path).expect("a blob")))
        .collect();
    let sources: Vec<BlobSource<'_>> = files
        .iter()
        .map(|(id, file)| BlobSource {
            id: *id,
            file: file.as_fd(),
        })
        .collect();
    let io = LoopIo::DirectIfPossible;
    lamina_mount::loopdev::erofs::mount(flist.as_fd(), &slots(packed), &sources, io)
        .expect("mounting over loop devices")
        .attach(target)
        .expect("attaching");
}

/// The tree file system over complete blob files.
pub(crate) fn shell(packed: &Packed) -> TreeFsShell {
    let files = packed
        .blobs
        .iter()
        .map(|(_, path)| File::open(path).expect("a blob"))
        .collect();
    let fs = TreeFs::new(packed.flist.clone(), Arc::new(BlobFiles(files)));
    TreeFsShell(Arc::new(fs))
}

fn fuse(packed: &Packed, target: &Path) -> (Vec<OwnedFd>, Serving) {
    let options = connect_options("lamina-test".to_owned(), 2);
    let connection = FuseConnection::create(target, &options).expect("connecting");
    let serving = serve(&connection.devices, &shell(packed), 2, false).expect("serving");
    (connection.devices, serving)
}
