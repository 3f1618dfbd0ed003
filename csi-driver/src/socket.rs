//! Unix sockets that this process listens on: made fresh, reachable by root only, gone when it ends.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

use crate::identity::DRIVER;

/// A listening socket's file; removed when dropped, unless a successor has its own there by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode);
        if !ours || fs::remove_file(&self.path).is_err() {
            return;
        }
        // The driver's own directory among kubelet's plugins goes with its socket.
        let own = |parent: &&Path| parent.file_name().is_some_and(|name| name == DRIVER);
        if let Some(parent) = self.path.parent().filter(own) {
            let _ = fs::remove_dir(parent);
        }
    }
}

/// Listens at `path`, in place of a socket that an earlier process left there.
///
/// # Errors
///
/// A file there that is no socket is left alone; else what the system says.
pub fn listen(path: &Path) -> anyhow::Result<(UnixListener, SocketFile)> {
    let at = || format!("socket {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(at)?;
    }
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_socket() => fs::remove_file(path).with_context(at)?,
        Ok(_) => bail!(
            "{} is a file that is no socket: remove it or name another",
            path.display()
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(at),
    }
    let listener = UnixListener::bind(path).with_context(at)?;
    let inode = fs::symlink_metadata(path).with_context(at)?.ino();
    let file = SocketFile {
        path: path.to_owned(),
        inode,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(at)?;
    Ok((listener, file))
}

/// The path of an endpoint: `unix:///path`, `unix:/path` or `/path`.
///
/// # Errors
///
/// What is no absolute path.
pub fn endpoint(text: &str) -> Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.starts_with('/') && !path.ends_with('/') {
        return Ok(path.into());
    }
    Err(format!(
        "{text} is not the path of a Unix socket: write unix:///csi/csi.sock"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_by_table() {
        for text in ["unix:///a/b.sock", "unix:/a/b.sock", "/a/b.sock"] {
            assert_eq!(
                endpoint(text).as_deref(),
                Ok(Path::new("/a/b.sock")),
                "{text}"
            );
        }
        for text in ["", "unix://", "tcp://1.2.3.4:1", "a.sock", "unix:///a/"] {
            assert!(endpoint(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn the_drivers_own_directory_goes_with_its_socket_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        for (name, stays) in [(DRIVER, false), ("plugins_registry", true)] {
            let home = dir.path().join(name);
            let (_listener, file) = listen(&home.join("a.sock")).unwrap();
            drop(file);
            assert_eq!(home.exists(), stays, "{name}");
        }
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x/a.sock");
        let (first, file) = listen(&path).unwrap();
        std::mem::forget(file); // killed
        drop(first);
        let (_second, file) = listen(&path).unwrap();
        drop(file);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(listen(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
