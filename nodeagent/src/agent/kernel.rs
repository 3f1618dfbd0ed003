//! The kernel's part of a mount: one mount per flist, then a bind or a union per target.

use crate::agent::failure::{Result, failure, of_io, refused};
use crate::agent::live::LiveFlist;
use crate::agent::mounts::MOUNTD_PATIENCE;
use crate::api::{Failure, FailureKind, Medium, ModeRequest, MountCall};
use crate::mountd::{BlobRegistration, MountdClient, TreeMount};
use lamina_mount::cache::CacheDir;
use lamina_mount::erofs::{ErofsOptions, mount_erofs};
use lamina_mount::fscontext::{DetachedMount, FsError};
use lamina_mount::loopdev::{self, LoopIo};
use lamina_mount::probe::{self, Mode};
use lamina_mount::read_ahead::Bdi;
use lamina_mount::union::{
    self, DiskError, Lower, Union, UnionError, UnionOptions, UnionSpec, Upper, UpperDirs,
    UpperError,
};
use lamina_mount::unmount::mountinfo::{MountIdentity, MountTable};
use rustix::fs;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
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

/// How a flist was mounted.
pub(crate) struct Mounted {
    pub(crate) mode: Mode,
    /// What sets its read-ahead, where that is this mount's alone and is known.
    pub(crate) bdi: Option<Bdi>,
}

/// Mounts a prepared flist at its own mount point and says how.
pub(crate) fn mount(
    live: &LiveFlist,
    cache: &CacheDir,
    run_dir: &Path,
    at: &Path,
    request: ModeRequest,
) -> Result<Mounted> {
    std::fs::create_dir_all(at).map_err(|error| failure(of_io(&error), &error))?;
    let devices: Vec<PathBuf> = live
        .sources
        .iter()
        .map(|source| match live.served.contains(&source.id) {
            true => run_dir.join("blobs").join(source.id.to_string()),
            false => cache.data_path(&source.id),
        })
        .collect();
    let by = |mode| {
        let bdi = match mode {
            Mode::Erofs => over_files(live, &devices, at)?,
            Mode::ErofsLoop => over_loops(live, &devices, at).map(|()| None)?,
            Mode::Fuse => over_fuse(live, cache, run_dir, at).map(|()| None)?,
        };
        Ok(Mounted { mode, bdi })
    };
    let mounted = chosen(request, cache, by)?;
    // What somebody mounts on a target must not come back here through a shared parent.
    mount_change(at, MountPropagationFlags::PRIVATE)
        .map_err(|errno| failure(FailureKind::Other, &std::io::Error::from(errno)))?;
    Ok(mounted)
}

fn chosen(
    request: ModeRequest,
    cache: &CacheDir,
    by: impl Fn(Mode) -> Result<Mounted>,
) -> Result<Mounted> {
    if let Some(mode) = only(request).or(AUTO.get().copied()) {
        return by(mode);
    }
    // Probing takes a tenth of a second, most kernels do the best mode, and trying it is a probe too.
    let mounted = by(Mode::Erofs).or_else(|refused| match probed(cache.root())? {
        Mode::Erofs => Err(refused),
        mode => by(mode),
    })?;
    AUTO.get_or_init(|| mounted.mode);
    Ok(mounted)
}

/// The mode that worked: it cannot change while the kernel runs.
static AUTO: OnceLock<Mode> = OnceLock::new();

/// Whether the kernel may be given complete blobs to read by itself.
pub(crate) fn reads_files(request: ModeRequest) -> bool {
    only(request).or(AUTO.get().copied()) != Some(Mode::Fuse)
}

fn probed(scratch: &Path) -> Result<Mode> {
    let features = probe::probe(scratch).map_err(|error| failure(FailureKind::Other, &error))?;
    probe::choose_mode(probe::ModeRequest::Auto, &features)
        .map_err(|error| failure(FailureKind::Other, &error))
}

fn over_files(live: &LiveFlist, devices: &[PathBuf], at: &Path) -> Result<Option<Bdi>> {
    let options = ErofsOptions::default();
    let make = || mount_erofs(&live.admitted.path, devices, options);
    let (mount, bdi) =
        Bdi::of_new("erofs", make).map_err(|error| failure(FailureKind::Other, &error))?;
    mount
        .attach(at)
        .map_err(|error| failure(FailureKind::Other, &error))?;
    Ok(bdi)
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

fn over_fuse(live: &LiveFlist, cache: &CacheDir, run_dir: &Path, at: &Path) -> Result<()> {
    let unavailable = |error: &dyn std::error::Error| failure(FailureKind::Unavailable, error);
    let mut mountd =
        MountdClient::connect(run_dir, MOUNTD_PATIENCE).map_err(|error| unavailable(&error))?;
    let blobs: Vec<_> = live.sources.iter().map(|source| source.id).collect();
    let all = blobs.iter().map(|id| BlobRegistration {
        id: *id,
        dir: cache.blob_dir(id),
    });
    mountd
        .register_blobs(all.collect())
        .map_err(|error| unavailable(&error))?;
    let tree = TreeMount {
        flist: live.admitted.path.clone(),
        at: at.to_owned(),
        blobs,
    };
    mountd.mount_tree(tree).map_err(|error| unavailable(&error))
}

/// A live flist as it will be at a target, attached nowhere yet.
pub(crate) enum View {
    ReadOnly(DetachedMount),
    Union(Box<Union>),
}

impl View {
    /// What a call asks for. It is all it will be before anybody can see it: an untrusted mount never
    /// is without `nodev,nosuid`, and a trusted one never with them.
    pub(crate) fn build(live: &LiveFlist, call: &MountCall) -> Result<Self> {
        let table = MountTable::read().map_err(|error| failure(of_io(&error), &error))?;
        if table.on(&call.target).is_some() {
            let target = call.target.display();
            let message = format!("something is mounted on {target} already");
            return Err(refused(FailureKind::Busy, message));
        }
        let shown = Shown::open(live, call.sub_path.as_deref())?;
        let own = shown.clone(live, call.trusted)?;
        match &call.upper {
            Some(upper) => {
                let union = union_over(&shown, call, upper)?;
                Ok(Self::Union(Box::new(union)))
            }
            None if call.upper_bytes_max.is_some() => {
                let message = "a bound on changes needs a directory for them";
                Err(refused(FailureKind::Invalid, message))
            }
            None => Ok(Self::ReadOnly(own)),
        }
    }

    /// Which mount it is, before and after it is attached.
    pub(crate) fn identity(&self) -> Result<MountIdentity> {
        let identity = match self {
            Self::ReadOnly(mount) => mount.identity(),
            Self::Union(union) => union.identity(),
        };
        identity.map_err(|error| failure(FailureKind::Other, &error))
    }

    /// A path to the union, attached or not, for other processes to look at while this value lives.
    pub(crate) fn union_path(&self) -> Option<PathBuf> {
        let Self::Union(union) = self else {
            return None;
        };
        let (process, fd) = (std::process::id(), union.as_fd().as_raw_fd());
        Some(format!("/proc/{process}/fd/{fd}").into())
    }

    pub(crate) fn attach(self, target: &Path) -> Result<Option<UpperDirs>> {
        let of_attach = |error: &FsError| failure(of_io(&error.source), error);
        match self {
            Self::ReadOnly(mount) => mount
                .attach(target)
                .map(|()| None)
                .map_err(|error| of_attach(&error)),
            Self::Union(union) => union
                .attach(target)
                .map_err(|error| failure(FailureKind::Other, &error)),
        }
    }
}

/// The directory of a flist's own mount that is shown.
struct Shown {
    directory: OwnedFd,
    path: PathBuf,
}

impl Shown {
    /// The root, or what `sub_path` leads to with symbolic links followed as if that root were `/`.
    fn open(live: &LiveFlist, sub_path: Option<&str>) -> Result<Self> {
        let root = live.mount_point.clone();
        let directory = rustix::fs::open(&root, DIRECTORY, fs::Mode::empty())
            .map_err(|errno| failure(FailureKind::Other, &std::io::Error::from(errno)))?;
        let Some(sub_path) = sub_path else {
            return Ok(Self {
                directory,
                path: root,
            });
        };
        let inside = sub_path.trim_start_matches('/');
        let is_clean = |part: &str| part != "..";
        if !inside.split('/').all(is_clean) {
            let message = format!("the path inside the flist, {sub_path:?}, has `..` in it");
            return Err(refused(FailureKind::Invalid, message));
        }
        let resolve =
            fs::ResolveFlags::IN_ROOT | fs::ResolveFlags::NO_MAGICLINKS | fs::ResolveFlags::NO_XDEV;
        let name = match inside {
            "" => ".",
            inside => inside,
        };
        let found = fs::openat2(&directory, name, DIRECTORY, fs::Mode::empty(), resolve);
        match found {
            Ok(directory) => Ok(Self {
                directory,
                path: root.join(inside),
            }),
            Err(errno) => Err(no_directory(sub_path, errno)),
        }
    }

    /// A mount of it; refused when something else is where the flist's own mount was.
    fn clone(&self, live: &LiveFlist, trusted: bool) -> Result<DetachedMount> {
        let failed = |error: &FsError| failure(FailureKind::Other, error);
        let mount = DetachedMount::clone_of_directory(self.directory.as_fd(), &self.path)
            .map_err(|error| failed(&error))?;
        let identity = mount
            .identity()
            .map_err(|error| failure(FailureKind::Other, &error))?;
        if let Some(watch) = live.watch
            && watch.device_numbers() != identity.device
        {
            let at = live.mount_point.display();
            let message = format!(
                "the flist's own mount at {at} is gone or hidden: unmount what is mounted there, \
                 then every target of the flist, and mount again"
            );
            return Err(refused(FailureKind::Other, message));
        }
        if trusted {
            mount.trust().map_err(|error| failed(&error))?;
        }
        Ok(mount)
    }
}

const DIRECTORY: fs::OFlags = fs::OFlags::PATH
    .union(fs::OFlags::DIRECTORY)
    .union(fs::OFlags::CLOEXEC);

fn no_directory(sub_path: &str, errno: rustix::io::Errno) -> Failure {
    let (kind, why) = match errno {
        rustix::io::Errno::NOENT => (FailureKind::NotFound, "is not in the flist".to_owned()),
        rustix::io::Errno::NOTDIR => (FailureKind::Invalid, "is no directory".to_owned()),
        rustix::io::Errno::LOOP => (FailureKind::Invalid, "has too many links in it".to_owned()),
        rustix::io::Errno::NAMETOOLONG | rustix::io::Errno::INVAL => {
            (FailureKind::Invalid, "cannot be a path".to_owned())
        }
        errno => {
            let error = std::io::Error::from(errno);
            (of_io(&error), format!("cannot be opened: {error}"))
        }
    };
    let shown: String = sub_path.chars().take(NAME_SHOWN_MAX).collect();
    refused(kind, format!("the path to show, {shown:?}, {why}"))
}

/// Characters of a path repeated in an answer: callers may send anything.
const NAME_SHOWN_MAX: usize = 256;

fn union_over(shown: &Shown, call: &MountCall, upper: &Path) -> Result<Union> {
    let at = upper.to_owned();
    let place = match (call.upper_bytes_max, call.upper_medium) {
        (None, _) => Upper::Directory(at),
        (Some(bytes_max), Medium::Memory) => Upper::Tmpfs { at, bytes_max },
        (Some(bytes_max), Medium::Disk) => Upper::Disk { at, bytes_max },
    };
    if call.upper_bytes_max.is_some() {
        prepare_bounded(upper)?;
    }
    let spec = UnionSpec {
        lowers: vec![Lower::Fd(shown.directory.as_fd())],
        upper: Some(place),
        options: UnionOptions {
            nosuid_nodev: !call.trusted,
            ..UnionOptions::default()
        },
    };
    let built = union::build(spec).map_err(|error| failure(of_union(&error), &error));
    if call.upper_bytes_max.is_some() {
        // The union has it, and nobody else needs it: nothing is left to be taken down later, by
        // whomever.
        take_down_bounded(upper)?;
    }
    built
}

/// A directory for a bounded file system; without what a killed agent left on it.
fn prepare_bounded(at: &Path) -> Result<()> {
    take_down_bounded(at)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(at)
        .map_err(|error| failure(of_io(&error), &error))
}

/// Takes down what an agent that was killed at that moment left below the state directory.
pub(crate) fn sweep_bounded(state: &Path) -> Result<()> {
    let table = MountTable::read().map_err(|error| failure(of_io(&error), &error))?;
    let left = table.below(state).filter(|entry| union::is_bounded(entry));
    left.map(|entry| entry.mount_point.as_path())
        .try_for_each(detach)
}

fn take_down_bounded(at: &Path) -> Result<()> {
    let table = MountTable::read().map_err(|error| failure(of_io(&error), &error))?;
    let ours = table.stack(at).filter(|entry| union::is_bounded(entry));
    ours.map(|_| at).try_for_each(detach)
}

/// What a refused union means to a caller.
fn of_union(error: &UnionError) -> FailureKind {
    match error {
        UnionError::Upper(UpperError::Disk(DiskError::Room { .. })) => FailureKind::Exhausted,
        UnionError::Upper(UpperError::Disk(DiskError::File { source, .. })) => of_io(source),
        _ => FailureKind::Invalid,
    }
}

fn detach(at: &Path) -> Result<()> {
    rustix::mount::unmount(at, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|errno| failure(FailureKind::Other, &std::io::Error::from(errno)))
}
