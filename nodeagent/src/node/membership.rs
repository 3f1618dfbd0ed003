//! This node's place in its cluster: as the layerstore joins it, and as the machine's other processes read it.
//!
//! The agent outlives the pod of `lamina node` and is in the host's network, where service names mean nothing: the file
//! `cluster.json` in the run directory has addresses, and names a copy of the certificates that is on the host. Always:
//! a file is replaced as a whole; what cannot be looked up now stays as it was.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use lamina_discovery::client::{ClientConfig, ClientTls};

use crate::cluster_file::{ClusterFile, ServerNames};
use crate::layers::{Cluster, ClusterConfig};

/// The copy of the certificates, in the state directory.
const TLS_COPY: &str = "cluster-tls";
const TLS_FILES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];
/// Between two looks at what names stand for, and at the certificates.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How a node is part of a cluster.
#[derive(Debug, Clone)]
pub struct Membership {
    /// host:port of the replicas of discovery.
    pub discovery: Vec<String>,
    /// ip:port at which other nodes reach this one.
    pub endpoint: String,
    /// Directory of tls.crt, tls.key and ca.crt; `None`: without TLS, by explicit choice.
    pub tls_dir: Option<PathBuf>,
    /// Most bytes of layers.
    pub layers_bytes_max: Option<u64>,
}

impl Membership {
    /// Begins to look for discovery.
    pub(super) fn join(&self, node: &str) -> Result<Cluster> {
        let names = ServerNames::default();
        let tls = |server_name: String| {
            let dir = self.tls_dir.clone()?;
            Some(ClientTls { dir, server_name })
        };
        let discovery = ClientConfig {
            tls: tls(names.discovery),
            ..ClientConfig::new(self.discovery.clone())
        };
        let config = ClusterConfig {
            node: node.to_owned(),
            endpoint: self.endpoint.clone(),
            discovery,
            peers: tls(names.node),
        };
        Cluster::join(config).context("become part of the cluster")
    }
}

/// Takes away what an earlier process said of a cluster.
pub(super) fn forget(run_dir: &Path) -> Result<()> {
    let path = ClusterFile::path(run_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Who keeps the file.
pub(super) struct Keeper {
    pub(super) membership: Membership,
    pub(super) node: String,
    pub(super) state: PathBuf,
    pub(super) run_dir: PathBuf,
    pub(super) socket: PathBuf,
}

impl Keeper {
    /// Keeps the file current, until it is dropped or this node has been left: what was removed then stays so.
    pub(super) async fn keep(self, is_left: impl Fn() -> bool) {
        let mut addresses: Vec<String> = Vec::new();
        while !is_left() {
            let found = lookup(&self.membership.discovery).await;
            if !found.is_empty() {
                addresses = found;
            }
            if let Err(error) = self.write(&addresses) {
                tracing::warn!("tell the agent of the cluster: {error:#}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Writes what changed; nothing on a node that was left.
    fn write(&self, discovery: &[String]) -> Result<()> {
        if !self.run_dir.exists() {
            return Ok(());
        }
        let tls = match &self.membership.tls_dir {
            Some(dir) => Some(self.copy_tls(dir)?),
            None => None,
        };
        let file = ClusterFile {
            node: self.node.clone(),
            endpoint: self.membership.endpoint.clone(),
            discovery: discovery.to_vec(),
            tls,
            server_names: ServerNames::default(),
            socket: self.socket.clone(),
        };
        let text = serde_json::to_vec(&file).context("write the cluster's file as JSON")?;
        replace(&ClusterFile::path(&self.run_dir), &text)
    }

    fn copy_tls(&self, from: &Path) -> Result<PathBuf> {
        let to = self.state.join(TLS_COPY);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&to)
            .with_context(|| format!("make {}", to.display()))?;
        for name in TLS_FILES {
            let path = from.join(name);
            let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            replace(&to.join(name), &bytes)?;
        }
        Ok(to)
    }
}

/// What names stand for now; those that stand for nothing are left out.
async fn lookup(names: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for name in names {
        match tokio::net::lookup_host(name).await {
            Ok(addresses) => found.extend(addresses.map(|address| address.to_string())),
            Err(error) => tracing::debug!(name, %error, "look up discovery"),
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Replaces a file that only we may read, unless it has these bytes.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|known| known == bytes) {
        return Ok(());
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let part = path.with_file_name(name);
    let write = || {
        let mut options = std::fs::File::options();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn keeper(dir: &Path, tls_dir: Option<PathBuf>) -> Keeper {
        Keeper {
            membership: Membership {
                discovery: vec!["localhost:7070".into()],
                endpoint: "10.0.0.1:7150".into(),
                tls_dir,
                layers_bytes_max: None,
            },
            node: "n1".into(),
            state: dir.join("state"),
            run_dir: dir.to_owned(),
            socket: dir.join("node.sock"),
        }
    }

    #[tokio::test]
    async fn the_file_says_what_the_agent_needs() {
        let dir = tempfile::tempdir().unwrap();
        let addresses = lookup(&["localhost:7070".into(), "no.such.name.invalid:1".into()]).await;
        assert!(
            addresses.contains(&"127.0.0.1:7070".to_owned()),
            "{addresses:?}"
        );
        keeper(dir.path(), None).write(&addresses[..1]).unwrap();
        let path = ClusterFile::path(dir.path());
        let read = ClusterFile::read(dir.path()).unwrap().unwrap();
        let want = ClusterFile {
            node: "n1".into(),
            endpoint: "10.0.0.1:7150".into(),
            discovery: vec![addresses[0].clone()],
            tls: None,
            server_names: ServerNames::default(),
            socket: dir.path().join("node.sock"),
        };
        assert_eq!(read, want);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        forget(dir.path()).unwrap();
        forget(dir.path()).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn certificates_are_copied_and_kept_current() {
        let dir = tempfile::tempdir().unwrap();
        let tls = dir.path().join("tls");
        std::fs::create_dir_all(&tls).unwrap();
        let keeper = keeper(dir.path(), Some(tls.clone()));
        assert!(keeper.write(&[]).is_err(), "not half of them");
        for round in ["first", "second"] {
            for name in TLS_FILES {
                std::fs::write(tls.join(name), format!("{round} {name}")).unwrap();
            }
            keeper.write(&[]).unwrap();
            let copy = dir.path().join("state").join(TLS_COPY);
            let key = std::fs::read_to_string(copy.join("tls.key")).unwrap();
            assert_eq!(key, format!("{round} tls.key"));
            let mode = std::fs::metadata(copy.join("tls.key"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
            let file = ClusterFile::read(dir.path()).unwrap().unwrap();
            assert_eq!(file.tls, Some(copy));
        }
    }
}
