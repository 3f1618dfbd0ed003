//! What this kernel can do for us, found by trying, and the mount mode that
//! follows.
//!
//! Versions lie (distributions backport, containers filter), so every feature
//! is exercised once on throw-away objects: detached mounts, temporary files,
//! a child process. Nothing is left behind and nothing is changed.
//! [`choose_mode`] is pure: what was found in, what to do out.

mod cgroup;
mod erofs;
mod fuse;
mod overlay;
mod system;

use std::fmt;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use fuse::FuseOffer;

/// What one test found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether the kernel does it, for this process.
    pub found: bool,
    /// How it was tested.
    pub tested: String,
    /// What having or lacking it means.
    pub means: String,
    /// What to do where it is missing and matters; what else was learnt.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fix: Option<String>,
    /// The kernel's answer where the test failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl Finding {
    fn of<E: std::error::Error>(
        tested: &str,
        result: Result<(), E>,
        with: &str,
        without: &str,
        fix: Option<&str>,
    ) -> Self {
        let found = result.is_ok();
        Self {
            found,
            tested: tested.to_owned(),
            means: if found { with } else { without }.to_owned(),
            fix: fix.filter(|_| !found).map(str::to_owned),
            error: result.err().map(|error| causes(&error)),
        }
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// `uname -r`, for people; nothing is decided by it.
    pub kernel: String,
    /// The EROFS file system.
    pub erofs: Finding,
    /// EROFS mounts an flist and its blobs as plain files.
    pub erofs_file_backed: Finding,
    /// Loop devices.
    pub loop_devices: Finding,
    /// EROFS mounts an flist and its blobs as loop devices.
    pub erofs_loop: Finding,
    /// FUSE at all.
    pub fuse: Finding,
    /// What the kernel offered in `FUSE_INIT`.
    pub fuse_offer: Option<FuseOffer>,
    /// A restarted daemon gets unanswered requests again.
    pub fuse_resend: Finding,
    /// Reads of complete blobs skip the daemon.
    pub fuse_passthrough: Finding,
    /// Requests above 128 KiB.
    pub fuse_max_pages: Finding,
    /// FUSE over `io_uring`.
    pub fuse_uring: Finding,
    /// Connections can be aborted.
    pub fuse_abort: Finding,
    /// A writable union.
    pub overlay: Finding,
    /// Unions that never sync.
    pub overlay_volatile: Finding,
    /// Stable inode numbers across the layers of a union.
    pub overlay_xino: Finding,
    /// Unions inside a user namespace.
    pub overlay_userxattr: Finding,
    /// Layers given by descriptor.
    pub overlay_fd_layers: Finding,
    /// A size-limited upper in memory.
    pub overlay_tmpfs_upper: Finding,
    /// User namespaces that may mount overlayfs.
    pub user_namespaces: Finding,
    /// fanotify pre-content events (not used yet).
    pub fanotify_pre_content: Finding,
    /// The older control groups.
    pub cgroup_v1: Finding,
    /// The unified control groups.
    pub cgroup_v2: Finding,
}

impl Features {
    /// Names and findings, for a table.
    pub fn list(&self) -> Vec<(&'static str, &Finding)> {
        vec![
            ("erofs", &self.erofs),
            ("erofs on files", &self.erofs_file_backed),
            ("loop devices", &self.loop_devices),
            ("erofs on loop devices", &self.erofs_loop),
            ("fuse", &self.fuse),
            ("fuse resend", &self.fuse_resend),
            ("fuse passthrough", &self.fuse_passthrough),
            ("fuse large requests", &self.fuse_max_pages),
            ("fuse io_uring", &self.fuse_uring),
            ("fuse abort", &self.fuse_abort),
            ("overlayfs", &self.overlay),
            ("overlayfs volatile", &self.overlay_volatile),
            ("overlayfs xino", &self.overlay_xino),
            ("overlayfs userxattr", &self.overlay_userxattr),
            ("overlayfs layers by descriptor", &self.overlay_fd_layers),
            ("overlayfs upper in memory", &self.overlay_tmpfs_upper),
            ("user namespaces", &self.user_namespaces),
            ("fanotify pre-content", &self.fanotify_pre_content),
            ("cgroup v1", &self.cgroup_v1),
            ("cgroup v2", &self.cgroup_v2),
        ]
    }
}

/// Tries everything. `scratch` is a directory to make temporary files in; test
/// where the cache will be, since the answer depends on its file system.
///
/// # Errors
/// Only when nothing can be written in `scratch`; a missing feature is a
/// finding, not an error.
pub fn probe(scratch: &Path) -> io::Result<Features> {
    let dir = Scratch::new(scratch)?;
    let erofs = erofs::probe(dir.path())?;
    let fuse = fuse::probe();
    let overlay = overlay::probe(dir.path())?;
    Ok(Features {
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
        erofs: erofs.available,
        erofs_file_backed: erofs.file_backed,
        loop_devices: erofs.loop_devices,
        erofs_loop: erofs.on_loop,
        fuse_resend: fuse.resend(),
        fuse_passthrough: fuse.passthrough(),
        fuse_max_pages: fuse.max_pages(),
        fuse_uring: fuse.uring(),
        fuse_abort: fuse.abort(),
        fuse: fuse.available(),
        fuse_offer: fuse.offer(),
        overlay: overlay.available,
        overlay_volatile: overlay.volatile,
        overlay_xino: overlay.xino,
        overlay_userxattr: overlay.userxattr,
        overlay_fd_layers: overlay.fd_layers,
        overlay_tmpfs_upper: overlay.tmpfs_upper,
        user_namespaces: system::user_namespaces(),
        fanotify_pre_content: system::fanotify_pre_content(dir.path())?,
        cgroup_v1: cgroup::v1(),
        cgroup_v2: cgroup::v2(),
    })
}

/// A directory of our own that is removed at the end.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(parent: &Path) -> io::Result<Self> {
        // Other probes may run at the same time, also in this process.
        for attempt in 0_u32..1000 {
            let path = parent.join(format!(".lamina-probe-{}-{attempt}", std::process::id()));
            match rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU) {
                Ok(()) => return Ok(Self(path)),
                Err(rustix::io::Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("no free name for a directory in {}", parent.display()),
        ))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// How an flist becomes a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// EROFS on the flist and blob files: native speed.
    Erofs,
    /// EROFS on loop devices over the same files.
    ErofsLoop,
    /// A FUSE daemon serves the whole tree.
    Fuse,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Erofs => "erofs",
            Self::ErofsLoop => "erofs-loop",
            Self::Fuse => "fuse",
        })
    }
}

/// What the caller asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModeRequest {
    /// The fastest that works.
    Auto,
    /// This one or none.
    Only(Mode),
}

/// The requested mode does not work here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModeError {
    /// What it needs is missing.
    #[error("mode {mode} does not work here: {missing} missing{}", fix_text(fix.as_deref()))]
    Unsupported {
        /// The mode asked for.
        mode: Mode,
        /// Features that were not found, by name.
        missing: String,
        /// What may help.
        fix: Option<String>,
    },
    /// No mode works.
    #[error("no mount mode works here: {missing} missing{}", fix_text(fix.as_deref()))]
    NoneWorks {
        /// Features that were not found, by name.
        missing: String,
        /// What may help.
        fix: Option<String>,
    },
}

fn fix_text(fix: Option<&str>) -> String {
    fix.map(|fix| format!(" ({fix})")).unwrap_or_default()
}

/// Chooses the mount mode: what was asked for if it works, or the fastest.
///
/// Lazily filled blobs are FUSE files in every mode, but an flist whose blobs
/// are all local can be mounted without FUSE, so the EROFS modes do not ask for
/// it here.
///
/// # Errors
/// [`ModeError`], naming what is missing.
pub fn choose_mode(requested: ModeRequest, features: &Features) -> Result<Mode, ModeError> {
    const BY_SPEED: [Mode; 3] = [Mode::Erofs, Mode::ErofsLoop, Mode::Fuse];
    match requested {
        ModeRequest::Only(mode) => {
            let missing = missing_for(mode, features);
            if missing.is_empty() {
                return Ok(mode);
            }
            Err(ModeError::Unsupported {
                mode,
                missing: names(&missing),
                fix: first_fix(&missing),
            })
        }
        ModeRequest::Auto => BY_SPEED
            .into_iter()
            .find(|mode| missing_for(*mode, features).is_empty())
            .ok_or_else(|| {
                let missing = missing_for(Mode::Fuse, features);
                ModeError::NoneWorks {
                    missing: names(&missing),
                    fix: first_fix(&missing),
                }
            }),
    }
}

type Missing<'a> = Vec<(&'static str, &'a Finding)>;

fn missing_for(mode: Mode, features: &Features) -> Missing<'_> {
    let needed: &[(&'static str, &Finding)] = match mode {
        Mode::Erofs => &[
            ("erofs", &features.erofs),
            ("erofs on files", &features.erofs_file_backed),
        ],
        Mode::ErofsLoop => &[
            ("erofs", &features.erofs),
            ("loop devices", &features.loop_devices),
            ("erofs on loop devices", &features.erofs_loop),
        ],
        Mode::Fuse => &[("fuse", &features.fuse)],
    };
    needed
        .iter()
        .filter(|(_, finding)| !finding.found)
        .copied()
        .collect()
}

fn names(missing: &Missing<'_>) -> String {
    let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

fn first_fix(missing: &Missing<'_>) -> Option<String> {
    missing.iter().find_map(|(_, finding)| finding.fix.clone())
}

#[cfg(test)]
mod tests;
