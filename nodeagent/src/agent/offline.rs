//! What can be known, and done, of an instance whose daemons do not answer: its mount records are a
//! file in its run directory, and the kernel has the mounts.

use crate::agent::live::Extra;
use crate::agent::mounts::own::{self, Place};
use crate::api::{Failure, MountInfo, MountState};
use crate::instance::Instance;
use crate::mountd;
use lamina_mount::unmount::UnmountOptions;
use lamina_mount::unmount::mountinfo::{MountIdentity, MountTable};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A target that an instance has mounted, or is about to.
#[derive(Debug, Clone)]
pub struct RecordedTarget {
    target: PathBuf,
    flist: PathBuf,
    mode: String,
    shown: Option<MountIdentity>,
}

/// The targets recorded by an instance.
///
/// # Errors
/// When the record cannot be read.
pub fn recorded_targets(instance: &Instance) -> anyhow::Result<Vec<RecordedTarget>> {
    let records = mountd::read_records(instance.dir())?.into_iter();
    Ok(records
        .filter_map(|record| {
            let extra = Extra::decode(&record.extra);
            if extra.as_ref().is_some_and(|extra| extra.detached) {
                return None;
            }
            Some(RecordedTarget {
                target: record.target,
                mode: record.mode,
                shown: extra.as_ref().and_then(|extra| extra.shown),
                flist: extra.map_or(record.flist, |extra| extra.call.flist),
            })
        })
        .collect())
}

impl RecordedTarget {
    /// The directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether it is mounted now, maybe below another mount.
    pub fn is_mounted(&self) -> bool {
        let table = MountTable::read();
        table.is_ok_and(|table| own::place(&table, &self.target, self.shown) != Place::Gone)
    }

    /// What a listing says of it.
    pub fn info(&self) -> MountInfo {
        MountInfo {
            target: self.target.clone(),
            flist: self.flist.clone(),
            mode: self.mode.clone(),
            state: MountState::Degraded,
            note: "the daemons of its instance do not run".into(),
            profile: "none".into(),
            ..MountInfo::default()
        }
    }

    /// Takes the mount off its target without any daemon; the next agent of the instance forgets it.
    ///
    /// # Errors
    /// When it is in use, hidden by another mount, or stuck.
    pub fn unmount(&self, force: bool, timeout: Duration) -> Result<(), Failure> {
        let options = UnmountOptions {
            step_deadline: timeout / 4,
            detach: force,
            ..UnmountOptions::default()
        };
        own::take_down(&self.target, self.shown, &options)
    }
}
