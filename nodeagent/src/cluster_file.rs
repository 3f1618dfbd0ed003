//! How the processes of a machine know their cluster: a file that `lamina node` keeps in the run directory.
//!
//! The agent outlives the pod of `lamina node`, and sees another network name space's addresses only; so everything in
//! it is an address, not a name, and the certificates are a copy on the host. Always: the file is replaced, never
//! changed; without it there is no cluster.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Its name in the run directory.
const NAME: &str = "cluster.json";
/// A few replicas and paths have some hundred bytes.
const BYTES_MAX: u64 = 64 << 10;

/// A node's place in its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// The node's id.
    pub node: String,
    /// ip:port of its layerstore, as other nodes reach it.
    pub endpoint: String,
    /// ip:port of the replicas of discovery.
    pub discovery: Vec<String>,
    /// Directory of `tls.crt`, `tls.key` and `ca.crt`, kept current; `None`: without TLS.
    pub tls: Option<PathBuf>,
    /// Names in the others' certificates.
    pub server_names: ServerNames,
    /// The Unix socket of `lamina node`.
    pub socket: PathBuf,
}

/// Names in the certificates of those who are dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerNames {
    /// Of discovery.
    pub discovery: String,
    /// Of nodes.
    pub node: String,
}

impl Default for ServerNames {
    fn default() -> Self {
        Self {
            discovery: "discovery.lamina.internal".into(),
            node: "node.lamina.internal".into(),
        }
    }
}

impl ClusterFile {
    /// Where it is.
    pub fn path(run_dir: &Path) -> PathBuf {
        run_dir.join(NAME)
    }

    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, belongs to somebody else, or is none.
    pub fn read(run_dir: &Path) -> io::Result<Option<Self>> {
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(Self::path(run_dir));
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let owner = file.metadata()?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other(format!("it belongs to uid {owner}")));
        }
        let mut text = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(io::Error::other(format!(
                "it has more than {BYTES_MAX} bytes"
            )));
        }
        Ok(Some(serde_json::from_slice(&text)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_anything_else_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ClusterFile::read(dir.path()).unwrap(), None);
        let text = r#"{"node":"n1","endpoint":"10.0.0.1:7150","discovery":["10.0.0.2:7070"],
            "tls":null,"server_names":{"discovery":"discovery.lamina.internal","node":"node.lamina.internal"},
            "socket":"/run/lamina/node.sock"}"#;
        std::fs::write(ClusterFile::path(dir.path()), text).unwrap();
        let read = ClusterFile::read(dir.path()).unwrap().unwrap();
        assert_eq!(read.node, "n1");
        assert_eq!(read.server_names, ServerNames::default());
        assert_eq!((read.tls, read.discovery.len()), (None, 1));
        for bad in ["", "{}", "[]", &"x".repeat(100_000)] {
            std::fs::write(ClusterFile::path(dir.path()), bad).unwrap();
            assert!(ClusterFile::read(dir.path()).is_err());
        }
        std::fs::write(ClusterFile::path(dir.path()), text).unwrap();
        std::os::unix::fs::chown(ClusterFile::path(dir.path()), Some(4242), None).unwrap();
        let foreign = ClusterFile::read(dir.path()).unwrap_err();
        assert!(foreign.to_string().contains("4242"), "{foreign}");
        std::fs::remove_file(ClusterFile::path(dir.path())).unwrap();
        std::os::unix::fs::symlink("/dev/zero", ClusterFile::path(dir.path())).unwrap();
        assert!(
            ClusterFile::read(dir.path()).is_err(),
            "a link is not followed"
        );
    }
}
