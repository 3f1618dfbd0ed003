//! Control groups: which hierarchies are mounted, and whether they can be
//! used.

use std::io;
use std::path::{Path, PathBuf};

use super::Finding;
use crate::unmount::mountinfo::MountTable;

fn mounts(fs_type: &str) -> io::Result<Vec<PathBuf>> {
    let table = MountTable::read()?;
    let found: Vec<PathBuf> = table
        .entries()
        .iter()
        .filter(|entry| entry.fs_type == fs_type)
        .map(|entry| entry.mount_point.clone())
        .collect();
    if found.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("no {fs_type} is mounted"),
        ));
    }
    Ok(found)
}

pub(super) fn v1() -> Finding {
    Finding::of(
        "the mount table",
        memory_v1(),
        "commands are limited through cgroup v1",
        "cgroup v1 has no memory controller here",
        None,
    )
}

fn memory_v1() -> io::Result<()> {
    let usable = |mount: &Path| mount.join("memory.limit_in_bytes").exists();
    if mounts("cgroup")?.iter().any(|mount| usable(mount)) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "no mounted hierarchy has the memory controller",
    ))
}

pub(super) fn v2() -> Finding {
    Finding::of(
        "the mount table and cgroup.controllers",
        memory_v2(),
        "commands are limited through cgroup v2",
        "cgroup v2 has no memory controller here",
        Some("boot with systemd.unified_cgroup_hierarchy=1, or stay on cgroup v1"),
    )
}

fn memory_v2() -> io::Result<()> {
    let controllers = |mount: &Path| {
        std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
    };
    let usable = |mount: &PathBuf| controllers(mount).split_whitespace().any(|c| c == "memory");
    if mounts("cgroup2")?.iter().any(usable) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        "the mounted hierarchy does not have the memory controller",
    ))
}
