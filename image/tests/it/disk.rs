//! What a directory on disk holds, in the same form as a flist's listing.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::images::{Content, Listing, Seen};

/// Everything below `root`, read by the kernel's own calls.
pub(crate) fn disk_listing(root: &Path) -> Listing {
    let mut out = Listing::new();
    let mut first = HashMap::new();
    let mut names = vec![String::new()];
    collect(root, "", &mut names);
    names.sort();
    // The flist walks a directory before its siblings that sort between.
    names.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    for name in names {
        let path = root.join(&name);
        let meta = path.symlink_metadata().unwrap();
        let twin = first
            .entry((meta.dev(), meta.ino()))
            .or_insert_with(|| name.clone())
            .clone();
        let kind = kind(&path, &meta);
        let content = if meta.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let seen = Seen {
            kind,
            perm: (meta.mode() & 0o7777) as u16,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap()),
            xattrs: xattrs(&path),
            content: Content::of(content),
            twin: if meta.is_dir() { name.clone() } else { twin },
        };
        out.insert(name, seen);
    }
    out
}

fn collect(root: &Path, at: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(at)).unwrap() {
        let entry = entry.unwrap();
        // In a directory of one layer only, overlayfs lists the whiteouts too,
        // and then says that they are not there.
        if entry.path().symlink_metadata().is_err() {
            continue;
        }
        let name = entry.file_name().into_string().unwrap();
        let path = if at.is_empty() {
            name
        } else {
            format!("{at}/{name}")
        };
        if entry.file_type().unwrap().is_dir() {
            collect(root, &path, names);
        }
        names.push(path);
    }
}

fn kind(path: &Path, meta: &std::fs::Metadata) -> String {
    let device = || {
        format!(
            "{}:{}",
            rustix::fs::major(meta.rdev()),
            rustix::fs::minor(meta.rdev())
        )
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        let to = std::fs::read_link(path).unwrap();
        format!(
            "link {}",
            String::from_utf8_lossy(to.as_os_str().as_bytes())
        )
    } else if kind.is_char_device() {
        format!("char {}", device())
    } else if kind.is_block_device() {
        format!("block {}", device())
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_socket() {
        "socket".to_owned()
    } else {
        "file".to_owned()
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut list).unwrap();
    list[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"trusted.overlay."))
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

/// These tests make devices and set owners.
pub(crate) fn require_root(test: &str) {
    assert!(
        rustix::process::geteuid().is_root(),
        "{test} needs root: it makes devices, owners and mounts"
    );
}
