//! Finding the mounts of a killed predecessor again: the mount daemon says what it was told, the
//! kernel says what is true.

use super::Agent;
use crate::agent::failure::{Result, failure, refused};
use crate::agent::live::{Extra, LiveFlist};
use crate::api::FailureKind;
use crate::mountd::MountRecord;
use lamina_mount::unmount::mountinfo::MountTable;
use lamina_mount::unmount::{self, UnmountOptions};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

impl Agent {
    pub(super) fn adopt_now(self: &Arc<Self>) -> Result<()> {
        let mut mountd = self.mountd()?;
        let records = mountd
            .list_mounts()
            .map_err(|error| failure(FailureKind::Unavailable, &error))?;
        let table = MountTable::read().map_err(|error| failure(FailureKind::Other, &error))?;
        for record in records {
            let adopted = match table.on(&record.target) {
                Some(_) => self.adopt_one(&record),
                None => Err(refused(
                    FailureKind::NotFound,
                    "nothing is mounted there any more",
                )),
            };
            let Err(error) = adopted else { continue };
            tracing::warn!(target = %record.target.display(), %error, "give up a recorded mount");
            if table.on(&record.target).is_none()
                && let Err(error) = mountd.remove_mount_record(&record.id)
            {
                tracing::warn!(%error, "remove the record of a mount that is gone");
            }
        }
        self.drop_unused_mount_points(&table);
        Ok(())
    }

    fn adopt_one(&self, record: &MountRecord) -> Result<()> {
        let extra = Extra::decode(&record.extra)
            .ok_or_else(|| refused(FailureKind::Other, "its record cannot be read"))?;
        let live = if let Some(live) = self.live(&extra.digest) {
            live
        } else {
            let admitted = self
                .flists
                .reopen(&extra.digest)
                .map_err(|error| failure(error.kind(), &error))?;
            let live = self.prepare(admitted, &extra.call, Some(record))?;
            Arc::new(LiveFlist {
                mode: extra.mode,
                ..live
            })
        };
        self.remember(&live, extra, None);
        Ok(())
    }

    /// Unmounts what a killed predecessor mounted for a target it never reached.
    fn drop_unused_mount_points(&self, table: &MountTable) {
        let used: HashSet<PathBuf> = self
            .mounts()
            .values()
            .map(|mount| mount.flist.mount_point.clone())
            .collect();
        let home = self.config.instance.dir().join("m");
        let stale: Vec<PathBuf> = table
            .below(&home)
            .map(|entry| entry.mount_point.clone())
            .filter(|at| !used.contains(at))
            .collect();
        for at in stale {
            let options = UnmountOptions {
                detach: true,
                ..UnmountOptions::default()
            };
            if let Err(error) = unmount::unmount(&at, &options) {
                tracing::warn!(%error, "unmount what a killed agent left");
            }
        }
    }
}
