//! Removing from a node what an instance that has ended left there: mounts of its own, files, control groups.
//!
//! Done where the instance was: on the host, when this process is in a pod. What always holds: only what
//! Lamina makes is removed, by name; nothing on another file system than the directory it is in, so a disk
//! that somebody mounted there keeps what it has.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lamina_mount::unmount::{UnmountOptions, unmount_tree};

use crate::host;

/// What is in a state directory.
const STATE: [&str; 11] = [
    "bin",
    "cache",
    "images",
    "volumes",
    "warm",
    "layers",
    "cluster-tls",
    "profiles",
    "store",
    super::certificate::DIR,
    "node.lock",
];
/// Of it, where an instance mounts.
const MOUNTED: [&str; 2] = ["volumes", "warm"];

/// In kubelet's directory, where images are mounted for afslets.
const AFSLETS: &str = "plugins/afslet.lamina.dev";

/// Where to sweep.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    pub(super) state: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) kubelet_dir: PathBuf,
    /// The instance's directory in it.
    pub(super) instance: PathBuf,
    /// The paths are the host's, and so are the control groups.
    pub(super) outside_pod: bool,
}

impl Sweep {
    /// Removes everything, as far as possible; the first thing that could not be is the error.
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.outside_pod {
            true => host::visit(move || {
                let groups = host::remove_groups();
                self.files().and(groups)
            })?,
            false => self.files(),
        }
        .map_err(Into::into)
    }

    fn files(&self) -> io::Result<()> {
        let options = UnmountOptions {
            detach: true,
            abort_busy: true,
            ..UnmountOptions::default()
        };
        let homes = MOUNTED.iter().map(|name| self.state.join(name));
        for home in homes.chain([self.instance.clone()]) {
            unmount_below(&home, &options)?;
        }
        let mut first = Ok(());
        let state = STATE.iter().map(|name| self.state.join(name));
        let afslets = self.kubelet_dir.join(AFSLETS);
        for path in state.chain([afslets, self.run_dir.clone()]) {
            let removed = remove(&path);
            if let Err(error) = &removed {
                tracing::warn!(%error, "left on the node");
            }
            first = first.and(removed);
        }
        first
    }
}

/// What is mounted inside a directory of ours; not what may be mounted on it.
fn unmount_below(home: &Path, options: &UnmountOptions) -> io::Result<()> {
    let entries = match fs::read_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(|error| at(home, &error))?,
    };
    for entry in entries {
        unmount_tree(&entry?.path(), options).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Removes a file, or a directory with what is in it on its parent's file system.
fn remove(path: &Path) -> io::Result<()> {
    let device = match path.parent().map(fs::metadata) {
        Some(Ok(parent)) => parent.dev(),
        _ => return Ok(()),
    };
    match remove_on(path, device) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| at(path, &error)),
    }
}

fn remove_on(path: &Path, device: u64) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return fs::remove_file(path);
    }
    if meta.dev() != device {
        tracing::info!(path = %path.display(), "on another file system: it stays");
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        match remove_on(&entry?.path(), device) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
    }
    match fs::remove_dir(path) {
        // Something stays in it, and was said.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => removed,
    }
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("remove {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lamina_makes_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, run_dir) = (dir.path().join("state"), dir.path().join("run"));
        for name in ["bin", "volumes/v.upper", "store/packs/00", "theirs"] {
            fs::create_dir_all(state.join(name)).unwrap();
        }
        let kubelet = dir.path().join("kubelet");
        for name in ["afslet.lamina.dev/0a", "other"] {
            fs::create_dir_all(kubelet.join("plugins").join(name)).unwrap();
        }
        fs::create_dir_all(run_dir.join("instance/m")).unwrap();
        fs::write(state.join("bin/lamina-0"), "").unwrap();
        std::os::unix::fs::symlink(state.join("theirs"), state.join("images")).unwrap();
        let sweep = Sweep {
            state: state.clone(),
            run_dir: run_dir.clone(),
            kubelet_dir: kubelet.clone(),
            instance: run_dir.join("instance"),
            outside_pod: false,
        };
        sweep.clone().run().unwrap();
        assert!(!run_dir.exists());
        let plugins: Vec<_> = fs::read_dir(kubelet.join("plugins")).unwrap().collect();
        assert_eq!(plugins.len(), 1, "{plugins:?}");
        let left: Vec<_> = fs::read_dir(&state).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].file_name(), "theirs");
        sweep.run().unwrap();
    }
}
