//! An instance: the daemons that belong to one cache directory, and where their sockets are.
//!
//! ```text
//! <run dir>/<instance>/            0700, one instance
//!   cache                          the cache directory it belongs to, as text
//!   api.sock                       command line -> agent
//!   agent.sock                     mount daemon -> agent (fills)
//!   mountd.sock                    agent -> mount daemon
//!   holder.sock                    mount daemon -> holder
//!   agent.error                    why the agent cannot start, while it cannot
//!   m/<flist digest>/              one EROFS or FUSE mount per flist, bound to every target
//! ```

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Longest path of a socket: `sun_path` has 108 bytes, the last one ends it (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// Sockets in this run directory would have longer paths than the kernel takes.
#[derive(Debug, thiserror::Error)]
#[error(
    "the run directory {} is {excess} bytes too long: paths of sockets in it may have \
     {SOCKET_PATH_MAX} bytes; give another --run-dir", .run_dir.display()
)]
pub struct TooLong {
    /// The run directory.
    pub run_dir: PathBuf,
    /// Bytes beyond the limit.
    pub excess: usize,
}

/// Where an instance keeps its sockets and live state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    dir: PathBuf,
}

impl Instance {
    /// The instance of a cache directory. The directory must exist: its canonical path names it.
    ///
    /// # Errors
    /// When `cache` cannot be resolved.
    pub fn of_cache(run_dir: &Path, cache: &Path) -> io::Result<Self> {
        let canonical = cache.canonicalize()?;
        let name = blake3_name(canonical.as_os_str().as_encoded_bytes());
        Ok(Self {
            dir: run_dir.join(name),
        })
    }

    /// An instance whose directory is known.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Every instance below a run directory, in name order.
    ///
    /// # Errors
    /// When the run directory exists but cannot be read.
    pub fn all(run_dir: &Path) -> io::Result<Vec<Self>> {
        let entries = match std::fs::read_dir(run_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let dir = entry?.path();
            if dir.join("cache").is_file() {
                found.push(Self { dir });
            }
        }
        found.sort_by(|a, b| a.dir.cmp(&b.dir));
        Ok(found)
    }

    /// The directory of this instance's and all others' directories.
    pub fn run_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Checks that the kernel can name its sockets.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn check_sockets(&self) -> Result<(), TooLong> {
        let longest = self.mountd_socket();
        match longest.as_os_str().len().checked_sub(SOCKET_PATH_MAX) {
            None | Some(0) => Ok(()),
            Some(excess) => Err(TooLong {
                run_dir: self.run_dir().to_owned(),
                excess,
            }),
        }
    }

    /// Creates the instance's directory (mode 0700) and records its cache.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn create(&self, cache: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let canonical = cache.canonicalize()?;
        std::fs::write(
            self.dir.join("cache"),
            canonical.as_os_str().as_encoded_bytes(),
        )
    }

    /// The cache directory it belongs to.
    ///
    /// # Errors
    /// When that was never recorded.
    pub fn cache(&self) -> io::Result<PathBuf> {
        let path = std::fs::read(self.dir.join("cache"))?;
        Ok(OsString::from_vec(path).into())
    }

    /// The instance's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Socket of the agent's calls ([`crate::api`]).
    pub fn api_socket(&self) -> PathBuf {
        self.dir.join("api.sock")
    }

    /// Socket on which the mount daemon asks the agent to fill blobs.
    pub fn agent_socket(&self) -> PathBuf {
        self.dir.join("agent.sock")
    }

    /// Socket of the mount daemon.
    pub fn mountd_socket(&self) -> PathBuf {
        self.dir.join("mountd.sock")
    }

    /// Socket of the holder.
    pub fn holder_socket(&self) -> PathBuf {
        self.dir.join("holder.sock")
    }

    /// Where a flist's one mount is.
    pub fn mount_point(&self, digest: &str) -> PathBuf {
        self.dir.join("m").join(digest)
    }
}

/// Sixteen hex digits of the path's BLAKE3: short enough for `sun_path`, stable across restarts.
fn blake3_name(path: &[u8]) -> String {
    lamina_flist::ChunkId::of(path).to_string()[..16].to_owned()
}
