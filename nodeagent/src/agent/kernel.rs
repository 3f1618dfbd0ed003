//! The kernel's part of a mount: one mount per flist, then a bind or a union per target.

use crate::agent::failure::{Result, failure, of_io, refused};
use crate::agent::live::LiveFlist;
use crate::api::{FailureKind, ModeRequest, MountCall};
use lamina_mount::cache::CacheDir;
use lamina_mount::erofs::{ErofsOptions, mount_erofs};
use lamina_mount::loopdev::{self, LoopIo};
use lamina_mount::probe::{self, Mode};
use lamina_mount::union::{self, Lower, Union, UnionOptions, UnionSpec, Upper, UpperDirs};
use lamina_mount::unmount::mountinfo::MountTable;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The mode asked for, when it was one in particular.
pub(crate) fn only(mode: ModeRequest) -> Option<Mode> {
    match mode {
        ModeRequest::Auto => None,
        ModeRequest::Erofs => Some(Mode::Erofs),
        ModeRequest::ErofsLoop => Some(Mode::ErofsLoop),
        ModeRequest::Fuse => Some(Mode::Fuse),
    }
}

/// Mounts a prepared flist at its own mount point and says how.
pub(crate) fn mount(
    live: &LiveFlist,
    cache: &CacheDir,
    run_dir: &Path,
    at: &Path,
    request: ModeRequest,
) -> Result<Mode> {
    std::fs::create_dir_all(at).map_err(|error| failure(of_io(&error), &error))?;
    let devices: Vec<PathBuf> = live
        .sources
        .iter()
        .map(|source| match live.served.contains(&source.id) {
            true => run_dir.join("blobs").join(source.id.to_string()),
            false => cache.data_path(&source.id),
        })
        .collect();
    let mode = match only(request) {
        Some(mode) => mode,
        None => auto_mode(run_dir)?,
    };
    match mode {
        Mode::Erofs => over_files(live, &devices, at)?,
        Mode::ErofsLoop => over_loops(live, &devices, at)?,
        Mode::Fuse => over_fuse(live, run_dir, at)?,
    }
    Ok(mode)
}

/// The best mode of this kernel. Probing takes tens of milliseconds and its result cannot change
/// while the kernel runs, so it is done once.
fn auto_mode(run_dir: &Path) -> Result<Mode> {
    static MODE: OnceLock<Mode> = OnceLock::new();
    if let Some(mode) = MODE.get() {
        return Ok(*mode);
    }
    let features = probe::probe(run_dir).map_err(|error| failure(FailureKind::Other, &error))?;
    let mode = probe::choose_mode(probe::ModeRequest::Auto, &features)
        .map_err(|error| failure(FailureKind::Other, &error))?;
    Ok(*MODE.get_or_init(|| mode))
}

fn over_files(live: &LiveFlist, devices: &[PathBuf], at: &Path) -> Result<()> {
    let options = ErofsOptions {
        directio: live.served.len() == live.sources.len(),
        ..ErofsOptions::default()
    };
    let mount = mount_erofs(&live.admitted.path, devices, &options)
        .map_err(|error| failure(FailureKind::Other, &error))?;
    mount
        .attach(at)
        .map_err(|error| failure(FailureKind::Other, &error))
}

fn over_loops(live: &LiveFlist, devices: &[PathBuf], at: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).map_err(|error| failure(of_io(&error), &error));
    let image = open(&live.admitted.path)?;
    let files = devices
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>>>()?;
    let slots: Vec<_> = live
        .sources
        .iter()
        .map(|source| loopdev::erofs::BlobSlot {
            id: source.id,
            len: source.file.map().blob_len(),
        })
        .collect();
    let blobs: Vec<_> = live
        .sources
        .iter()
        .zip(&files)
        .map(|(source, file)| loopdev::erofs::BlobSource {
            id: source.id,
            file: file.as_fd(),
        })
        .collect();
    let mount = loopdev::erofs::mount(image.as_fd(), &slots, &blobs, LoopIo::Buffered)
        .map_err(|error| failure(FailureKind::Other, &error))?;
    mount
        .attach(at)
        .map_err(|error| failure(FailureKind::Other, &error))
}

fn over_fuse(_live: &LiveFlist, _run_dir: &Path, _at: &Path) -> Result<()> {
    Err(refused(FailureKind::Invalid, "NOT YET"))
}

/// Shows the flist's mount at the call's target.
pub(crate) fn attach(live: &LiveFlist, call: &MountCall) -> Result<Option<UpperDirs>> {
    let table = MountTable::read().map_err(|error| failure(of_io(&error), &error))?;
    if table.on(&call.target).is_some() {
        let target = call.target.display();
        return Err(refused(
            FailureKind::Busy,
            format!("something is mounted on {target} already"),
        ));
    }
    match &call.upper {
        Some(upper) => overlay(live, call, upper),
        None => bind(live, call).map(|()| None),
    }
}

fn overlay(live: &LiveFlist, call: &MountCall, upper: &Path) -> Result<Option<UpperDirs>> {
    let spec = UnionSpec {
        lowers: vec![Lower::Path(&live.mount_point)],
        upper: Some(Upper::Directory(upper.to_owned())),
        options: UnionOptions {
            nosuid_nodev: !call.trusted,
            ..UnionOptions::default()
        },
    };
    let union: Union = union::build(spec).map_err(|error| failure(FailureKind::Invalid, &error))?;
    union
        .attach(&call.target)
        .map_err(|error| failure(FailureKind::Other, &error))
}

/// The flist's own mount is `nodev,nosuid`; a trusted target sheds that after it was bound, so that
/// there is no moment in which an untrusted one lacks it.
fn bind(live: &LiveFlist, call: &MountCall) -> Result<()> {
    let failed =
        |errno: rustix::io::Errno| failure(FailureKind::Other, &std::io::Error::from(errno));
    mount_bind(&live.mount_point, &call.target).map_err(failed)?;
    if call.trusted {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        mount_remount(&call.target, flags, "").map_err(failed)?;
    }
    Ok(())
}
