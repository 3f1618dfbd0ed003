//! Whole trees over FUSE, for kernels without EROFS from files: each is a
//! connection of its own, held and resumed like the blob file system's.
//!
//! The record is on disk before the tree is mounted, and goes after it: a tree
//! whose descriptors are nowhere any more is detached, never left to hang.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_flist::Flist;
use lamina_mount::blobfs::BlobFs;
use lamina_mount::session::{FuseConnection, serve};
use lamina_mount::treefs::shell::{TreeFsShell, connect_options};
use lamina_mount::treefs::{CachedBlobs, TreeFs};
use lamina_mount::unmount::mountinfo::{MountEntry, MountTable};
use rustix::mount::{UnmountFlags, unmount};

use super::blobs::{Blobs, Refusal};
use super::held::Held;
use super::protocol::{ErrorKind, TreeMount};
use super::state::TreePlace;
use crate::holder::HolderError;

/// Descriptors of one tree, and threads on each: most reads end in the kernel.
const DEVICES: usize = 2;
const THREADS_PER_DEVICE: usize = 2;
const PREFIX: &str = "tree:";

/// Mounts trees and keeps them served.
#[derive(Debug, Clone)]
pub(super) struct Trees {
    pub(super) fs: Arc<BlobFs>,
    pub(super) blobs: Arc<Blobs>,
    pub(super) held: Arc<Held>,
    pub(super) turn: Arc<Mutex<()>>,
}

impl Trees {
    /// Mounts a tree and serves it until it is unmounted. One that is served
    /// already is left as it is.
    pub(super) fn mount(&self, mount: TreeMount) -> Result<(), Refusal> {
        // One at a time: the same tree may be asked for twice at once.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let flist = open(&mount.flist)?;
        let tree = TreePlace {
            digest: flist.digest(),
            mount,
        };
        if self.blobs.trees().contains(&tree) {
            if is_mounted(&tree.mount.at) {
                return Ok(());
            }
            // Unmounted a moment ago; its last thread will find nothing left to do.
            self.forget(&tree);
        }
        let shell = self.shell(flist, &tree)?;
        self.blobs.put_tree(tree.clone())?;
        let options = connect_options("lamina".into(), DEVICES);
        let mounted = FuseConnection::create(&tree.mount.at, &options)
            .map_err(|error| internal(&error))
            .and_then(|connection| self.keep(&tree, connection))
            .and_then(|devices| self.serve(&tree, &devices, &shell, false));
        if mounted.is_err() {
            self.forget(&tree);
        }
        mounted
    }

    /// Goes on serving what a predecessor mounted; what cannot be served any
    /// more is let go of, so that its readers get errors and do not wait.
    pub(super) fn restore(&self) -> Result<(), HolderError> {
        let trees = self.blobs.trees();
        for name in self.held.names(PREFIX)? {
            if !trees.iter().any(|tree| name == held_name(&tree.mount.at)) {
                self.held.remove(&name)?;
            }
        }
        for tree in trees {
            let resumed = match self.held.adopt(&held_name(&tree.mount.at))? {
                Some(devices) => self.resume(&tree, &devices),
                None => Err(Refusal::new(ErrorKind::NotFound, "no descriptors are left")),
            };
            if let Err(refusal) = resumed {
                let at = tree.mount.at.display();
                tracing::error!(%at, why = refusal.message, "tree given up");
                self.forget(&tree);
            }
        }
        Ok(())
    }

    fn resume(&self, tree: &TreePlace, devices: &[OwnedFd]) -> Result<(), Refusal> {
        let flist = open(&tree.mount.flist)?;
        if flist.digest() != tree.digest {
            let path = tree.mount.flist.display();
            let message = format!("{path} is not flist {} any more", tree.digest);
            return Err(Refusal::new(ErrorKind::Damaged, message));
        }
        let shell = self.shell(flist, tree)?;
        self.serve(tree, devices, &shell, true)
    }

    fn shell(&self, flist: Flist, tree: &TreePlace) -> Result<TreeFsShell, Refusal> {
        let inos = self.blobs.node_ids(&tree.mount.blobs)?;
        let blobs = CachedBlobs::new(Arc::clone(&self.fs), inos);
        Ok(TreeFsShell(Arc::new(TreeFs::new(flist, Arc::new(blobs)))))
    }

    /// A connection that cannot be resumed is not held: it ends with this
    /// process, and its readers with an error instead of waiting for ever.
    fn keep(
        &self,
        tree: &TreePlace,
        connection: FuseConnection,
    ) -> Result<Arc<Vec<OwnedFd>>, Refusal> {
        if !connection.can_resend {
            return Ok(Arc::new(connection.devices));
        }
        self.held
            .put(&held_name(&tree.mount.at), connection.devices)
            .map_err(|error| internal(&error))
    }

    fn serve(
        &self,
        tree: &TreePlace,
        devices: &[OwnedFd],
        shell: &TreeFsShell,
        resend: bool,
    ) -> Result<(), Refusal> {
        let serving =
            serve(devices, shell, THREADS_PER_DEVICE, resend).map_err(|error| internal(&error))?;
        let (trees, tree) = (self.clone(), tree.clone());
        let until_unmounted = move || {
            if let Err(error) = serving.join() {
                let at = tree.mount.at.display();
                tracing::error!(%at, %error, "serving a tree ended");
            }
            let _turn = trees.turn.lock().unwrap_or_else(PoisonError::into_inner);
            // Mounted there again already: then it is not ours to forget.
            if !is_mounted(&tree.mount.at) {
                trees.forget(&tree);
            }
        };
        std::thread::Builder::new()
            .name("tree".into())
            .spawn(until_unmounted)
            .map(drop)
            .map_err(|error| internal(&error))
    }

    /// Lets go of a tree that is unmounted, or was never mounted right. The descriptors go first:
    /// while one is open and nobody serves it, a look at the mount waits for ever.
    fn forget(&self, tree: &TreePlace) {
        let at = &tree.mount.at;
        match self.held.remove(&held_name(at)) {
            Ok(()) => detach_dead(at),
            Err(error) => {
                tracing::warn!(at = %at.display(), %error, "descriptors stay in the holder");
            }
        }
        if let Err(refusal) = self.blobs.remove_tree(at) {
            tracing::warn!(at = %at.display(), why = refusal.message, "tree stays recorded");
        }
    }
}

/// Whether a FUSE file system is mounted at `at`, as far as the kernel can be asked.
fn is_mounted(at: &Path) -> bool {
    let table = MountTable::read();
    table.is_ok_and(|table| table.on(at).is_some_and(MountEntry::is_fuse))
}

fn open(path: &Path) -> Result<Flist, Refusal> {
    lamina_store::open_flist(path)
        .map_err(|error| Refusal::new(ErrorKind::Damaged, crate::chain(&error)))
}

fn internal(error: &dyn std::error::Error) -> Refusal {
    Refusal::new(ErrorKind::Internal, crate::chain(error))
}

fn held_name(at: &Path) -> String {
    format!("{PREFIX}{}", at.display())
}

/// Takes away a dead connection of ours; anything else there stays.
fn detach_dead(at: &Path) {
    // A dead FUSE mount answers with ENOTCONN (or ECONNABORTED). The attributes of its root may be
    // in the kernel's cache still; what statfs(2) says never is.
    let dead = matches!(
        rustix::fs::statfs(at),
        Err(rustix::io::Errno::NOTCONN | rustix::io::Errno::CONNABORTED)
    );
    if dead && let Err(errno) = unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        tracing::warn!(at = %at.display(), %errno, "dead tree stays mounted");
    }
}
