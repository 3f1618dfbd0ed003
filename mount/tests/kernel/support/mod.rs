//! What every test here stands on: a namespace and a directory of its own,
//! trees packed into flists, and trees described as text for comparison.

pub(crate) mod mounts;
pub(crate) mod pack;
pub(crate) mod snapshot;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use lamina_mount::probe::{Features, probe};
use lamina_mount::unmount::{UnmountOptions, unmount_tree};
use nix::sched::CloneFlags;
use rustix::mount::MountPropagationFlags;

/// Prints why and ends the test.
macro_rules! skip {
    ($($reason:tt)*) => {{
        eprintln!("SKIP {}: {}", crate::support::test_name(), format!($($reason)*));
        println!("SKIP {}: {}", crate::support::test_name(), format!($($reason)*));
        return;
    }};
}
pub(crate) use skip;

pub(crate) fn test_name() -> String {
    std::thread::current().name().unwrap_or("?").to_owned()
}

/// What this kernel can do, probed once in the directory tests work in.
pub(crate) fn features() -> &'static Features {
    static FEATURES: LazyLock<Features> =
        LazyLock::new(|| probe(&base_directory()).expect("probing"));
    &FEATURES
}

/// How often something is done: less where `LAMINA_TEST_SLOW` says by how much
/// the machine is slower than most (an emulated one).
pub(crate) fn patient(count: usize) -> usize {
    let slow = std::env::var("LAMINA_TEST_SLOW").map_or(1, |n| n.parse().expect("a number"));
    count / usize::max(slow, 1)
}

fn base_directory() -> PathBuf {
    std::env::var_os("LAMINA_TEST_DIR").map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// A mount namespace for the calling thread and a directory in it. Everything
/// mounted below is taken down and everything written is removed at the end,
/// whatever happened in between.
pub(crate) struct Sandbox {
    directory: tempfile::TempDir,
}

impl Sandbox {
    /// `None`, said loudly, without root.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        // The thread's own namespace (and with it its own umask and working
        // directory); threads it starts inherit it.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .expect("private mounts");
        rustix::process::umask(rustix::fs::Mode::empty());
        let directory = tempfile::Builder::new()
            .prefix("lamina-test-")
            .tempdir_in(base_directory())
            .expect("a directory to work in");
        // Other users walk through it in the permission cases.
        rustix::fs::chmod(directory.path(), rustix::fs::Mode::from_raw_mode(0o755)).expect("chmod");
        Some(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a directory.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let options = UnmountOptions {
            step_deadline: Duration::from_secs(10),
            detach: true,
            ..UnmountOptions::default()
        };
        if let Err(error) = unmount_tree(self.path(), &options) {
            eprintln!("leaving mounts behind: {error}");
        }
    }
}

/// Makes a sandbox or skips the test.
macro_rules! sandbox {
    () => {
        match crate::support::Sandbox::new() {
            Some(sandbox) => sandbox,
            None => crate::support::skip!("needs root"),
        }
    };
}
pub(crate) use sandbox;
