//! Finding the mounts of a killed predecessor again: the mount daemon says what it was told, the
//! kernel says what is true.
//!
//! Always holds: what is mounted for a target is never taken down here, whatever fails; a mount that
//! cannot be served is kept as pending, shown as degraded, and tried again.

use super::close::take_down_own;
use super::detached::{id as id_of, record as record_of, unavailable};
use super::own::{self, Place};
use super::pending::{Again, Pending, dead};
use super::{Agent, MOUNTD_START_PATIENCE, Result};
use crate::agent::failure::{failure, refused};
use crate::agent::kernel;
use crate::agent::live::{Extra, LiveFlist, LiveMount};
use crate::api::{Failure, FailureKind};
use crate::mountd::{MountRecord, Watch};
use lamina_mount::union::UpperDirs;
use lamina_mount::unmount::mountinfo::MountTable;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

impl Agent {
    pub(super) fn adopt_now(&self) -> Result<()> {
        kernel::sweep_bounded(&self.config.state)?;
        // Both were started at the same moment, perhaps.
        self.await_mountd(MOUNTD_START_PATIENCE)?;
        let records = self.mountd()?.list_mounts();
        self.adopt_records(records.map_err(|error| unavailable(&error))?)
    }

    /// Tries again what could not be adopted, as far as the caller wants to wait for it.
    pub(super) fn retry_pending(&self, is_wanted: impl Fn(&Pending) -> bool) -> Result<()> {
        let again: Vec<MountRecord> = self
            .pending()
            .values()
            .filter(|pending| !pending.is_dead() && is_wanted(pending))
            .map(|pending| pending.record.clone())
            .collect();
        match again.is_empty() {
            true => Ok(()),
            false => self.adopt_records(again),
        }
    }

    fn adopt_records(&self, records: Vec<MountRecord>) -> Result<()> {
        let table = own::table()?;
        let mut gone = Vec::new();
        for record in records {
            let extra = Extra::decode(&record.extra);
            let is_detached = extra.as_ref().is_some_and(|extra| extra.detached);
            let shown = extra.as_ref().and_then(|extra| extra.shown);
            if is_detached || own::place(&table, &record.target, shown) == Place::Gone {
                gone.push((record, extra));
                continue;
            }
            let adopted = self.adopt_mounted(&record, extra.as_ref());
            self.note_outcome(record, extra, adopted);
        }
        // Before asking what is still read: these would be readers of their own.
        self.drop_unused_mount_points(&table);
        self.adopt_gone(gone)?;
        self.count_mounts();
        Ok(())
    }

    pub(super) fn note_outcome(
        &self,
        record: MountRecord,
        extra: Option<Extra>,
        adopted: Result<()>,
    ) {
        let mut pending = self.pending();
        let Err(why) = adopted else {
            pending.remove(&record.id);
            return;
        };
        let known = pending.get(&record.id);
        if known.is_none_or(|known| known.why.message != why.message) {
            let target = record.target.display();
            tracing::warn!(%target, %why, "a recorded mount cannot be served");
        }
        let again = Again::after(known.map(|known| known.again), Instant::now());
        let unserved = Pending {
            record,
            extra,
            why,
            again,
        };
        pending.insert(unserved.record.id.clone(), unserved);
    }

    fn adopt_mounted(&self, record: &MountRecord, extra: Option<&Extra>) -> Result<()> {
        let mount = self.adopt_one(record, extra)?;
        let target = mount.extra.call.target.clone();
        self.mounts().insert(target, mount);
        Ok(())
    }

    fn adopt_one(&self, record: &MountRecord, extra: Option<&Extra>) -> Result<Arc<LiveMount>> {
        let extra = extra.ok_or_else(unreadable)?;
        if record.is_dead() {
            return Err(dead());
        }
        let live = match self.served_already(extra) {
            Some(live) => {
                self.add_stores_again(extra);
                live
            }
            None => Arc::new(self.serve_again(record, extra)?),
        };
        Ok(Arc::new(LiveMount {
            flist: live,
            extra: extra.clone(),
            ready_us: 0.into(),
            upper: hold_upper(extra).map(Arc::new),
            docker_config: None,
        }))
    }

    /// Its flist, if another target or reader of it was found before.
    fn served_already(&self, extra: &Extra) -> Option<Arc<LiveFlist>> {
        let is_same =
            |m: &&Arc<LiveMount>| m.flist.digest == extra.digest && m.flist.watch == extra.watch;
        let shown = self.mounts().values().find(is_same).cloned();
        let found = shown.or_else(|| self.detached().iter().find(is_same).cloned());
        found.map(|mount| Arc::clone(&mount.flist))
    }

    /// It was read from these stores, too. Without them it is from the others.
    fn add_stores_again(&self, extra: &Extra) {
        let reopened = self.flists.reopen(&extra.digest);
        let added = reopened
            .map_err(|error| failure(error.kind(), &error))
            .and_then(|admitted| self.add_stores(&admitted, &extra.call));
        if let Err(why) = added {
            tracing::warn!(digest = %extra.digest, %why, "a mount's stores cannot be used");
        }
    }

    fn serve_again(&self, record: &MountRecord, extra: &Extra) -> Result<LiveFlist> {
        let admitted = self
            .flists
            .reopen(&extra.digest)
            .map_err(|error| failure(error.kind(), &error))?;
        let live = self.prepare(admitted, &extra.call, Some(record))?;
        let own = extra.mount_point.clone();
        Ok(LiveFlist {
            mode: extra.mode,
            watch: extra.watch,
            bdi: extra.bdi.clone(),
            mount_point: own.unwrap_or_else(|| live.mount_point.clone()),
            ..live
        })
    }

    /// Targets that are not mounted any more: their flists are served on while somebody reads them.
    fn adopt_gone(&self, gone: Vec<(MountRecord, Option<Extra>)>) -> Result<()> {
        if gone.is_empty() {
            return Ok(());
        }
        let mut mountd = self.mountd()?;
        let watches = mountd.list_watches().map_err(|error| unavailable(&error))?;
        for (record, extra) in gone {
            let was_target = extra.as_ref().is_none_or(|extra| !extra.detached);
            let left = extra
                .as_ref()
                .filter(|_| !record.is_dead())
                .and_then(|extra| extra.left(&watches));
            if let Some(left) = left.filter(|left| !self.keeps(left)) {
                let adopted = self.adopt_detached(&record, &left);
                let failed = adopted.is_err();
                self.note_outcome(record.clone(), extra, adopted);
                if failed {
                    continue;
                }
            }
            // What is kept has a record of its own, which may be this one.
            let is_kept = |mount: &Arc<LiveMount>| id_of(&mount.extra) == record.id;
            if self.detached().iter().any(is_kept) {
                continue;
            }
            mountd
                .remove_mount_record(&record.id)
                .map_err(|error| unavailable(&error))?;
            self.pending().remove(&record.id);
            if was_target {
                self.ended().insert(record.target);
            }
        }
        Ok(())
    }

    /// Whether what is left of a target is kept already: its union, or the flist by anybody.
    fn keeps(&self, left: &Extra) -> bool {
        match left.union {
            Some(union) => self.detached().iter().any(|m| m.extra.union == Some(union)),
            None => self.serves(left.watch),
        }
    }

    /// Whether a flist with this watch is shown or served already.
    fn serves(&self, watch: Option<Watch>) -> bool {
        let shown = self.mounts().values().any(|m| m.flist.watch == watch);
        shown || self.detached().iter().any(|m| m.flist.watch == watch)
    }

    fn adopt_detached(&self, record: &MountRecord, left: &Extra) -> Result<()> {
        let mount = self.adopt_one(record, Some(left))?;
        self.mountd()?
            .put_mount_record(record_of(&mount.flist, left))
            .map_err(|error| unavailable(&error))?;
        self.keep_detached(mount);
        Ok(())
    }

    /// Unmounts what a killed predecessor mounted for a target it never reached, and what nobody can
    /// serve any more. The own mount of a flist that a target shows stays, also while it is pending.
    pub(super) fn drop_unused_mount_points(&self, table: &MountTable) {
        let mut used: HashSet<PathBuf> = self
            .mounts()
            .values()
            .map(|mount| mount.flist.mount_point.clone())
            .collect();
        for pending in self.pending().values().filter(|p| !p.is_dead()) {
            let Some(extra) = &pending.extra else {
                // Nobody knows which one it is.
                return;
            };
            let usual = || self.config.instance.mount_point(&extra.digest.to_string());
            used.insert(extra.mount_point.clone().unwrap_or_else(usual));
        }
        let home = self.config.instance.dir().join("m");
        let stale = table
            .below(&home)
            .filter(|entry| !used.contains(&entry.mount_point));
        for entry in stale {
            take_down_own(&entry.mount_point);
        }
    }
}

/// The lock on UPPER ended with the agent that took it.
fn hold_upper(extra: &Extra) -> Option<UpperDirs> {
    let is_kept = extra.call.upper_bytes_max.is_none();
    let upper = extra.call.upper.as_ref().filter(|_| is_kept);
    let upper = upper.filter(|_| extra.union.is_some() || !extra.detached)?;
    UpperDirs::hold(upper)
        .inspect_err(|error| {
            let why = crate::chain(error);
            tracing::warn!(why, "others are not kept from using the UPPER of a mount");
        })
        .ok()
}

fn unreadable() -> Failure {
    refused(
        FailureKind::Other,
        "its record cannot be read; unmount it and mount it again",
    )
}
