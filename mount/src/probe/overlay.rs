//! Overlayfs and its options: one detached union per option over empty
//! directories.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::Finding;
use crate::fscontext::{FsContext, FsError};

pub(super) struct OverlayProbe {
    pub(super) available: Finding,
    pub(super) volatile: Finding,
    pub(super) xino: Finding,
    pub(super) userxattr: Finding,
    pub(super) fd_layers: Finding,
    pub(super) tmpfs_upper: Finding,
}

pub(super) fn probe(scratch: &Path) -> io::Result<OverlayProbe> {
    let plain = Layers::new(scratch, "plain")?;
    let volatile = Layers::new(scratch, "volatile")?;
    Ok(OverlayProbe {
        available: Finding::of(
            "a union of two empty directories",
            plain.mount(|_| Ok(())),
            "images can be mounted writable",
            "images can be mounted read-only",
            Some("load the overlay module; keep the writable directory off overlayfs and NFS"),
        ),
        volatile: Finding::of(
            "a union with volatile",
            volatile.mount(|context| context.flag("volatile")),
            "throw-away root file systems never wait for the disk",
            "throw-away root file systems sync like others",
            Some("use Linux 5.10 or later"),
        ),
        xino: Finding::of(
            "a union with xino=on",
            plain.mount(|context| context.string("xino", "on")),
            "inode numbers in a union are unique and stable",
            "inode numbers in a union may change when a file is first written",
            Some("use Linux 4.17 or later"),
        ),
        userxattr: Finding::of(
            "a union with userxattr",
            plain.mount(|context| context.flag("userxattr")),
            "unions can be made inside user namespaces",
            "unions need root",
            Some("use Linux 5.11 or later"),
        ),
        fd_layers: Finding::of(
            "a union with layers given as descriptors",
            fd_layers(&plain),
            "layers are handed over as descriptors",
            "layers are handed over as paths",
            None,
        ),
        tmpfs_upper: Finding::of(
            "a union with its upper on a size-limited tmpfs",
            tmpfs_upper(&plain),
            "changes can be kept in memory, with a limit",
            "changes are kept on disk",
            Some("mount the tmpfs yourself and give a directory on it as the upper"),
        ),
    })
}

struct Layers(std::path::PathBuf);

impl Layers {
    fn new(scratch: &Path, name: &str) -> io::Result<Self> {
        let base = scratch.join(name);
        for layer in ["lower", "upper", "work"] {
            std::fs::create_dir_all(base.join(layer))?;
        }
        Ok(Self(base))
    }

    fn mount(&self, option: impl Fn(&FsContext) -> Result<(), FsError>) -> Result<(), FsError> {
        let context = FsContext::open("overlay")?;
        context.string("lowerdir", self.0.join("lower"))?;
        context.string("upperdir", self.0.join("upper"))?;
        context.string("workdir", self.0.join("work"))?;
        option(&context)?;
        context.mount(MountAttrFlags::empty()).map(drop)
    }
}

fn open(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn fd_layers(layers: &Layers) -> io::Result<()> {
    let lower = open(&layers.0.join("lower"))?;
    let upper = open(&layers.0.join("upper"))?;
    let work = open(&layers.0.join("work"))?;
    let mount = || {
        let context = FsContext::open("overlay")?;
        context.fd("lowerdir+", lower.as_fd())?;
        context.fd("upperdir", upper.as_fd())?;
        context.fd("workdir", work.as_fd())?;
        context.mount(MountAttrFlags::empty()).map(drop)
    };
    mount().map_err(io::Error::other)
}

/// The tmpfs is attached for a moment: older kernels take no layer from a mount
/// that is in no directory tree.
fn tmpfs_upper(layers: &Layers) -> io::Result<()> {
    let at = layers.0.join("tmpfs");
    std::fs::create_dir_all(&at)?;
    let tmpfs = || {
        let context = FsContext::open("tmpfs")?;
        context.string("size", "65536")?;
        context.mount(MountAttrFlags::empty())?.attach(&at)
    };
    tmpfs().map_err(io::Error::other)?;
    let result = union_on(layers, &at);
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::DETACH)?;
    result
}

fn union_on(layers: &Layers, tmpfs: &Path) -> io::Result<()> {
    for layer in ["upper", "work"] {
        std::fs::create_dir(tmpfs.join(layer))?;
    }
    let mount = || {
        let context = FsContext::open("overlay")?;
        context.string("lowerdir", layers.0.join("lower"))?;
        context.string("upperdir", tmpfs.join("upper"))?;
        context.string("workdir", tmpfs.join("work"))?;
        context.mount(MountAttrFlags::empty()).map(drop)
    };
    mount().map_err(io::Error::other)
}
