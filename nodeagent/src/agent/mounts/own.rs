//! Which mounts are ours: the kernel's table against what was noted when a target was attached.
//!
//! Always holds: a mount that is not ours is never taken for ours, and never taken down.

use crate::agent::failure::{Result, failure, of_io, refused};
use crate::api::{Failure, FailureKind};
use lamina_mount::unmount::mountinfo::{MountEntry, MountIdentity, MountTable};
use lamina_mount::unmount::{self, UnmountError, UnmountOptions};
use std::path::Path;

/// Mounts named in a refusal; a person needs a few.
const NAMED_MAX: usize = 4;

/// Where our mount of a target is.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::agent) enum Place<'t> {
    /// Nowhere on it.
    Gone,
    /// What a look at the target shows.
    OnTop,
    /// Hidden by another mount.
    Under(&'t MountEntry),
}

/// Looks for our mount on a target. Without an identity (noted by an agent before it was noted)
/// whatever is there is taken for it.
pub(in crate::agent) fn place<'t>(
    table: &'t MountTable,
    target: &'t Path,
    shown: Option<MountIdentity>,
) -> Place<'t> {
    let is_ours = |entry: &MountEntry| shown.is_none_or(|shown| entry.identity() == shown);
    match table.on(target) {
        Some(top) if is_ours(top) => Place::OnTop,
        Some(top) if table.stack(target).any(is_ours) => Place::Under(top),
        _ => Place::Gone,
    }
}

/// The kernel's table now.
pub(in crate::agent) fn table() -> Result<MountTable> {
    MountTable::read().map_err(|error| failure(of_io(&error), &error))
}

/// Takes down our mount of a target, if it is there and nothing else is on or below it.
pub(in crate::agent) fn take_down(
    target: &Path,
    shown: Option<MountIdentity>,
    options: &UnmountOptions,
) -> Result<()> {
    let table = table()?;
    match place(&table, target, shown) {
        Place::Gone => return Ok(()),
        Place::Under(top) => return Err(covered(target, top)),
        Place::OnTop => {}
    }
    let below: Vec<String> = table.below(target).take(NAMED_MAX).map(name).collect();
    if !below.is_empty() {
        let message = format!(
            "{} has other mounts below it: {}; unmount them first",
            target.display(),
            below.join(", ")
        );
        return Err(refused(FailureKind::Busy, message));
    }
    unmount::unmount(target, options)
        .map(drop)
        .map_err(|error| {
            let kind = match error {
                UnmountError::Busy { .. } => FailureKind::Busy,
                UnmountError::Stuck { .. } => FailureKind::Timeout,
                _ => FailureKind::Other,
            };
            failure(kind, &error)
        })
}

/// Our mount is there, but another lies on it.
pub(in crate::agent) fn covered(target: &Path, top: &MountEntry) -> Failure {
    let target = target.display();
    let message = format!(
        "{target} is hidden by a mount that is not Lamina's, {}; unmount that first (umount {target})",
        name(top)
    );
    refused(FailureKind::Busy, message)
}

fn name(entry: &MountEntry) -> String {
    let (at, source) = (entry.mount_point.display(), entry.source.display());
    format!("{} of {source} on {at}", entry.fs_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_mount_is_never_taken_for_ours() {
        let table = MountTable::parse(
            b"7 1 0:50 / /m ro - erofs x ro\n9 7 0:51 / /m rw - tmpfs y rw\n8 1 0:50 / /n ro - erofs x ro\n",
        );
        let ours = |id, minor| {
            Some(MountIdentity {
                id,
                device: (0, minor),
            })
        };
        let on = |target, shown| place(&table, Path::new(target), shown);
        assert_eq!(on("/n", ours(8, 50)), Place::OnTop);
        assert!(matches!(on("/m", ours(7, 50)), Place::Under(top) if top.fs_type == "tmpfs"));
        assert_eq!(on("/n", ours(8, 49)), Place::Gone, "an id used again");
        assert_eq!(on("/n", ours(7, 50)), Place::Gone, "another target's");
        assert_eq!(on("/x", None), Place::Gone);
        assert_eq!(on("/m", None), Place::OnTop);
    }
}
