//! What runs left that were killed before they could take it down.

use super::rootfs;
use lamina_runtime::cgroup::Cgroups;
use lamina_runtime::slots::{self, Slot};
use std::path::Path;

/// Takes it down. What cannot be is said, and no reason not to run.
pub(super) fn sweep(home: &Path, run_dir: &Path, cgroups: &Cgroups) {
    match slots::abandoned(home) {
        Ok(left) => left
            .iter()
            .for_each(|slot| sweep_one(slot, run_dir, cgroups)),
        Err(error) => tracing::warn!(%error, "what earlier runs left cannot be looked for"),
    }
}

fn sweep_one(slot: &Slot, run_dir: &Path, cgroups: &Cgroups) {
    if let Err(error) = cgroups.sweep(&slot.cgroup_name()) {
        tracing::warn!(%error, "the cgroup of an earlier run cannot be removed yet");
    }
    if let Err(error) = rootfs::unmount(run_dir, &slot.dir().join("lower")) {
        tracing::warn!("the flist of an earlier run cannot be unmounted yet: {error:#}");
    }
}
