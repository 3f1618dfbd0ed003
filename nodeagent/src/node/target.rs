//! Targets of volumes: directories below the kubelet's, and nowhere else.
//!
//! What always holds: a text becomes a [`Target`] only if it is the plain path of a directory below
//! `pods` or `plugins` of the kubelet's directory; no symbolic link is followed on the way to it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, unlinkat};
use rustix::io::Errno;
use tonic::Code;

use super::error::NodeError;

/// Longest path the kernel takes, with its end.
const PATH_MAX: usize = 4095;
/// Longest name in it.
const NAME_MAX: usize = 255;
/// Where volumes are published and staged.
const HOMES: [&str; 2] = ["pods", "plugins"];
/// As the kubelet makes such directories.
const MODE: u32 = 0o750;

/// A directory that a volume may be mounted on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target {
    path: PathBuf,
    /// The names below the kubelet's directory.
    names: Vec<String>,
}

impl Target {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The kubelet's directory.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    kubelet: PathBuf,
    /// Where the host's root directory is seen.
    host_root: PathBuf,
}

impl Targets {
    pub(super) fn new(kubelet: PathBuf, host_root: PathBuf) -> Self {
        Self { kubelet, host_root }
    }

    /// Reads a target.
    pub(super) fn parse(&self, text: &str) -> Result<Target, NodeError> {
        let refused = |why: &str| {
            let shown: String = text.chars().take(100).collect();
            NodeError::invalid(format!("the target {shown:?} {why}"))
        };
        if text.len() > PATH_MAX || text.split('/').any(|name| name.len() > NAME_MAX) {
            return Err(refused("is too long for a path"));
        }
        if text.contains('\0') {
            return Err(refused("has a NUL in it"));
        }
        let kubelet = self.kubelet.to_str().unwrap_or_default();
        let below = text
            .strip_prefix(kubelet)
            .and_then(|rest| rest.strip_prefix('/'));
        let Some(below) = below else {
            let why = format!("is not below the kubelet's directory {kubelet}");
            return Err(refused(&why));
        };
        let names: Vec<String> = below.split('/').map(str::to_owned).collect();
        if names.iter().any(|n| matches!(n.as_str(), "" | "." | "..")) {
            return Err(refused("is no plain path: it has `.`, `..` or `//` in it"));
        }
        if names.len() < 2 || !HOMES.contains(&names[0].as_str()) {
            return Err(refused("is not below pods or plugins there"));
        }
        let path = text.into();
        Ok(Target { path, names })
    }

    /// Makes the directory, if it is missing. Says whether it was.
    pub(super) fn make(&self, target: &Target) -> Result<bool, NodeError> {
        let mut at = self.open()?;
        let mut made = false;
        for name in &target.names {
            at = match step(&at, name) {
                Err(Errno::NOENT) => {
                    match mkdirat(&at, name.as_str(), Mode::from_raw_mode(MODE)) {
                        Ok(()) => made = true,
                        Err(Errno::EXIST) => {}
                        Err(errno) => return Err(unusable(target, "make", errno)),
                    }
                    step(&at, name).map_err(|errno| unusable(target, "open", errno))?
                }
                found => found.map_err(|errno| unusable(target, "open", errno))?,
            };
        }
        Ok(made)
    }

    /// The directory, opened without asking what is mounted there; `None` if it is not there.
    pub(super) fn find(&self, target: &Target) -> Result<Option<OwnedFd>, NodeError> {
        let mut at = self.open()?;
        for name in &target.names {
            at = match step(&at, name) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(unusable(target, "open", errno)),
            };
        }
        Ok(Some(at))
    }

    /// Removes the directory, if it is there and empty.
    pub(super) fn remove(&self, target: &Target) -> Result<(), NodeError> {
        let Some((last, parents)) = target.names.split_last() else {
            return Ok(());
        };
        let mut at = self.open()?;
        for name in parents {
            at = match step(&at, name) {
                Ok(next) => next,
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(unusable(target, "open", errno)),
            };
        }
        match unlinkat(&at, last.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(unusable(target, "remove", errno)),
        }
    }

    fn open(&self) -> Result<OwnedFd, NodeError> {
        let below_root = self.kubelet.strip_prefix("/").unwrap_or(&self.kubelet);
        let path = self.host_root.join(below_root);
        let what = format!("open the kubelet's directory {}", path.display());
        File::open(&path)
            .map(OwnedFd::from)
            .map_err(|error| NodeError::disk(&what, &error))
    }
}

fn step(at: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(at, name, flags, Mode::empty(), resolve)
}

fn unusable(target: &Target, what: &str, errno: Errno) -> NodeError {
    let path = target.path.display();
    match errno {
        Errno::LOOP => {
            NodeError::invalid(format!("the target {path} has a symbolic link on the way"))
        }
        Errno::NOTDIR => NodeError::invalid(format!("the target {path} is no directory")),
        Errno::BUSY | Errno::NOTEMPTY => {
            let message = format!("the target {path} is in use by somebody else");
            NodeError::new(Code::FailedPrecondition, message)
        }
        errno => NodeError::disk(&format!("{what} the target {path}"), &errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(dir: &Path) -> Targets {
        std::fs::create_dir_all(dir.join("kubelet/pods")).unwrap();
        Targets::new("/kubelet".into(), dir.to_owned())
    }

    #[test]
    fn only_plain_paths_below_pods_and_plugins_are_targets() {
        let dir = tempfile::tempdir().unwrap();
        let targets = targets(dir.path());
        for good in ["/kubelet/pods/uid/mount", "/kubelet/plugins/x"] {
            assert_eq!(targets.parse(good).unwrap().path(), Path::new(good));
        }
        let long = format!("/kubelet/pods/{}", "x".repeat(10 << 10));
        let deep = format!("/kubelet/pods{}", "/x".repeat(5 << 10));
        let hostile = [
            "",
            "/",
            "kubelet/pods/a",
            "/kubelet",
            "/kubelet/pods",
            "/kubelet/pods/",
            "/kubeletx/pods/a",
            "/kubelet/seccomp/a",
            "/kubelet/pods/../../etc",
            "/kubelet/pods/./a",
            "/kubelet/pods//a",
            "/kubelet/pods/a\0b",
            "/etc",
            &long,
            &deep,
        ];
        for text in hostile {
            let error = targets.parse(text).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{text:?}");
            assert!(error.to_string().len() < 500);
        }
    }

    #[test]
    fn a_symbolic_link_on_the_way_is_refused_and_nothing_is_made_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let targets = targets(dir.path());
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("kubelet/pods/link")).unwrap();
        for path in ["/kubelet/pods/link", "/kubelet/pods/link/a"] {
            let target = targets.parse(path).unwrap();
            for outcome in [
                targets.make(&target).map(drop),
                targets.find(&target).map(drop),
            ] {
                assert_eq!(outcome.unwrap_err().code(), Code::InvalidArgument);
            }
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_target_is_made_once_and_removed_once() {
        let dir = tempfile::tempdir().unwrap();
        let targets = targets(dir.path());
        let target = targets.parse("/kubelet/pods/uid/volumes/mount").unwrap();
        assert!(targets.find(&target).unwrap().is_none());
        assert!(targets.make(&target).unwrap());
        assert!(!targets.make(&target).unwrap());
        assert!(targets.find(&target).unwrap().is_some());
        targets.remove(&target).unwrap();
        targets.remove(&target).unwrap();
        assert!(dir.path().join("kubelet/pods/uid/volumes").is_dir());
        let gone = targets.parse("/kubelet/pods/other/mount").unwrap();
        targets.remove(&gone).unwrap();
    }
}
